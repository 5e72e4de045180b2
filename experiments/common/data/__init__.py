"""Data sets as tensors, and other artefacts as files: `data.mnist()`, `data.fetch("gpt2_bpe")`.

A new artefact needs a row in `artefacts.yaml` and, if it is read as tensors, a loader here.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from experiments.common.data.fetching import ARTEFACTS, DataError, artefact, fetch, locate

__all__ = [
    "ARTEFACTS",
    "DataError",
    "Labelled",
    "Reviews",
    "artefact",
    "cifar10",
    "fetch",
    "glove",
    "imdb",
    "king_james",
    "locate",
    "mnist",
]


class Labelled(NamedTuple):
    """Images and their classes."""

    images: Tensor
    labels: Tensor


class Reviews(NamedTuple):
    """Texts and whether each is favourable."""

    texts: list[str]
    labels: Tensor


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

    def split(part: str) -> Labelled:
        # The header of an idx file has 4 bytes, and 4 for each dimension.
        images = _bytes(folder / f"{part}-images-idx3-ubyte", start=4 + 4 * 3).view(-1, 28 * 28)
        labels = _bytes(folder / f"{part}-labels-idx1-ubyte", start=4 + 4 * 1).long()
        return Labelled(images.to(device), labels.to(device))

    return split("train"), split("t10k")


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
        # For each image its class, and its red, green and blue plane.
        records = torch.cat([_bytes(folder / name).view(-1, 1 + 3 * 32 * 32) for name in names])
        images = records[:, 1:].contiguous().view(-1, 3, 32, 32)
        return Labelled(images.to(device), records[:, 0].long().to(device))

    return split(*(f"data_batch_{i}.bin" for i in range(1, 6))), split("test_batch.bin")


def imdb() -> tuple[Reviews, Reviews]:
    """The Large Movie Review Dataset, fetched if need be.

    Returns:
        The training and the test set of 25,000 reviews each, in English with HTML line breaks.
        ``labels`` is bool (25000,); the first half is False, that is unfavourable.

    Raises:
        DataError: as `fetch`.
    """
    folder = fetch("imdb")

    def split(part: str) -> Reviews:
        texts = _lines(folder / f"{part}-neg.txt") + _lines(folder / f"{part}-pos.txt")
        return Reviews(texts, torch.arange(25000) >= 12500)

    return split("train"), split("test")


def glove() -> tuple[list[str], Tensor]:
    """GloVe word vectors (6B tokens, 100 dimensions), fetched if need be.

    Returns:
        the words, from the most to the least frequent, and their vectors, float32 (words, 100),
        which are read from disk when they are used.

    Raises:
        DataError: as `fetch`.
    """
    folder = fetch("glove")
    words = _lines(folder / "words.txt")
    size = len(words) * 100
    path = str(folder / "vectors.f32")
    return words, torch.from_file(path, size=size, dtype=torch.float32).view(-1, 100)


def king_james() -> str:
    """The King James Bible, fetched if need be: 4.2 million characters, a verse on each line.

    Raises:
        DataError: as `fetch`.
    """
    verses = json.loads((fetch("king_james") / "verses-1769.json").read_bytes())
    # "# " marks the first verse of a paragraph.
    return "\n".join(verse.removeprefix("# ") for verse in verses.values())


def _bytes(path: Path, start: int = 0) -> Tensor:
    """The bytes of a file from `start` on, uint8."""
    return torch.from_numpy(np.fromfile(path, np.uint8, offset=start))


def _lines(path: Path) -> list[str]:
    r"""The lines of a file, which end in \n; other line breaks belong to the text."""
    return path.read_bytes().decode().split("\n")[:-1]
