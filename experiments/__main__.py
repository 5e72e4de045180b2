"""``python -m experiments task=... optimizer=... optimizer.nu=...``; ``-m`` sweeps; see README."""

import os
import sys
from collections import Counter

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig


@hydra.main(version_base="1.3", config_path="../configs", config_name="config")
def run(config: DictConfig) -> None:
    """One run, in whatever process Hydra's launcher chose."""
    from experiments.common.config import validate
    from experiments.common.run import execute

    settings = validate(config, HydraConfig.get().overrides.task)
    print(f"{execute(settings)}: {settings.folder}", flush=True)


def main() -> int:
    """Check every setting of the command line, then let Hydra run them.

    Returns:
        exit status: 0, 1 where a run failed, 2 for bad input.
    """
    os.environ["HYDRA_FULL_ERROR"] = "1"  # exceptions reach us; we print the line
    flags = {argument for argument in sys.argv[1:] if argument.startswith("-")}
    if not flags <= {"-m", "--multirun"}:  # --help, --cfg and the like are Hydra's own
        run()
        return 0
    overrides = [argument for argument in sys.argv[1:] if argument not in flags]
    from experiments.common.config import ConfigError, compose_settings, expand, with_grid
    from experiments.common.run import FINAL, status

    try:
        sweep = bool(flags) or any(override.startswith("figure=") for override in overrides)
        every = expand(overrides) if sweep else [compose_settings(overrides)]
        done = sum(status(settings) in FINAL for settings in every)
        tasks = ", ".join(f"{n} of {task}" for task, n in Counter(s.task_name for s in every).items())
        print(f"runs: {tasks}; finished before: {done}", flush=True)
        if sweep:
            sys.argv[1:] = ["--multirun", *with_grid(overrides)]
        run()
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except Exception as error:
        print(f"failed: {type(error).__name__}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
