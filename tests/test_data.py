"""Fetching data: wrong files are never used, every source is tried, the data sets are right."""

import gzip
import hashlib
import http.server
import multiprocessing
import os
import re
import tarfile
import threading
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.queues import SimpleQueue
from pathlib import Path, PurePosixPath
from typing import ClassVar

import pytest
import torch

from experiments.common import data
from experiments.common.data import DataError, fetching
from experiments.common.data.fetching import Artefact
from experiments.common.data.packings import PACKINGS
from experiments.common.data.sources import Source
from experiments.common.execution import failure
from scripts import fetch_data

CONTENT = {"one.bin": b"1" * 1000, "deep/two.bin": bytes(range(256)) * 9}
FILES = {name: hashlib.sha256(content).hexdigest() for name, content in CONTENT.items()}


def write(folder: Path, content: Mapping[str, bytes] = CONTENT) -> Path:
    for name, b in content.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b)
    return folder


def read(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in CONTENT}


@dataclass
class Fake:
    """A source that serves ``content``, or fails where that is None."""

    name: str = "fake"
    content: Mapping[str, bytes] = field(default_factory=lambda: CONTENT)
    error: Exception | None = None
    calls: int = 0

    def __str__(self) -> str:
        return self.name

    def download(self, files: Sequence[str], folder: Path) -> None:
        self.calls += 1
        if self.error:
            raise self.error
        write(folder, self.content)


def toy(*sources: Source | Fake) -> Artefact:
    return Artefact(FILES, 3304, sources, licence="none", citation="none", folder="toy")


@dataclass
class Places:
    """The places where data may be, all below a temporary folder; the artefact's name is "toy"."""

    mirror: Path
    sibling: Path
    cache: Path
    sources: Callable[..., None]


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Places:
    chosen, sibling, cache = tmp_path / "chosen", tmp_path / "shared" / "data", tmp_path / "cache"
    monkeypatch.setenv("LAPROP_DATA", str(chosen))
    monkeypatch.setattr(fetching, "MIRROR", sibling)
    monkeypatch.setattr(fetching, "cache", lambda: cache)

    def sources(*sources: Source | Fake) -> None:
        monkeypatch.setitem(data.ARTEFACTS, "toy", toy(*sources))

    sources()
    return Places(chosen / "toy", sibling / "toy", cache / "toy", sources)


FAULTS = {
    "one bit": {**CONTENT, "one.bin": b"1" * 500 + b"0" + b"1" * 499},
    "truncated": {**CONTENT, "deep/two.bin": CONTENT["deep/two.bin"][:-1]},
    "empty": {**CONTENT, "one.bin": b""},
    "swapped": dict(zip(CONTENT, reversed(CONTENT.values()), strict=True)),
}
faulty = pytest.mark.parametrize("content", FAULTS.values(), ids=FAULTS.keys())


def wrong(content: Mapping[str, bytes]) -> set[str]:
    return {name for name in CONTENT if content[name] != CONTENT[name]}


@faulty
def test_wrong_mirror_file_is_named_left_alone_and_passed_over(
    places: Places, caplog: pytest.LogCaptureFixture, content: dict[str, bytes]
) -> None:
    write(places.mirror, content)
    write(places.sibling)
    assert data.fetch("toy") == places.sibling
    faults = [f"{name} has the wrong sha256" for name in CONTENT if name in wrong(content)]
    assert all(fault in caplog.text for fault in faults)
    assert f"{places.mirror}: not used, {faults[0]}" in caplog.text
    assert read(places.mirror) == content


@faulty
def test_wrong_cache_file_is_thrown_away_and_fetched_again(
    places: Places, caplog: pytest.LogCaptureFixture, content: dict[str, bytes]
) -> None:
    write(places.cache, content)
    with pytest.raises(DataError, match="has the wrong sha256"):
        data.fetch("toy")
    for name in wrong(content):
        assert f"{places.cache / name}: deleted, because it has the wrong sha256" in caplog.text
    assert {name for name in CONTENT if not (places.cache / name).exists()} == wrong(content)
    source = Fake()
    places.sources(source)
    assert data.fetch("toy") == places.cache
    assert read(places.cache) == CONTENT
    assert data.fetch("toy") == places.cache
    assert source.calls == 1


