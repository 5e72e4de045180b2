"""Turn a figure's grid into a sweep of Weights & Biases.

The script takes the overrides of the runs and prints the YAML that ``wandb sweep`` takes. Each
agent then runs cells of the grid one after the other and skips finished ones, as any sweep does::

    python -m scripts.wandb_sweep figure=fig12 scale=short > sweep.yaml
    wandb sweep sweep.yaml
    wandb agent <what it printed>
"""

import sys
from collections.abc import Sequence
from typing import Any

import yaml

from experiments.common.config import ConfigError, choices, command_lines, compose_settings, expand


def sweep(overrides: Sequence[str]) -> dict[str, Any]:
    """The sweep's configuration.

    Raises:
        ConfigError: for a bad setting, where there is nothing to sweep, or where the figure has
            several grids.
    """
    expand(overrides)  # checks every cell before an agent runs it
    lines = command_lines(overrides)
    if len(lines) > 1:
        raise ConfigError(
            f"{' '.join(overrides)}: its grid is {len(lines)} grids, one sweep takes one; "
            "write its settings out"
        )
    fixed, parameters = [], {}
    for text in lines[0]:
        single = choices(text)
        if len(single) == 1:
            fixed += single
        else:
            key = single[0].partition("=")[0]
            parameters[key] = {"values": [value.partition("=")[2] for value in single]}
    if not parameters:
        raise ConfigError(f"{' '.join(overrides)}: one run is no sweep; give a key several values")
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


if __name__ == "__main__":
    try:
        print(yaml.safe_dump(sweep(sys.argv[1:]), sort_keys=False), end="")
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
