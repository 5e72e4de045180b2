"""Neural style transfer (paper 5.2 and C.3; Figures 3 and 9).

The set-up is that of the PyTorch tutorial "Neural Transfer Using PyTorch" (Jacq, Herring), except
that it starts from a black image and averages the style loss over the layers. A vectorised task:
optimizer.lr, mu, nu, epsilon and seed may be lists; each member trains its own image with the same
network, which takes the images in chunks. ``optimizer=lbfgs`` is the tutorial's optimizer, for
comparison.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
import torch
from annotated_types import Ge, Gt, MinLen, MultipleOf
from PIL import Image
from torch import Tensor
from torch.nn.functional import avg_pool2d, conv2d, max_pool2d, max_unpool2d
from torch.nn.grad import conv2d_input
from torch.optim import LBFGS

from experiments.common import data
from experiments.common.run import Run
from experiments.common.schema import settings
from laprop.functional import ALGORITHMS

# Raise this number with every change of the program that changes a number of a finished run by more
# than rounding. (Settings need no new version, since a run's key contains them.) In version 1 the
# style loss was the sum over the layers; in version 2 it is the mean.
VERSION = 2

OPTIMIZERS = (*ALGORITHMS, "lbfgs")  # L-BFGS in addition to the rules
AXES = ("optimizer.lr", "optimizer.mu", "optimizer.epsilon", "optimizer.nu", "seed")
LAYERS = ("conv1_1", "conv1_2", "conv2_1", "conv2_2", "conv3_1")  # the style loss takes all five
CONTENT = LAYERS.index("conv2_2")
POOLED = (LAYERS.index("conv1_2"), LAYERS.index("conv2_2"))
ROUND = 20  # evaluations in a step of L-BFGS, as many as torch's default max_iter
CHUNK = {"cpu": 4 * 128**2, "cuda": 16 * 512**2}  # pixels that go through the network at once
TILE = 128  # height in pixels of a picture in the montage


@settings
class Config:
    """Content of dancing.jpg, style of picasso.jpg.

    Attributes:
        size: height and width of the images; a multiple of 4.
        updates: T, the number of updates; for L-BFGS that of evaluations of loss and gradient.
        style_weight: factor of the style loss, the mean over the five layers (paper C.3; the
            tutorial has the sum) of the mean squared error of the Gram matrix, which is divided by
            channels x height x width.
        content_weight: factor of the content loss, the mean squared error of conv2_2.
        start_noise: seed 0 starts at black, the paper's image; every other seed adds noise uniform
            in [0, start_noise] to it. 1/255 is one grey level, which is invisible.
        weights: weights of VGG19, of which the first that can be fetched are used:
            ``torchvision``, the tutorial's; ``caffe``, those of Simonyan and Zisserman brought to
            the same scale.
        log_first: number of first updates (for L-BFGS evaluations) that are all logged.
        log_every: number of updates (evaluations) from one logged one to the next after these.
    """

    size: Annotated[int, Gt(0), MultipleOf(4)]
    updates: Annotated[int, Gt(0)]
    style_weight: Annotated[float, Ge(0)]
    content_weight: Annotated[float, Ge(0)]
    start_noise: Annotated[float, Gt(0)]
    weights: Annotated[list[Literal["torchvision", "caffe"]], MinLen(1)]
    log_first: Annotated[int, Ge(0)]
    log_every: Annotated[int, Gt(0)]


# The network --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class VGG:
    """VGG19 up to conv3_1, with the normalisation of RGB images in [0, 1] before it.

    Attributes:
        mean, std: (3, 1, 1); the first layer sees (image - mean) / std, padded with zeros.
        kernels: five of (out, in, 3, 3).
        biases: five of (out,).
    """

    mean: Tensor
    std: Tensor
    kernels: list[Tensor]
    biases: list[Tensor]

    def to(self, device: torch.device, dtype: torch.dtype = torch.float32) -> "VGG":
        """The network on another device, with kernels in the fastest memory format."""
        kernels = [k.to(device, dtype, memory_format=torch.channels_last) for k in self.kernels]
        mean, std, *biases = (x.to(device, dtype) for x in (self.mean, self.std, *self.biases))
        return VGG(mean, std, kernels, biases)

    def __call__(self, images: Tensor) -> tuple[list[Tensor], dict[int, Tensor]]:
        """The outputs of the five convolutions before their ReLU, on which the losses are taken.

        Args:
            images: (B, 3, size, size).

        Returns:
            per layer (B, channels, height, width); per pooled layer, the places of its maxima.
        """
        x, outputs, places = (images - self.mean) / self.std, [], {}
        for layer, (kernel, bias) in enumerate(zip(self.kernels, self.biases, strict=True)):
            x = conv2d(x, kernel, bias, padding=1)
            outputs.append(x)
            # Pooling before the ReLU gives the same, and the ReLU has a quarter of the work.
            if layer in POOLED:
                x, places[layer] = max_pool2d(x, 2, return_indices=True)
            x = x.relu()
        return outputs, places


def torchvision_weights() -> VGG:
    """The weights of the tutorial.

    Raises:
        DataError: they cannot be fetched.
    """
    path = data.fetch("vgg19") / "vgg19-dcbb9e9d.pth"
    state = torch.load(path, weights_only=True, mmap=True)
    numbers = (0, 2, 5, 7, 10)  # of the convolutions in torchvision's `features`
    return VGG(
        mean=torch.tensor([0.485, 0.456, 0.406])[:, None, None],
        std=torch.tensor([0.229, 0.224, 0.225])[:, None, None],
        kernels=[state[f"features.{i}.weight"].clone() for i in numbers],
        biases=[state[f"features.{i}.bias"].clone() for i in numbers],
    )


# The features of the Caffe weights are divided by this number of grey levels, a round number that
# brings the losses near the tutorial's. The tutorial's run (L-BFGS from the content image at 512
# pixels, 50 evaluations) ends here at a style loss of 0.70 and a content loss of 5.5; the tutorial
# documents 4.2 and 4.2.
CAFFE_UNIT = 100.0


def caffe_weights() -> VGG:
    """The weights of Simonyan and Zisserman, made to take RGB in [0, 1].

    They expect blue, green and red from 0 to 255, less the mean colour, so their features are in
    the tens and hundreds. The content would then be negligible at the style weight 1e6, since the
    style loss is of fourth order in the features and the content loss of second order. Dividing the
    input and all biases by ``CAFFE_UNIT`` divides all features by it, and changes nothing else.

    Raises:
        DataError: they cannot be fetched.
    """
    path = data.fetch("vgg19_caffe") / "vgg19_conv1_1_to_conv3_1_fp32.npz"
    with np.load(path, allow_pickle=False) as arrays:
        kernels = [torch.from_numpy(arrays[f"{name}_w"]).permute(3, 2, 0, 1) for name in LAYERS]
        biases = [torch.from_numpy(arrays[f"{name}_b"]) for name in LAYERS]
    return VGG(
        mean=torch.tensor([123.68, 116.779, 103.939])[:, None, None] / 255,
        std=torch.full((3, 1, 1), CAFFE_UNIT / 255),
        kernels=[kernels[0].flip(1), *kernels[1:]],
        biases=[bias / CAFFE_UNIT for bias in biases],
    )


WEIGHTS = {"torchvision": torchvision_weights, "caffe": caffe_weights}


def network(wanted: Sequence[str]) -> tuple[str, VGG]:
    """The first of the wanted weights that can be fetched, with their name.

    Raises:
        DataError: none can be fetched.
    """
    reasons = []
    for name in wanted:
        try:
            return name, WEIGHTS[name]()
        except data.DataError as error:
            reasons.append(error)
    brief = "; ".join(error.brief for error in reasons)
    raise data.DataError(brief, ":\n" + "\n".join(map(str, reasons)))


# The loss -----------------------------------------------------------------------------------------


def gram(output: Tensor) -> Tensor:
    """Gram matrices divided by the number of values, (B, C, height, width) to (B, C, C)."""
    features = output.flatten(2)
    return features @ features.mT / features[0].numel()


class Loss:
    """``style_weight`` times the style loss plus ``content_weight`` times the content loss.

    The style loss is the mean over the layers of the mean squared error of the Gram matrix (C.3).
    The gradient is computed by hand, with one matrix product per layer for the Gram matrix and one
    for its gradient, added in place. On a CPU core at 128 pixels autograd takes 1.4 times as long.

    Args:
        vgg: the network.
        style: image whose Gram matrices are the target, (1, 3, size, size).
        content: image whose conv2_2 is the target, (1, 3, size, size).
        style_weight: see :class:`Config`.
        content_weight: see :class:`Config`.
    """

    def __init__(
        self,
        vgg: VGG,
        style: Tensor,
        content: Tensor,
        style_weight: float = 1e6,
        content_weight: float = 1.0,
    ) -> None:
        self.vgg, self.style_weight, self.content_weight = vgg, style_weight, content_weight
        self.grams = [gram(output) for output in vgg(style)[0]]
        self.content = vgg(content)[0][CONTENT]

    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Weighted losses and gradient.

        Args:
            images: (B, 3, size, size).

        Returns:
            style (B,), content (B,), gradient of their sum (B, 3, size, size).
        """
        outputs, places = self.vgg(images)
        style = torch.zeros(len(images), dtype=images.dtype, device=images.device)
        gradient = torch.zeros_like(outputs[-1])
        share = self.style_weight / len(LAYERS)  # of a layer in the mean
        for layer in reversed(range(len(LAYERS))):
            output, below = outputs[layer], outputs[layer - 1] if layer else images
            error = gram(output) - self.grams[layer]
            channels, values = error.shape[1], output[0].numel()
            style += share * error.square().mean((1, 2))
            error *= 4 * share / (channels**2 * values)
            if layer == CONTENT:
                distance = output - self.content
                content = self.content_weight * distance.square().mean((1, 2, 3))
                gradient.add_(distance, alpha=2 * self.content_weight / values)
            gradient = gradient.flatten(2).baddbmm_(error, output.flatten(2)).view_as(output)
            size = (*below.shape[:2], *output.shape[2:])
            gradient = conv2d_input(size, self.vgg.kernels[layer], gradient, padding=1)
            if layer - 1 in places:
                gradient = max_unpool2d(gradient, places[layer - 1], (2, 2))
            if layer:
                # The gradient of the ReLU: 0 where below <= 0. This is one pass over memory. The
                # several passes of `gradient *= below > 0` make the whole loss a tenth slower.
                gradient = torch.ops.aten.threshold_backward(gradient, below, 0)
        return style, content, gradient / self.vgg.std


