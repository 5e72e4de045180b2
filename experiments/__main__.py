"""``python -m experiments task=... optimizer=... optimizer.nu=...``; ``-m`` sweeps; see README."""

import os
import sys
import traceback
from collections import Counter
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

# Launchers whose jobs run on this machine and write to this terminal.
HERE = ("basic", "joblib")
CONFIGS = str(Path(__file__).resolve().parents[1] / "configs")


@hydra.main(version_base="1.3", config_path=CONFIGS, config_name="config")
def run(config: DictConfig) -> None:
    """One run, in whatever process Hydra's launcher chose; a failed one does not stop the sweep."""
    import torch

    from experiments.common.config import validate
    from experiments.common.execution import execute
    from experiments.common.run import Interrupted

    settings = validate(config, HydraConfig.get().overrides.task)
    cpus = HydraConfig.get().launcher.get("cpus_per_task")  # submitit; joblib sees to it by itself
    if settings.threads is None and cpus:
        torch.set_num_threads(cpus)
    try:
        print(f"{execute(settings)}: {settings.folder}", flush=True)
    except Interrupted:
        print(f"interrupted: {settings.folder}; the same command resumes it", flush=True)
        raise
    except Exception as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        print(
            f"failed: {settings.folder}: {one_line(error)} ({place.filename}:{place.lineno}; "
            "the traceback is in its manifest.json)",
            file=sys.stderr,
            flush=True,
        )


def one_line(error: Exception) -> str:
    """An error's kind and its text."""
    return " ".join(f"{type(error).__name__}: {error}".split())


def main() -> int:
    """Check every setting of the command line, then let Hydra run them.

    Returns:
        exit status: 0, 1 where a run failed, 2 for bad input, 128 + n after signal n.
    """
    os.environ["HYDRA_FULL_ERROR"] = "1"  # exceptions reach us; we print the line
    flags = {argument for argument in sys.argv[1:] if argument.startswith("-")}
    if not flags <= {"-m", "--multirun"}:  # --help, --cfg and the like are Hydra's own
        run()
        return 0
    overrides = [argument for argument in sys.argv[1:] if argument not in flags]
    from experiments.common import config
    from experiments.common.execution import FINAL, check, outcome, status

    try:
        sweep = bool(flags) or any(text.startswith("figure=") for text in overrides)
        every = config.expand(overrides) if sweep else [config.compose_settings(overrides)]
        launcher = dict(text.split("=", 1) for text in overrides).get("hydra/launcher", "basic")
        for settings in every if launcher in HERE else ():
            check(settings)
        done = sum(status(settings) in FINAL for settings in every)
        tasks = ", ".join(
            f"{n} of {task}" for task, n in Counter(s.task_name for s in every).items()
        )
        print(f"runs: {tasks}; finished before: {done}", flush=True)
        for line in config.command_lines(overrides):
            jobs = config.for_hydra(line)
            sys.argv[1:] = ["--multirun", *jobs] if sweep else jobs
            for _ in every:  # anew for each worker that was killed, at most one a run
                try:
                    run()
                    break
                except Exception as error:
                    # joblib ends all its workers when one was killed.
                    if type(error).__name__ != "TerminatedWorkerError":
                        raise
                    print(f"failed: {one_line(error)}", file=sys.stderr, flush=True)
    except config.ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except Exception as error:  # of Hydra or its launcher
        print(f"failed: {one_line(error)}", file=sys.stderr)
        return 1
    outcomes = [outcome(settings) for settings in every]
    if launcher not in HERE:
        for settings, what in zip(every, outcomes, strict=True):
            if what == "failed":
                print(f"failed: {settings.folder}", file=sys.stderr)
    names = ("finished", "diverged", "busy", "failed")
    print(", ".join(f"{name}: {outcomes.count(name)}" for name in names), flush=True)
    return 1 if "failed" in outcomes else 0


if __name__ == "__main__":
    sys.exit(main())
