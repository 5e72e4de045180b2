"""MNIST at 14 x 14 pixels, a quarter of the usual work, for tasks about the optimizer itself."""

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from experiments.common import data

SIDE = 14  # pixels


def load(device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """The training images, averaged over 2 x 2 pixels.

    Returns:
        pixels from 0 to 1, shape (60000, 196), and labels, int64, shape (60000,).
    """
    (images, labels), _ = data.mnist(device)
    return avg_pool2d(images.view(-1, 28, 28).to(dtype) / 255, 2).flatten(1), labels


def load_with_bias(device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """The same with a last feature that is always 1, shape (60000, 197), for linear models."""
    pixels, labels = load(device, dtype)
    return torch.cat([pixels, torch.ones_like(pixels[:, :1])], 1), labels
