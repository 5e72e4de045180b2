"""Make everything that is generated from the committed results: ``python -m scripts.build``.

The parts are ``figures`` (pictures and their index), ``claims`` (verdicts and the ledger),
``report`` (the site) and ``notebooks`` (executed again); without a name all are made. ``--check``
writes nothing, and exits with 1 if a committed file is not what its code makes now.
"""

import argparse
import subprocess
import sys

from experiments.common.terminal import as_command
from scripts import check_claims, make_discrepancies, make_figures, report
from scripts.generated import settle
from scripts.paper import drawn

PARTS = ("figures", "claims", "report", "notebooks")


def main() -> int:
    """Write, or check."""
    parser = argparse.ArgumentParser(description=__doc__.split(": ", 1)[0])
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}")
    parser.add_argument("--check", action="store_true", help="compare with the files, write none")
    arguments = parser.parse_args()
    if unknown := sorted(set(arguments.parts) - set(PARTS)):
        parser.error(f"{', '.join(unknown)}: unknown part; allowed are {', '.join(PARTS)}")
    parts, check = arguments.parts or PARTS, arguments.check
    failed = 0
    if "figures" in parts:
        failed |= settle(make_figures.files(drawn()) | make_figures.index_file(), check)
    if "claims" in parts:
        failed |= settle(check_claims.files(check_claims.rows()), check)
        failed |= settle(make_discrepancies.files(make_discrepancies.rows()), check)
    if "report" in parts and not check:  # the site is not committed
        report.build(report.SITE)
    if "notebooks" in parts:
        command = [sys.executable, "-m", "scripts.run_notebooks", *["--check"] * check]
        failed |= subprocess.run(command, check=False).returncode
    return failed


if __name__ == "__main__":
    as_command(main)