# Images -------------------------------------------------------------------------------------------


def picture(name: str, size: int) -> Tensor:
    """One of the tutorial's images, which are square, as (1, 3, size, size) in [0, 1].

    Raises:
        DataError: it cannot be fetched.
    """
    with Image.open(data.fetch("style_images") / f"{name}.jpg") as file:
        resized = file.convert("RGB").resize((size, size), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.array(resized)).permute(2, 0, 1)[None] / 255


def start(cfg: Config, run: Run) -> Tensor:
    """The first image of each member, (B, 3, size, size)."""
    seeds, stream = run.grid.codes("seed")
    shape = (3, cfg.size, cfg.size)
    images = [
        cfg.start_noise * torch.rand(shape, generator=run.generator("start", seed))
        if seed
        else torch.zeros(shape)
        for seed in seeds
    ]
    chosen = torch.stack(images).to(run.device)[stream]
    return chosen.contiguous(memory_format=torch.channels_last)


def save_pictures(images: Tensor, run: Run) -> None:
    """Write each member's picture as ``pictures/<number>.png``, and ``montage.jpg``.

    The montage shows the pictures of the first seed at a reduced size, with nu from left to right
    and the other axes downward.

    Args:
        images: (B, 3, size, size) in [0, 1].
        run: the run whose folder they are written to.
    """
    folder = run.folder / "pictures"
    folder.mkdir(exist_ok=True)

    def file(image: Tensor) -> Image.Image:
        pixels = (255 * image.nan_to_num()).round().byte().permute(1, 2, 0)
        return Image.fromarray(pixels.contiguous().cpu().numpy())

    for number, image in enumerate(images):
        file(image).save(folder / f"{number}.png")
    _, stream = run.grid.codes("seed")
    tiles = avg_pool2d(images[stream == 0], math.ceil(images.shape[-1] / TILE))
    columns = run.grid.frame["optimizer.nu"].nunique(dropna=False)
    rows = tiles.unflatten(0, (-1, columns)).permute(2, 0, 3, 1, 4)
    file(rows.flatten(3).flatten(1, 2)).save(run.folder / "montage.jpg", quality=90)


