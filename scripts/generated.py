"""Write generated files, or check that the committed ones are up to date."""

import sys
from collections.abc import Mapping
from pathlib import Path

from experiments.common import ROOT
from experiments.common.files import write


def settle(files: Mapping[Path, bytes], check: bool) -> int:
    """Write the files whose content is stale; with ``check`` only name them.

    Returns:
        exit status: 1 if a check found a stale file, else 0.
    """
    stale = [path for path, new in files.items() if not path.exists() or path.read_bytes() != new]
    for path in stale:
        shown = path.relative_to(ROOT) if path.is_relative_to(ROOT) else path
        if check:
            print(f"stale: {shown}; run python -m scripts.build", file=sys.stderr)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            write(path, files[path])
            print(f"written: {shown}")
    return int(check and bool(stale))
