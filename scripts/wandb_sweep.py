"""Make a sweep of Weights & Biases from overrides: ``python -m scripts.wandb_sweep -m task=...``.

The script takes the overrides of the runs and prints the YAML that ``wandb sweep`` takes. Each
agent then makes the runs of the grid one after the other and skips finished ones, as any sweep
does::

    python -m scripts.wandb_sweep -m task=mnist_divergence optimizer.nu=0.9,0.99 > sweep.yaml
    wandb sweep sweep.yaml
    wandb agent <what it printed>

The grid of a figure works in the same way: ``figure=fig12 scale=short``.
"""

import argparse
from collections.abc import Sequence
from typing import Any

import yaml

from experiments.common.config import command_lines, compose_settings, expand
from experiments.common.messages import ConfigError
from experiments.common.overrides import choices
from experiments.common.terminal import as_command


def sweep(overrides: Sequence[str], grid: int | None = None) -> dict[str, Any]:
    """The sweep's configuration.

    Args:
        overrides: overrides of the runs.
        grid: number of the grid, from 1, if a figure has several; a sweep of wandb takes only one.

    Raises:
        ConfigError: a setting is bad, there is nothing to sweep, or there are several grids and
            ``grid`` does not choose one.
    """
    overrides = [text for text in overrides if text != "tracking=wandb"]  # it is added below
    expand(overrides)  # check every run before an agent makes it
    lines, typed = command_lines(overrides), " ".join(overrides)
    if grid is None and len(lines) > 1:
        raise ConfigError(
            f"{typed}: a sweep takes one grid; choose it with --grid 1 to {len(lines)}"
        )
    if grid is not None and not 1 <= grid <= len(lines):
        raise ConfigError(f"--grid {grid}: {typed} has the grids 1 to {len(lines)}")
    fixed, parameters = [], {}
    for text in lines[(grid or 1) - 1]:
        single = choices(text)
        if len(single) == 1:
            fixed += single
        else:
            key = single[0].partition("=")[0]
            parameters[key] = {"values": [value.partition("=")[2] for value in single]}
    if not parameters:
        raise ConfigError(f"{typed}: one run is no sweep; give a key several values")
    first = [f"{key}={entry['values'][0]}" for key, entry in parameters.items()]
    settings = compose_settings([*fixed, *first])
    return {
        "name": f"{settings.figure or settings.task_name} {settings.scale}",
        "project": settings.tracking.project,
        "method": "grid",
        "program": "experiments",
        "command": [
            *("${env}", "${interpreter}", "-m", "${program}", *fixed),
            *("tracking=wandb", "${args_no_hyphens}"),
        ],
        "parameters": parameters,
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the sweep and return the exit status.

    Args:
        arguments: those of the command line; None: those of this process.
    """
    parser = argparse.ArgumentParser(
        prog="python -m scripts.wandb_sweep", description=__doc__.split(":")[0] + "."
    )
    parser.add_argument("overrides", nargs="+", metavar="KEY=VALUE", help="as for the runs")
    parser.add_argument("-m", "--multirun", action="store_true", help="as for the runs; not needed")
    parser.add_argument("--grid", type=int, help="number of the grid, from 1, if several")
    chosen = parser.parse_intermixed_args(arguments)
    print(yaml.safe_dump(sweep(chosen.overrides, chosen.grid), sort_keys=False), end="")
    return 0


if __name__ == "__main__":
    as_command(main)
