"""ResNet-20 on CIFAR-10 over mu and nu (paper C.7, Figures 12 to 15).

The network of He et al. (2016, section 4.2) in the version of bearpaw/pytorch-classification, which
the authors used. Where the number of channels changes, its shortcut is a 1 x 1 convolution with
BatchNorm, so the net has 272,474 parameters. With the parameter-free shortcut of He et al. (option
A: every second pixel, new channels zero) it has 269,722. Both round to the 0.27 M of the
literature. (R) marks what the authors' repository has.

The whole data set is on the device, so that a batch is one gather. On a GPU
``task.compile=reduce-overhead`` makes CUDA graphs of the forward and the backward pass.
"""

import math
from typing import Annotated, Literal

import torch
from annotated_types import Ge, Gt, Interval
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, cross_entropy, pad

from experiments.common import data
from experiments.common.run import Run
from experiments.common.schedules import LrSchedule, Schedule
from experiments.common.schema import settings

VERSION = 1  # raise it when the same settings give other numbers
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)  # of red, green and blue (R)
OWN_DECAY = True  # `train` applies the weight decay itself, in the same way for all optimizers
PADDING = 4  # black pixels on each side
RESULT = "test_accuracy"
METRICS = ("train_loss", "train_accuracy", "test_loss", "test_accuracy")


@settings
class Config:
    """Network, data, schedule and precision of a training.

    Attributes:
        depth: number of layers with weights, 6 n + 2.
        width: channels in the first third of the layers; each further third has twice as many.
        shortcut: the shortcut where the number of channels changes: ``projection``, or ``pad``,
            which is option A of He et al.
        epochs: passes over the training images.
        milestones: epochs, counted from 0, at whose start lr and decay become 0.1 times as large,
            unless ``schedule.lr`` is set.
        batch_size: images in a minibatch; the last of an epoch may be smaller.
        train_images: number of the 50,000 training images to use, from the first on.
        test_images: number of the 10,000 test images to use, from the first on.
        resolution: height and width in pixels of the net's input; 16: means of 2 x 2 pixels of
            the crop.
        average_over: number of last epochs whose mean is a run's final number.
        diverged_above: a run ends as diverged if an epoch's mean training loss is above this.
        precision: number format of convolutions and products; ``bfloat16`` is torch's autocast.
        compile: mode of torch.compile, or ``none``.
    """

    depth: Annotated[int, Ge(8)]
    width: Annotated[int, Gt(0)]
    shortcut: Literal["projection", "pad"]
    epochs: Annotated[int, Gt(0)]
    milestones: list[Annotated[int, Gt(0)]]
    batch_size: Annotated[int, Gt(1)]
    train_images: Annotated[int, Interval(ge=2, le=50000)]
    test_images: Annotated[int, Interval(ge=1, le=10000)]
    resolution: Literal[32, 16]
    average_over: Annotated[int, Gt(0)]
    diverged_above: Annotated[float, Gt(0)]
    precision: Literal["float32", "bfloat16"]
    compile: Literal["none", "default", "reduce-overhead"]

    def __post_init__(self) -> None:
        if (self.depth - 2) % 6:
            raise ValueError(f"task.depth={self.depth}: must be 6 n + 2: 8, 14, 20, 32, ...")
        if self.average_over > self.epochs:
            raise ValueError(
                f"task.average_over={self.average_over}: must be at most task.epochs={self.epochs}"
            )


# The network --------------------------------------------------------------------------------------