@faulty
def test_wrong_download_is_thrown_away_and_the_next_source_used(
    places: Places, caplog: pytest.LogCaptureFixture, content: dict[str, bytes]
) -> None:
    places.sources(Fake("first", content), Fake("second"))
    assert read(data.fetch("toy")) == CONTENT
    faults = [f"{name} has the wrong sha256" for name in CONTENT if name in wrong(content)]
    assert f"first: {faults[0]}" in caplog.text


def test_order_of_the_places(places: Places) -> None:
    first, second = Fake("first"), Fake("second")
    places.sources(first, second)
    assert data.locate("toy") is None
    assert data.fetch("toy") == places.cache
    assert (first.calls, second.calls) == (1, 0)
    write(places.sibling)
    assert data.fetch("toy") == places.sibling
    write(places.mirror)
    assert data.fetch("toy") == data.locate("toy") == places.mirror
    assert (first.calls, second.calls) == (1, 0)


def test_incomplete_mirror_is_passed_over(places: Places) -> None:
    write(places.mirror, {"one.bin": CONTENT["one.bin"]})
    places.sources(Fake())
    assert data.fetch("toy") == places.cache


def test_when_nothing_serves_the_error_says_all(
    places: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(places.sibling, {"one.bin": b"bad"})
    places.sources(
        Fake("server A", error=TimeoutError("timed out")),
        Fake("package B", error=RuntimeError("npm is not installed")),
        Fake("package C", error=KeyError()),
    )
    with pytest.raises(DataError) as caught:
        data.fetch("toy")
    bad = hashlib.sha256(b"bad").hexdigest()
    lines = [line.strip() for line in str(caught.value).splitlines()]
    assert lines == [
        "no place serves toy; python -m scripts.fetch_data toy tries again, and says where to put "
        "its files by hand. Tried:",
        f"{places.mirror}: no such folder",
        f"{places.sibling}: one.bin has the wrong sha256 {bad}, deep/two.bin is missing",
        f"{places.cache}: no such folder",
        "server A: timed out",
        "package B: npm is not installed",
        "package C: KeyError",
        f"By hand, put these files into {places.cache} or, with $LAPROP_DATA set, into "
        "$LAPROP_DATA/toy:",
        *(f"{name}  sha256 {sha256}" for name, sha256 in FILES.items()),
    ]
    assert failure(caught.value) == lines[0].removesuffix(". Tried:")
    write(places.cache)  # what the message tells the user to do
    assert data.fetch("toy") == places.cache
    monkeypatch.delenv("LAPROP_DATA")
    (places.cache / "one.bin").unlink()
    with pytest.raises(DataError, match=r"\$LAPROP_DATA: not set"):
        data.fetch("toy")


def test_unwritable_cache_is_a_reason(places: Places) -> None:
    places.cache.parent.write_text("a file where the cache folder should be")
    places.sources(Fake())
    with pytest.raises(DataError, match="cannot be written"):
        data.fetch("toy")


# The processes are forked, so that they have the test's folders and sources.
FORK = multiprocessing.get_context("fork")


@dataclass
class Slow(Fake):
    """A source that writes one file, touches ``started``, and serves after some seconds."""

    seconds: float = 0.0
    started: SimpleQueue = field(default_factory=FORK.SimpleQueue)

    def download(self, files: Sequence[str], folder: Path) -> None:
        write(folder, {"one.bin": CONTENT["one.bin"]})
        self.started.put("started")
        time.sleep(self.seconds)
        super().download(files, folder)


def test_killed_download_leaves_nothing_that_is_used(places: Places) -> None:
    source = Slow(seconds=600)
    places.sources(source)
    process = FORK.Process(target=data.fetch, args=("toy",))
    process.start()
    source.started.get()
    process.kill()
    process.join()
    assert list(places.cache.glob(".partial-*")), "the process was to be killed half way"
    assert data.locate("toy") is None
    places.sources(Fake())
    assert read(data.fetch("toy")) == CONTENT
    left = {path for path in places.cache.rglob("*") if path.is_file()}
    assert left == {places.cache / name for name in (*CONTENT, ".lock")}


def test_two_fetches_at_once_download_once(places: Places) -> None:
    source = Slow(seconds=1)
    places.sources(source)
    processes = [FORK.Process(target=data.fetch, args=("toy",)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    source.started.get()
    assert source.started.empty()
    assert read(places.cache) == CONTENT


# The sources, as far as they go without a network


class Handler(http.server.BaseHTTPRequestHandler):
    """A server of ``served``: for each path the content, and the length that the header claims."""

    served: ClassVar[dict[str, tuple[bytes, int]]] = {}

    def do_GET(self) -> None:
        if self.path not in self.served:
            self.send_error(404)
            return
        content, length = self.served[self.path]
        self.send_response(200)
        self.send_header("Content-Length", str(length))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        threading.Thread(target=httpd.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{httpd.server_port}"
        httpd.shutdown()


def test_server_with_each_file_alone(
    server: str, places: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed = {name: gzip.compress(content) for name, content in CONTENT.items()}
    served = {"/one.bin.gz": packed["one.bin"], "/a%20b/two.bin.gz": packed["deep/two.bin"]}
    monkeypatch.setattr(Handler, "served", {path: (b, len(b)) for path, b in served.items()})
    places.sources(Source(f"{server}/{{file}}.gz", "gzip", {"deep": "a%20b"}))
    assert read(data.fetch("toy")) == CONTENT


def test_server_that_breaks_off_or_refuses_is_a_reason(
    server: str, places: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = CONTENT["one.bin"]
    monkeypatch.setattr(Handler, "served", {"/short/one.bin": (content[:-9], len(content))})
    places.sources(Source(f"{server}/short/{{file}}"), Source(f"{server}/none/{{file}}"))
    with pytest.raises(DataError, match=r"991 bytes read, 9 more expected(.|\n)*404"):
        data.fetch("toy")
    places.sources(Source("http://127.0.0.1:9/{file}"))
    with pytest.raises(
        DataError, match=r"\n  http://127.0.0.1:9/one.bin: \[Errno 111\] Conn.*refused\n"
    ):
        data.fetch("toy")


def test_pip_takes_wheels_and_runs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shelf = tmp_path / "shelf"
    shelf.mkdir()
    with zipfile.ZipFile(shelf / "toy-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr(
            "toy-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: toy\nVersion: 1.0\n"
        )
        wheel.writestr("toy-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\n")
        wheel.writestr("toy-1.0.dist-info/RECORD", "")
    (tmp_path / "setup.py").write_text(f"open({str(tmp_path / 'sprung')!r}, 'w')")
    with tarfile.open(shelf / "trap-1.0.tar.gz", "w:gz") as sdist:
        sdist.add(tmp_path / "setup.py", "trap-1.0/setup.py")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(shelf))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    Source("pip:toy==1.0").download(["toy.whl"], tmp_path)
    assert zipfile.is_zipfile(tmp_path / "toy.whl")
    with pytest.raises(RuntimeError, match=r"trap==1\.0"):
        Source("pip:trap==1.0").download(["trap.whl"], tmp_path)
    assert not (tmp_path / "sprung").exists()


NPM = """#!/bin/sh
test "$1 $2" = "pack toy@1.0" || { echo "npm error code E404" >&2; exit 1; }
case " $* " in *" --ignore-scripts "*) echo tarball > toy-1.0.tgz ;; esac
"""


def test_npm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "npm").write_text(NPM)
    (tmp_path / "npm").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    Source("npm:toy@1.0").download(["toy.tgz"], tmp_path)
    assert (tmp_path / "toy.tgz").read_text() == "tarball\n"
    with pytest.raises(RuntimeError, match="npm error code E404"):
        Source("npm:toy@2.0").download(["toy.tgz"], tmp_path)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(RuntimeError, match="npm is not installed"):
        Source("npm:toy@1.0").download(["toy.tgz"], tmp_path)


# The table and the data sets themselves


@pytest.mark.parametrize("name", data.ARTEFACTS)
def test_rows_of_the_table_are_safe_and_complete(name: str) -> None:
    artefact = data.ARTEFACTS[name]
    assert artefact.licence
    assert artefact.citation
    for file, sha256 in artefact.files.items():
        path = PurePosixPath(artefact.folder, file)
        assert not path.is_absolute()
        assert ".." not in path.parts
        assert re.fullmatch("[0-9a-f]{64}", sha256)
    for source in artefact.sources:
        assert source.packing in PACKINGS
        assert re.match(r"https://|npm:[\w-]+@\d+(\.\d+)+$|pip:\w+==\d+(\.\d+)+$", source.url)
    if folder := data.locate(name):
        assert artefact.bytes == sum((folder / file).stat().st_size for file in artefact.files)


def test_mnist_is_mnist() -> None:
    train, test = data.mnist()
    assert train.images.shape == (60000, 784)
    assert test.images.shape == (10000, 784)
    assert train.images.dtype == torch.uint8
    assert train.labels.dtype == torch.int64
    # The published counts of each class, and the usual mean and deviation for normalising.
    assert train.labels.bincount().tolist() == [
        *(5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949)
    ]
    assert test.labels.bincount().tolist() == [
        *(980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009)
    ]
    pixels = train.images.double() / 255
    assert float(pixels.mean()) == pytest.approx(0.1307, abs=5e-5)
    assert float(pixels.std()) == pytest.approx(0.3081, abs=5e-5)


def test_cifar10_is_cifar10() -> None:
    train, test = data.cifar10()
    assert train.images.shape == (50000, 3, 32, 32)
    assert test.images.shape == (10000, 3, 32, 32)
    assert train.images.is_contiguous()
    assert train.labels.bincount().tolist() == [5000] * 10
    assert test.labels.bincount().tolist() == [1000] * 10
    # The usual mean colour for normalising.
    means = train.images.sum((0, 2, 3)) / (50000 * 32 * 32 * 255)
    assert means.tolist() == pytest.approx([0.4914, 0.4822, 0.4465], abs=5e-5)


def test_imdb_and_glove_are_what_they_should_be() -> None:
    train, test = data.imdb()
    for part in (train, test):
        assert len(part.texts) == 25000
        assert int(part.labels.sum()) == 12500
    unfavourable, favourable = test.texts[:12500], test.texts[12500:]
    assert sum("terrible" in t for t in unfavourable) > 3 * sum("terrible" in t for t in favourable)
    words, vectors = data.glove()
    assert vectors.shape == (len(words), 100)
    place = {word: i for i, word in enumerate(words)}

    def alike(a: str, b: str) -> float:
        return float(torch.cosine_similarity(vectors[place[a]], vectors[place[b]], 0))

    assert alike("film", "movie") > 0.8 > 0.2 > alike("film", "potassium")


# The command


def test_command(places: Places, capsys: pytest.CaptureFixture[str]) -> None:
    assert fetch_data.main(["toy", "--list"]) == 0
    assert re.fullmatch(r"toy +3,304 bytes  not here  \[none\]\n", capsys.readouterr().out)
    assert fetch_data.main(["toy"]) == 1
    assert "no place serves toy" in capsys.readouterr().err
    places.sources(Fake())
    assert fetch_data.main(["toy"]) == 0
    assert f"3,304 bytes  sha256 ok  {places.cache}" in capsys.readouterr().out


def test_command_refuses_an_unknown_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert fetch_data.main(["mnist", "mnits"]) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err == f"error: no artefact 'mnits'; there are {', '.join(data.ARTEFACTS)}\n"
