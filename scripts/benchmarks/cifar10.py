"""Images per second in training ResNet-20 on CIFAR-10, against a plain PyTorch script.

``python -m scripts.benchmarks.cifar10`` writes ``results/benchmarks/cifar10.csv``. The plain script
trains the same network with the same optimizer in the way of tutorials: a ``Dataset`` returns one
PIL image at a time, torchvision's transforms change it, and a ``DataLoader`` with worker processes
makes batches. The first epoch is not measured, because processes and caches start in it.
"""

import tempfile
import time
from collections.abc import Callable
from functools import partial

import torch
from PIL import Image
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from experiments.cifar10 import MEAN, PADDING, STD, resnet
from experiments.common import data
from experiments.common.config import expand
from experiments.common.execution import execute
from scripts.benchmarks import measure

IMAGES = 5120  # images in an epoch
EPOCHS = 2  # measured epochs, after one that is not measured
BATCH = 128


class Images(Dataset[tuple[torch.Tensor, int]]):
    """The first training images, in the form of ``torchvision.datasets.CIFAR10``."""

    def __init__(self) -> None:
        train, _ = data.cifar10()
        self.pixels = train.images[:IMAGES].permute(0, 2, 3, 1).numpy()
        self.labels = train.labels[:IMAGES].tolist()
        self.transform = transforms.Compose(
            [
                transforms.RandomCrop(32, padding=PADDING),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize(MEAN, STD),
            ]
        )

    def __len__(self) -> int:
        return IMAGES

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self.transform(Image.fromarray(self.pixels[index])), self.labels[index]


def plain(workers: int) -> float:
    """Images per second of the plain script."""
    loader = DataLoader(
        Images(), BATCH, shuffle=True, num_workers=workers, persistent_workers=workers > 0
    )
    net = resnet(20, 16, "projection")
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3)
    for epoch in range(1 + EPOCHS):
        if epoch == 1:
            start = time.perf_counter()
        for images, labels in loader:
            optimizer.zero_grad()
            cross_entropy(net(images), labels).backward()
            optimizer.step()
    return EPOCHS * IMAGES / (time.perf_counter() - start)


def ours(*options: str) -> float:
    """Images per second of the task, from the difference of a run's time and that of one epoch."""

    def seconds(epochs: int) -> float:
        values = [f"task.epochs={epochs}", "task.average_over=1", f"task.train_images={IMAGES}"]
        with tempfile.TemporaryDirectory() as output:
            common = ["optimizer=adam", "task.test_images=1", f"output={output}"]
            (settings,) = expand(["task=cifar10", *common, *values, *options])
            start = time.perf_counter()
            execute(settings)
            return time.perf_counter() - start

    return EPOCHS * IMAGES / (seconds(1 + EPOCHS) - seconds(1))


WAYS: dict[str, Callable[[], float]] = {
    "plain, no worker": partial(plain, 0),
    "plain, 2 workers": partial(plain, 2),
    "ours": ours,
    "ours, bfloat16": partial(ours, "task.precision=bfloat16"),
}


def main() -> None:
    """Measure, print and write."""
    arguments = measure.parser(__doc__, rounds=3).parse_args()
    rows = measure.table(measure.interleaved(WAYS, arguments.rounds), "images_per_second")
    plain_rows = rows.way.str.startswith("plain")
    rows["times_the_better_plain"] = (
        rows.images_per_second / rows.images_per_second[plain_rows].max()
    )
    measure.write(arguments.to / "cifar10.csv", rows)


if __name__ == "__main__":
    main()
