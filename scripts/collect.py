"""Promote finished runs to committed results: ``python -m scripts.collect figure=fig02``.

Takes the same overrides as the runs themselves. Refuses a figure whose grid is not complete.
"""

import sys

from experiments.common.config import ConfigError
from experiments.common.records import collect

if __name__ == "__main__":
    try:
        results = collect(sys.argv[1:])
    except ConfigError as error:
        sys.exit(f"error: {error}")
    print(f"{results.figure}: {len(results.runs)} rows, {results.label}")
