"""Metrics to Weights & Biases, if the user wants them there (``tracking=wandb``)."""

from __future__ import annotations

import os
from dataclasses import asdict
from typing import Any

from experiments.common.config import Settings

FILES = (".yaml", ".json", ".jsonl", ".csv", ".jpg")  # of a run's folder, what goes along


class Tracker:
    """Sends what a run logs to the tracker of its settings; to none by default.

    Runs of one figure form a group; a run's id is its key, so that a resumed run continues the
    same curve (in a sweep of wandb's it is the agent's). A completed run's files go along as an
    artifact. Without an API key wandb writes to ``<output>/wandb`` for ``wandb sync`` later.
    """

    def __init__(self, settings: Settings) -> None:
        self._run: Any = None
        self._settings = settings
        tracking = settings.tracking
        if tracking.name == "none":
            return
        # Its own log files and copies of artifacts would go to the home folder.
        for name in ("WANDB_CACHE_DIR", "WANDB_DATA_DIR"):
            os.environ.setdefault(name, str(settings.output.absolute() / "wandb"))
        import wandb

        mode = tracking.mode
        if mode == "auto":
            known = os.environ.get("WANDB_API_KEY") or wandb.api.api_key
            mode = "online" if known else "offline"
        agents = "WANDB_SWEEP_ID" in os.environ  # whose runs have ids of its own
        self._run = wandb.init(
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

    def log(self, record: dict[str, Any]) -> None:
        """Send one record; a batch's lists arrive as histograms.

        Its step is wandb's own, which takes no step twice: what a resumed run repeats is dropped.
        """
        if self._run is not None:
            import wandb

            numbers = {
                name: wandb.Histogram([v for v in value if v is not None])
                if isinstance(value, list)
                else value
                for name, value in record.items()
            }
            self._run.log(numbers, step=record["step"])

    def finish(self, summary: dict[str, Any], completed: bool) -> None:
        """Send the scalar final numbers and the files, and close.

        wandb marks a run that did not complete; it has no artifact yet.
        """
        if self._run is None:
            return
        self._run.summary.update(
            {name: value for name, value in summary.items() if not isinstance(value, list)}
        )
        if completed:
            import wandb

            settings = self._settings
            artifact = wandb.Artifact(f"{settings.task_name}-{settings.key}", type="run")
            for path in sorted(settings.folder.iterdir()):
                if path.suffix in FILES:
                    artifact.add_file(str(path))
            self._run.log_artifact(artifact)
        self._run.finish(exit_code=0 if completed else 1)
