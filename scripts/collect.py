"""Collect finished runs into tables: ``python -m scripts.collect figure=fig02``.

It takes the same overrides as the runs. The tables of a figure's whole grid are written to
``results/``, those of any other sweep to the output folder. An incomplete grid is refused without
``--partial``.
"""

import argparse

from experiments.common.collect import collect
from experiments.common.terminal import as_command


def main() -> int:
    """Collect, and say what there is now."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], prog="scripts.collect")
    parser.add_argument("overrides", nargs="+", metavar="KEY=VALUE", help="as for the runs")
    parser.add_argument("-m", "--multirun", action="store_true", help="as for the runs; not needed")
    parser.add_argument("--partial", action="store_true", help="take what is finished so far")
    arguments = parser.parse_intermixed_args()
    results = collect(arguments.overrides, partial=arguments.partial)
    programs = len(results.manifest["programs"])
    made = f", made by {programs} programs" if programs > 1 else ""
    if results.kept:
        runs = len(results.manifest["runs"])
        made += f"; {results.kept} of its {runs} runs were in it before and are kept"
    rows, whole = len(results.every_run), len(results.runs)
    of = "" if rows == whole else f" ({whole} of complete seeds, which alone decide claims)"
    print(f"{results.folder}: {rows} rows{of}, {results.label}{made}")
    return 0


if __name__ == "__main__":
    as_command(main)
