"""Metrics to Weights & Biases, if the user wants them there (``tracking=wandb``)."""

from __future__ import annotations

import os
from dataclasses import asdict
from typing import Any

from experiments.common.config import Settings


class Tracker:
    """Sends what a run logs to the tracker of its settings; to none by default.

    Runs of one figure form a group; a run's id is its key, so that a resumed run continues the
    same curve. Without an API key wandb writes to ``<output>/wandb`` for ``wandb sync`` later.
    """

    def __init__(self, settings: Settings) -> None:
        self._run: Any = None
        tracking = settings.tracking
        if tracking.name == "none":
            return
        # Its own log files would go to the home folder.
        os.environ.setdefault("WANDB_CACHE_DIR", str(settings.output.absolute() / "wandb"))
        import wandb

        mode = tracking.mode
        if mode == "auto":
            known = os.environ.get("WANDB_API_KEY") or wandb.api.api_key
            mode = "online" if known else "offline"
        self._run = wandb.init(
            project=tracking.project,
            entity=tracking.entity,
            mode=mode,
            dir=settings.output,
            id=settings.key,
            resume="allow" if mode == "online" else None,
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
        """Send the scalar final numbers and close; wandb marks a run that did not complete."""
        if self._run is not None:
            self._run.summary.update(
                {name: value for name, value in summary.items() if not isinstance(value, list)}
            )
            self._run.finish(exit_code=0 if completed else 1)
