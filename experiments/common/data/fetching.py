"""Find an artefact on this machine or download it; a file with a wrong sha256 is never used."""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pooch
import yaml
from filelock import FileLock

from experiments.common import ROOT
from experiments.common.data.sources import Refused, Source, brief

log = logging.getLogger(__name__)

MIRROR = ROOT.parent / "shared" / "data"


class DataError(RuntimeError):
    """An artefact cannot be fetched.

    Args:
        brief: what is wrong and what to do, in one line.
        details: what was tried, as lines; the whole message is both.
    """

    def __init__(self, brief: str, details: str = "") -> None:
        super().__init__(brief + details)
        self.brief = brief


@dataclass(frozen=True)
class Artefact:
    """A named set of files, which is valid only if all its files are.

    Args:
        files: the sha256 of each file, by its path in the artefact's folder.
        bytes: the size of all files together.
        sources: the places to download the files from, in the order to try; none if they can only
            be put there by hand.
        licence: the licence of the files.
        citation: the authors of the files.
        folder: name of the artefact's folder in a mirror and in the cache.
    """

    files: Mapping[str, str]
    bytes: int
    sources: tuple[Source, ...]
    licence: str
    citation: str
    folder: str

    def faults(self, folder: Path) -> dict[str, str]:
        """The faults of this artefact's files in `folder`, by file; empty if all are valid."""
        found = {}
        for file, sha256 in self.files.items():
            try:
                actual = pooch.file_hash(folder / file)
            except FileNotFoundError:
                found[file] = "is missing"
            except OSError as error:
                found[file] = f"cannot be read ({error.strerror})"
            else:
                if actual != sha256:
                    found[file] = f"has the wrong sha256 {actual}"
        return found


def _table() -> dict[str, Artefact]:
    """The artefacts of `artefacts.yaml`, by name."""
    rows = yaml.safe_load(Path(__file__).with_name("artefacts.yaml").read_bytes())
    for name, row in rows.items():
        row.setdefault("folder", name)
        row["sources"] = tuple(Source(**source) for source in row["sources"])
    return {name: Artefact(**row) for name, row in rows.items()}


ARTEFACTS = _table()


def artefact(name: str) -> Artefact:
    """The artefact called `name`.

    Raises:
        DataError: there is no such artefact; the message names those that exist.
    """
    try:
        return ARTEFACTS[name]
    except KeyError:
        raise DataError(f"no artefact {name!r}; there are {', '.join(ARTEFACTS)}") from None


def cache() -> Path:
    """The cache: `laprop` in the user cache folder (on Linux `$XDG_CACHE_HOME` or `~/.cache`)."""
    return Path(pooch.os_cache("laprop"))


def mirrors() -> list[Path]:
    """The mirror folders, whether they exist or not: `$LAPROP_DATA` if set, `../shared/data`."""
    chosen = os.environ.get("LAPROP_DATA")
    return [Path(chosen).expanduser().absolute(), MIRROR] if chosen else [MIRROR]


def locate(name: str) -> Path | None:
    """The folder of a valid copy of an artefact on this machine, or None if there is none.

    Raises:
        DataError: there is no artefact of this name.
    """
    return _locate(artefact(name), [])


def _locate(wanted: Artefact, tried: list[str]) -> Path | None:
    """As `locate`, and add a line to `tried` for each place without a valid copy."""
    if not os.environ.get("LAPROP_DATA"):
        tried.append("$LAPROP_DATA: not set")
    for place in (*mirrors(), cache()):
        folder = place / wanted.folder
        if not folder.exists():
            tried.append(f"{folder}: no such folder")
            continue
        faults = wanted.faults(folder)
        if not faults:
            return folder
        tried.append(f"{folder}: {_listing(faults)}")
        wrong = {file: fault for file, fault in faults.items() if (folder / file).exists()}
        if wrong and place != cache():
            log.warning("%s: not used, %s", folder, _listing(wrong))
    return None


def _listing(faults: Mapping[str, str]) -> str:
    return ", ".join(f"{file} {fault}" for file, fault in faults.items())


def fetch(name: str) -> Path:
    """Get an artefact from this machine or, failing that, over the network.

    It looks in this order and stops at the first place where every file has its sha256:

    1. the mirror folders `$LAPROP_DATA` and `../shared/data` (relative to the repository root),
       which hold one folder per artefact and are only read;
    2. the cache;
    3. the artefact's sources, whose files then go to the cache.

    Several processes may fetch the same artefact at once, and any of them may be killed, because a
    file gets its name in the cache by a rename, after its sha256 was checked. A wrong file in the
    cache is deleted with a warning. A wrong file in a mirror folder is reported and left as it is.

    Args:
        name: a key of `ARTEFACTS`.

    Returns:
        The folder that holds the artefact's files. It may be a mirror, so nothing may be written
        there.

    Raises:
        DataError: there is no artefact of this name, or no place has it. In the latter case the
            message gives the reason for each place, and where to put the files by hand.
    """
    wanted = artefact(name)
    tried: list[str] = []
    if found := _locate(wanted, tried):
        return found
    folder = cache() / wanted.folder
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / ".lock"):
            if _download(wanted, folder, tried):
                return folder
    except OSError as error:
        tried.append(f"{folder}: cannot be written ({error})")
    raise DataError(
        f"no place serves {name}; python -m scripts.fetch_data {name} tries again, and says where "
        "to put its files by hand",
        ". Tried:\n"
        + "".join(f"  {line}\n" for line in tried)
        + f"By hand, put these files into {folder} or, with $LAPROP_DATA set, into "
        f"$LAPROP_DATA/{wanted.folder}:\n"
        + "\n".join(f"  {file}  sha256 {sha256}" for file, sha256 in wanted.files.items()),
    )


def _download(wanted: Artefact, folder: Path, tried: list[str]) -> bool:
    """Fill the cache's `folder` from the first source that works; the caller holds its lock.

    Returns:
        whether a source worked. Those that did not are added to `tried`.
    """
    faults = wanted.faults(folder)
    if not faults:
        return True  # Another process fetched it while this one waited for the lock.
    for file, fault in faults.items():
        if (folder / file).exists():
            log.warning("%s: deleted, because it %s", folder / file, fault)
            (folder / file).unlink()
    for leftover in folder.glob(".partial-*"):  # a killed process may have left its downloads
        shutil.rmtree(leftover)
    for source in wanted.sources:
        log.info("trying %s", source)
        with tempfile.TemporaryDirectory(prefix=".partial-", dir=folder) as temporary:
            # Whatever error a source raises, the next source is tried.
            try:
                source.download(list(wanted.files), Path(temporary))
                if wrong := wanted.faults(Path(temporary)):
                    raise Refused(f"{source}: {_listing(wrong)}")
                for file in wanted.files:
                    (folder / file).parent.mkdir(parents=True, exist_ok=True)
                    os.replace(Path(temporary, file), folder / file)
                return True
            except Exception as error:
                refused = isinstance(error, Refused)
                tried.append(str(error) if refused else f"{source}: {brief(error)}")
                log.warning("%s", tried[-1])
    return False
