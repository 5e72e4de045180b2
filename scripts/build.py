"""Make what is generated from the committed results: ``python -m scripts.build [PART ...]``.

The parts are ``figures`` (pictures and their index), ``claims`` (verdicts and discrepancies),
``report`` (the site) and ``notebooks`` (executed again); without a name all are made. ``--check``
writes nothing, and exits with 1 if a committed file is not what its code makes now.
"""

import argparse
import subprocess
import sys

from experiments.common.terminal import as_command
from scripts import check_claims, discrepancies, index, make_figures, readme, report
from scripts.generated import settle
from scripts.paper import drawn


def _figures(check: bool) -> int:
    return settle(make_figures.files(drawn()) | index.files(), check)


def _claims(check: bool) -> int:
    table = check_claims.rows()
    for row in table:
        print(f"{row['figure']:16} {row['verdict']:28} {row['says']}")
    new = check_claims.files(table) | readme.files(table)
    return settle(new | discrepancies.files(discrepancies.rows()), check)


def _report(check: bool) -> int:
    if not check:  # the site is not committed
        report.build(report.SITE)
    return 0


def _notebooks(check: bool) -> int:
    command = [sys.executable, "-m", "scripts.run_notebooks", *["--check"] * check]
    return subprocess.run(command, check=False).returncode


PARTS = {"figures": _figures, "claims": _claims, "report": _report, "notebooks": _notebooks}


def main() -> int:
    """Write, or check."""
    parser = argparse.ArgumentParser(description=__doc__.split(": ", 1)[0])
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}")
    parser.add_argument("--check", action="store_true", help="compare with the files, write none")
    arguments = parser.parse_args()
    if unknown := sorted(set(arguments.parts) - set(PARTS)):
        parser.error(f"{', '.join(unknown)}: unknown part; allowed are {', '.join(PARTS)}")
    chosen = arguments.parts or PARTS
    failed = [make(arguments.check) for name, make in PARTS.items() if name in chosen]
    return int(any(failed))


if __name__ == "__main__":
    as_command(main)
