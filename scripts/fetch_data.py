"""Fetch data before the runs need it: ``python -m scripts.fetch_data [names...]``."""

from __future__ import annotations

import argparse
import logging
import sys

from experiments.common import data
from experiments.common.terminal import as_command


def main(arguments: list[str] | None = None) -> int:
    """Print a line for each artefact: name, size, whether its sha256 is right, folder, licence.

    Returns:
        exit status: 0, 1 if an artefact could not be fetched, 2 for an unknown name.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="artefacts, all if none is named")
    parser.add_argument("--list", action="store_true", help="only list what is on this machine")
    options = parser.parse_args(arguments)
    # on stderr, where the progress bars are
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    names = options.names or list(data.ARTEFACTS)
    try:
        wanted = {name: data.artefact(name) for name in names}
    except data.DataError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    status = 0
    for name, artefact in wanted.items():
        try:
            folder = data.locate(name) if options.list else data.fetch(name)
        except data.DataError as error:
            print(f"error: {error}", file=sys.stderr)
            folder, status = None, 1
        found = f"sha256 ok  {folder}" if folder else "not here"
        print(f"{name:14}{artefact.bytes:>13,} bytes  {found}  [{artefact.licence}]", flush=True)
    return status


if __name__ == "__main__":
    as_command(main)