# Training -----------------------------------------------------------------------------------------


def updates(cfg: Config) -> int:
    """Updates of a run."""
    return cfg.updates


def train(cfg: Config, run: Run) -> None:
    """Make T updates or evaluations; the regret is the mean of their T losses.

    The loss of the best image is unknown and the same for all optimizers; it is not subtracted.
    """
    weights, vgg = network(cfg.weights)
    style, content = (picture(n, cfg.size).to(run.device) for n in ("picasso", "dancing"))
    objective = Loss(vgg.to(run.device), style, content, cfg.style_weight, cfg.content_weight)
    minimise = by_lbfgs if run.config.optimizer.name == "lbfgs" else by_updates
    with torch.backends.cudnn.flags(enabled=True, benchmark=True, allow_tf32=False):
        images, total, last = minimise(cfg, run, objective)
    run.summary(regret=total / cfg.updates, final_loss=last, weights=weights)
    save_pictures(images, run)


def is_logged(cfg: Config, number: int) -> bool:
    """Whether the loss of an update or evaluation, counted from 1, is logged."""
    return number <= cfg.log_first or number % cfg.log_every == 0 or number == cfg.updates


def by_updates(cfg: Config, run: Run, objective: Loss) -> tuple[Tensor, Tensor, Tensor]:
    """T updates of every member, each followed by a clamp to [0, 1].

    Returns:
        images (B, 3, size, size), float64 sum of the T losses (B,), last loss (B,). The loss of an
        update is that of the image before the update.
    """
    algorithm = run.algorithm
    chunk = max(1, CHUNK[run.device.type] // cfg.size**2)
    images = start(cfg, run)
    carry: dict[str, Any] = {
        "images": images,
        "state": algorithm.init(images),
        "total": torch.zeros(len(images), dtype=torch.float64, device=run.device),
        "last": torch.zeros(len(images), device=run.device),
    }
    run.track(carry=carry)
    for step in run.steps(cfg.updates):
        parts = zip(*map(objective, carry["images"].split(chunk)), strict=True)
        style_loss, content_loss, gradient = map(torch.cat, parts)
        loss = style_loss + content_loss
        carry |= {"total": carry["total"] + loss, "last": loss}
        images, carry["state"] = algorithm.step(
            carry["images"], gradient, carry["state"], **run.hyper(step)
        )
        carry["images"] = images.clamp(0, 1)
        if is_logged(cfg, step + 1):
            run.log(step + 1, loss=loss, content_loss=content_loss)
    return carry["images"], carry["total"], carry["last"]


def by_lbfgs(cfg: Config, run: Run, objective: Loss) -> tuple[Tensor, Tensor, Tensor]:
    """T evaluations of loss and gradient by L-BFGS, one search per member, as the tutorial does it.

    It is torch's L-BFGS, with all defaults but lr. It keeps 100 pairs of vectors: at 512 pixels
    630 MB for each member, in memory and in each checkpoint.

    Returns:
        the same as :func:`by_updates`, with evaluations in the place of updates.
    """
    images = start(cfg, run).contiguous()  # L-BFGS reads image and gradient as one vector
    rates = run.grid["optimizer.lr"].tolist()
    optimizers = [LBFGS([i], lr=lr) for i, lr in zip(images.split(1), rates, strict=True)]
    carry: dict[str, Any] = {
        "total": torch.zeros(len(images), dtype=torch.float64, device=run.device),
        "last": torch.zeros(len(images), device=run.device),
    }
    run.track(images=images, carry=carry)
    run.track(**{f"optimizer{number}": optimizer for number, optimizer in enumerate(optimizers)})
    for turn in run.steps(math.ceil(cfg.updates / ROUND)):
        before = turn * ROUND
        count = min(ROUND, cfg.updates - before)
        met = [evaluations(optimizer, objective, count) for optimizer in optimizers]
        losses, content_losses = (torch.stack(rows, 1) for rows in zip(*met, strict=True))
        carry |= {"total": carry["total"] + losses.double().sum(0), "last": losses[-1]}
        for number, (loss, content_loss) in enumerate(
            zip(losses, content_losses, strict=True), before + 1
        ):
            if is_logged(cfg, number):
                run.log(number, loss=loss, content_loss=content_loss)
    return images.clamp(0, 1), carry["total"], carry["last"]


def evaluations(optimizer: LBFGS, objective: Loss, count: int) -> tuple[Tensor, Tensor]:
    """Make one step of L-BFGS; the image is clamped to [0, 1] before each evaluation.

    Args:
        optimizer: the optimizer of one image, (1, 3, size, size).
        objective: gives loss and gradient.
        count: number of evaluations. If L-BFGS makes fewer because one of torch's tolerances is
            met, the last evaluation stands for the missing ones.

    Returns:
        loss (count,), content loss (count,).
    """
    (image,) = optimizer.param_groups[0]["params"]
    optimizer.param_groups[0]["max_iter"] = count
    losses, content_losses = [], []

    def closure() -> Tensor:
        image.clamp_(0, 1)
        style, content, gradient = objective(image.contiguous(memory_format=torch.channels_last))
        image.grad = gradient.contiguous()
        losses.append(style + content)
        content_losses.append(content)
        return losses[-1]

    optimizer.step(closure)
    left = count - len(losses)
    return (
        torch.cat(losses + left * losses[-1:]),
        torch.cat(content_losses + left * content_losses[-1:]),
    )