class Pad(nn.Module):
    """Option A of He et al.: every second pixel, and new channels of zeros, half on each side."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.before, self.after = (outputs - inputs) // 2, (outputs - inputs + 1) // 2

    def forward(self, x: Tensor) -> Tensor:
        """Shape (N, inputs, H, W) to (N, outputs, H/2, W/2)."""
        return pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.before, self.after))


class Block(nn.Module):
    """Two 3 x 3 convolutions with BatchNorm, ReLU between them and after the shortcut is added."""

    def __init__(self, inputs: int, outputs: int, stride: int, shortcut: str) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(inplace=True),
            nn.Conv2d(outputs, outputs, 3, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1:
            self.shortcut = (
                Pad(inputs, outputs)
                if shortcut == "pad"
                else nn.Sequential(
                    # These two layers are a strided 1 x 1 convolution. As one layer, the gradient
                    # of its weights crashes on CPUs with AVX2 if channels are last and few (oneDNN
                    # issue 6035).
                    nn.AvgPool2d(1, stride),
                    nn.Conv2d(inputs, outputs, 1, bias=False),
                    nn.BatchNorm2d(outputs),
                )
            )

    def forward(self, x: Tensor) -> Tensor:
        """Shape (N, inputs, H, W) to (N, outputs, H/stride, W/stride)."""
        return (self.residual(x) + self.shortcut(x)).relu()


def resnet(depth: int, width: int, shortcut: str) -> nn.Sequential:
    """The net, from (N, 3, H, W) to (N, 10), where 4 divides H and W.

    The weights of convolutions start normal with variance 2 / fan_out (R), those of the last layer
    as in torch's Linear. They are drawn from torch's default generator.
    """
    layers: list[nn.Module] = [
        nn.Conv2d(3, width, 3, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(inplace=True),
    ]
    for stage in range(3):
        outputs = width << stage
        for block in range((depth - 2) // 6):
            down = stage > 0 and block == 0
            inputs, stride = (outputs // 2, 2) if down else (outputs, 1)
            layers.append(Block(inputs, outputs, stride, shortcut))
    net = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4 * width, 10))
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return net


# The data -----------------------------------------------------------------------------------------


def padded(images: Tensor) -> Tensor:
    """Images (N, 3, 32, 32) with a black margin and the channels last: (N, 40, 40, 3)."""
    return pad(images, (PADDING,) * 4).permute(0, 2, 3, 1).contiguous()


def crops(images: Tensor, index: Tensor, shift: Tensor, flip: Tensor) -> Tensor:
    """Cut one window out of each chosen image, and mirror some of them.

    Args:
        images: what :func:`padded` returned.
        index: images to take, (B,).
        shift: top and left edge of the window, from 0 to 8, (B, 2); 4 is the image itself.
        flip: whether left and right are exchanged, bool (B,).

    Returns:
        (B, 3, 32, 32), of the images' type, channels last in memory.
    """
    line = torch.arange(32, device=images.device)
    rows = shift[:, :1] + line
    columns = shift[:, 1:] + torch.where(flip[:, None], line.flip(0), line)
    return images[index[:, None, None], rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def normalised(images: Tensor, resolution: int) -> Tensor:
    """The net's input for uint8 images: float, with each channel standardised."""
    mean = 255 * torch.tensor(MEAN, device=images.device)[:, None, None]
    std = 255 * torch.tensor(STD, device=images.device)[:, None, None]
    x = (images - mean) / std
    return x if resolution == 32 else avg_pool2d(x, 32 // resolution)


# Training -----------------------------------------------------------------------------------------


def updates(cfg: Config) -> int:
    """Updates of a run."""
    return cfg.epochs * math.ceil(cfg.train_images / cfg.batch_size)


def schedule(cfg: Config) -> Schedule:
    """The paper's schedule: at each milestone lr, and with it the decay, is multiplied by 0.1."""
    per_epoch = updates(cfg) // cfg.epochs
    milestones = tuple(epoch * per_epoch for epoch in cfg.milestones)
    return Schedule(lr=LrSchedule(shape="steps", milestones=milestones, factor=0.1))


def train(cfg: Config, run: Run) -> None:
    """Train and test every epoch; log the mean losses and accuracies."""
    train_set, test_set = data.cifar10(run.device)
    images, labels = padded(train_set.images[: cfg.train_images]), train_set.labels
    test_images = test_set.images[: cfg.test_images].contiguous(memory_format=torch.channels_last)
    test_labels = test_set.labels

    net = resnet(cfg.depth, cfg.width, cfg.shortcut)
    net = net.to(run.device).to(memory_format=torch.channels_last)
    forward = net if cfg.compile == "none" else torch.compile(net, mode=cfg.compile, dynamic=False)
    # torch's AdamW would scale the decay by lr, so the decay is applied below, in the same way for
    # all optimizers.
    optimizer = run.optimizer(net.parameters(), weight_decay=0.0)
    weights: list[Tensor] = list(net.parameters())
    history = torch.full((cfg.epochs, len(METRICS)), math.nan, dtype=torch.float64)
    run.track(net=net, optimizer=optimizer, history=history)
    generator = run.generator("batches")

    def scores(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Mean loss, and a tensor of its sum over the batch and the number of correct answers."""
        with torch.autocast(run.device.type, torch.bfloat16, cfg.precision == "bfloat16"):
            logits = forward(normalised(x, cfg.resolution))
        loss = cross_entropy(logits.float(), y)
        right = (logits.argmax(1) == y).sum()
        return loss, torch.stack([loss.detach().double() * len(y), right.double()])

    for epoch in run.steps(cfg.epochs):
        n = len(images)
        order = torch.randperm(n, generator=generator).to(run.device)
        shift = torch.randint(2 * PADDING + 1, (n, 2), generator=generator).to(run.device)
        flip = torch.randint(2, (n,), generator=generator).bool().to(run.device)
        sums = torch.zeros(2, 2, dtype=torch.float64, device=run.device)
        net.train()
        batches = zip(*(t.split(cfg.batch_size) for t in (order, shift, flip)), strict=True)
        for update, (batch, s, f) in enumerate(batches, epoch * updates(cfg) // cfg.epochs):
            loss, score = scores(crops(images, batch, s, f), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            with torch.no_grad():
                torch._foreach_mul_(weights, 1 - run.hyper(update)["weight_decay"])
            sums[0] += score
        net.eval()
        with torch.no_grad():
            for start in range(0, len(test_images), 1000):
                x = test_images[start : start + 1000]
                sums[1] += scores(x, test_labels[start : start + len(x)])[1]
        numbers = (sums.cpu() / torch.tensor([[n], [len(test_images)]])).flatten()
        history[epoch] = numbers
        run.log(epoch + 1, **dict(zip(METRICS, numbers, strict=True)))
        run.diverged(numbers[0], epoch + 1, cfg.diverged_above)
    final = history[-cfg.average_over :].mean(0)  # NaN if the run ended early
    run.summary(**dict(zip(METRICS, final, strict=True)))
