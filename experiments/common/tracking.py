"""Sends metrics to Weights & Biases or TensorBoard, if the user asks for it (``tracking=...``)."""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

import numpy as np

from experiments.common import progress
from experiments.common.messages import ConfigError, one_line
from experiments.common.settings import Settings, Tracking

FILES = (".yaml", ".json", ".jsonl", ".csv", ".jpg")  # types of a run's files that wandb uploads
PACKAGES = ("wandb", "tensorboard")  # each tracker is named after the package that it needs


def tracker(settings: Settings, records: Iterable[dict[str, Any]]) -> Tracker:
    """The tracker of a run's settings.

    Args:
        settings: settings of the run.
        records: the earlier records of a resumed run, which the tracker may not have.
    """
    kinds = {"none": Tracker, "wandb": Wandb, "tensorboard": TensorBoard}
    return kinds[settings.tracking.name](settings, records)


def check(settings: Tracking) -> None:
    """Check, before any run begins, that the tracker can be used on this machine.

    Raises:
        ConfigError: its package is missing, wandb refuses the project, or it needs an API key.
    """
    name = settings.name
    if name in PACKAGES and importlib.util.find_spec(name) is None:
        raise ConfigError(f"tracking={name}: not installed; pip install 'laprop[{name}]' first")
    if name != "wandb":
        return
    import wandb

    try:
        wandb.Settings(project=settings.project)
    except Exception as error:
        raise ConfigError(f"tracking.project={settings.project}: {one_line(error)}") from None
    mode = _mode(settings)
    try:
        wandb.Settings(mode=mode)
    except Exception:
        raise ConfigError(f"WANDB_MODE={mode}: must be online, offline or disabled") from None
    if mode == "online" and not _api_key():
        raise ConfigError(
            "tracking.mode=online: needs an API key, by wandb login or in WANDB_API_KEY; "
            "offline needs none"
        )


def _api_key() -> str | None:
    """The key of wandb that is known on this machine."""
    import wandb

    return os.environ.get("WANDB_API_KEY") or wandb.api.api_key


def _mode(settings: Tracking) -> Any:  # a text of any kind until wandb has checked it
    """The mode of wandb: that of the settings, else of its own variable, else by the API key."""
    if settings.mode != "auto":
        return settings.mode
    return os.environ.get("WANDB_MODE") or ("online" if _api_key() else "offline")


class Tracker:
    """Base of the trackers, to which a run sends its records and summary; this one ignores them."""

    def __init__(self, settings: Settings, records: Iterable[dict[str, Any]]) -> None:
        pass

    def log(self, record: dict[str, Any]) -> None:
        """Send one record; the lists of a batch become histograms."""

    def finish(self, summary: dict[str, Any], completed: bool) -> None:
        """Send the final numbers and close; ``completed`` tells whether the run is finished."""


def singled(numbers: dict[str, Any]) -> dict[str, Any]:
    """Numbers with lists of one element, as a vectorised task of one member logs, as numbers."""
    return {
        key: value[0] if isinstance(value, list) and len(value) == 1 else value
        for key, value in numbers.items()
    }


def scalars(summary: dict[str, Any]) -> dict[str, Any]:
    """The final numbers and texts of a run of one member; those of a batch are left out."""
    return {k: value for k, value in singled(summary).items() if not isinstance(value, list)}


class Wandb(Tracker):
    """Weights & Biases.

    Runs of one figure form a group. A run's id is its key, so that a resumed run continues the same
    curve; in a sweep of wandb its agent chooses the id. The files of a completed run are uploaded
    as an artifact. Without an API key wandb writes to ``<output>/wandb`` for a later ``wandb
    sync``. A resumed run then writes a new file, and syncing replaces the old one by it, so the new
    file has to contain the earlier records too.
    """

    def __init__(self, settings: Settings, records: Iterable[dict[str, Any]]) -> None:
        self._settings = settings
        tracking = settings.tracking
        # By default wandb's log files and copies of artifacts would go to the home folder.
        for variable in ("WANDB_CACHE_DIR", "WANDB_DATA_DIR"):
            os.environ.setdefault(variable, str(settings.output.absolute() / "wandb"))
        import wandb

        mode = _mode(tracking)
        agents = "WANDB_SWEEP_ID" in os.environ  # an agent of wandb chooses the id
        self._run: Any = wandb.init(
            project=tracking.project,
            entity=tracking.entity,
            mode=mode,
            dir=settings.output,
            id=None if agents else settings.key,
            resume="allow" if mode == "online" and not agents else None,
            name=f"{settings.task_name}-{settings.optimizer.name}-{settings.key[:6]}",
            group=settings.figure or settings.task_name,
            job_type=settings.scale,
            config=settings.decisive() | {"tracking": asdict(tracking)},
        )
        # Online this sends the records after the last that arrived, offline all records.
        for record in records:
            if record["step"] >= self._run.starting_step:
                self.log(record)

    def log(self, record: dict[str, Any]) -> None:
        """Send one record.

        wandb takes each step only once, so it drops the records that a resumed run repeats.
        """
        import wandb

        numbers = {
            key: wandb.Histogram([v for v in value if v is not None])
            if isinstance(value, list)
            else value
            for key, value in singled(record).items()
        }
        self._run.log(numbers, step=record["step"])

    def finish(self, summary: dict[str, Any], completed: bool) -> None:
        """Send the final numbers that are not lists, and the files of a completed run.

        wandb marks an incomplete run as failed; it gets no artifact.
        """
        self._run.summary.update(scalars(summary))
        if completed:
            import wandb

            settings = self._settings
            artifact = wandb.Artifact(f"{settings.task_name}-{settings.key}", type="run")
            for path in sorted(settings.folder.iterdir()):
                if path.suffix in FILES and path.name != progress.NAME:  # it is deleted at the end
                    artifact.add_file(str(path))
            self._run.log_artifact(artifact)
        self._run.finish(exit_code=0 if completed else 1)


class TensorBoard(Tracker):
    """TensorBoard: ``tensorboard --logdir <output>/tensorboard`` shows all runs, also in progress.

    A resumed run writes all its records again, since the last ones before a kill may be lost. The
    settings and the final numbers of completed runs are in the tab of hyper-parameters.
    """

    def __init__(self, settings: Settings, records: Iterable[dict[str, Any]]) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._settings = settings
        name = f"{settings.task_name}-{settings.optimizer.name}-{settings.key}"
        folder = settings.output / "tensorboard" / name
        shutil.rmtree(folder, ignore_errors=True)
        self._writer = SummaryWriter(str(folder))
        for record in records:
            self.log(record)

    def log(self, record: dict[str, Any]) -> None:
        """Send one record; a number that is NaN or infinite leaves a gap."""
        for key, value in singled(record).items():
            if isinstance(value, list):
                finite = [v for v in value if v is not None]
                if finite:
                    self._writer.add_histogram(key, np.array(finite), record["step"])
            elif value is not None and key != "step":
                self._writer.add_scalar(key, value, record["step"])

    def finish(self, summary: dict[str, Any], completed: bool) -> None:
        """Send settings and final numbers of a completed run, and close."""
        if completed:
            settings = self._settings
            flat = {
                f"{group}.{key}": value if isinstance(value, int | float) else str(value)
                for group in ("optimizer", "task")
                for key, value in asdict(getattr(settings, group)).items()
            }
            numbers = {
                f"final/{key}": value
                for key, value in scalars(summary).items()
                if isinstance(value, int | float)
            }
            hyper = {"seed": str(settings.seed), "optimizer": settings.optimizer.name} | flat
            self._writer.add_hparams(hyper, numbers, run_name=".")
        self._writer.close()
