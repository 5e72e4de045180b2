"""Neural style transfer: the network and its input, loss and gradient, runs, pictures."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Maker, trained
from PIL import Image
from torch import Tensor
from torch.nn.functional import conv2d, max_pool2d, mse_loss

from experiments import style_transfer
from experiments.common import data
from experiments.common.execution import execute
from experiments.common.messages import ConfigError
from experiments.common.run import Run
from experiments.common.settings import Settings
from experiments.style_transfer import CAFFE_UNIT, CONTENT, LAYERS, VGG, Loss, picture

pytestmark = pytest.mark.slow

CPU = torch.device("cpu")
DOUBLE = torch.float64


@pytest.fixture(scope="module")
def caffe() -> VGG:
    return style_transfer.caffe_weights().to(CPU, DOUBLE)


def caffe_in_numpy(image: np.ndarray) -> list[np.ndarray]:
    """The network as its authors ran it, on blue, green, red from 0 to 255 less the mean colour.

    Args:
        image: (height, width, 3), RGB from 0 to 255.

    Returns:
        the five convolutions before their ReLU, (height, width, channels).
    """
    path = data.fetch("vgg19_caffe") / "vgg19_conv1_1_to_conv3_1_fp32.npz"
    x = image[:, :, ::-1].astype(float) - [103.939, 116.779, 123.68]
    outputs = []
    with np.load(path, allow_pickle=False) as arrays:
        for name in LAYERS:
            kernel, bias = (arrays[f"{name}_{part}"].astype(float) for part in "wb")
            height, width = x.shape[:2]
            padded = np.pad(x, ((1, 1), (1, 1), (0, 0)))
            x = sum(
                padded[i : i + height, j : j + width] @ kernel[i, j]
                for i in range(3)
                for j in range(3)
            )
            outputs.append(x + bias)
            x = np.maximum(x + bias, 0)
            if name in ("conv1_2", "conv2_2"):
                x = x.reshape(height // 2, 2, width // 2, 2, -1).max((1, 3))
    return outputs


@pytest.mark.parametrize("name", ["picasso", "dancing"])
def test_the_folded_network_is_the_original_one(caffe: VGG, name: str) -> None:
    image = picture(name, 64).double()
    expected = caffe_in_numpy((255 * image[0]).permute(1, 2, 0).numpy())
    outputs, _ = caffe(image)
    for output, original in zip(outputs, expected, strict=True):
        ours = CAFFE_UNIT * output[0].permute(1, 2, 0).numpy()
        # Mean, scale and biases are rounded to float32 when they are folded.
        np.testing.assert_allclose(ours, original, rtol=0, atol=3e-7 * np.abs(original).max())


def swapped(image: Tensor) -> Tensor:
    return image.flip(1)


def in_grey_levels(image: Tensor) -> Tensor:
    return image * 255


def not_centred(image: Tensor) -> Tensor:
    return image + 0.45


# Mean activations after the ReLU at 128 pixels, in the original's grey levels, computed by
# caffe_in_numpy.
MEANS = {
    "picasso": (19.80, 79.57, 105.41, 96.80, 107.57),
    "dancing": (17.42, 71.91, 98.67, 77.95, 91.61),
}


@pytest.mark.parametrize("name", MEANS)
def test_mean_activations_on_the_images(name: str) -> None:
    vgg = style_transfer.caffe_weights().to(CPU)

    def means(image: Tensor) -> np.ndarray:
        return np.array([float(output.relu().mean()) for output in vgg(image)[0]]) * CAFFE_UNIT

    image = picture(name, 128)
    np.testing.assert_allclose(means(image), MEANS[name], rtol=2e-3)
    # The two images differ enough to be told apart.
    for wrong in (swapped, in_grey_levels, not_centred):
        assert np.abs(means(wrong(image)) / MEANS[name] - 1).max() > 0.01, wrong.__name__


def test_torchvision_file_becomes_the_network(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A file in torchvision's layout, with random numbers, gives what its nn.Sequential gives."""
    torch.manual_seed(0)
    layers: list[torch.nn.Module] = []
    channels = 3
    for width in (64, 64, 0, 128, 128, 0, 256):
        if width:
            layers += [torch.nn.Conv2d(channels, width, 3, padding=1), torch.nn.ReLU()]
            channels = width
        else:
            layers.append(torch.nn.MaxPool2d(2))
    features = torch.nn.Sequential(*layers)
    state = {f"features.{name}": value for name, value in features.state_dict().items()}
    torch.save(state, tmp_path / "vgg19-dcbb9e9d.pth")
    monkeypatch.setattr(data, "fetch", lambda name: {"vgg19": tmp_path}[name])
    name, vgg = style_transfer.network(["torchvision", "caffe"])
    assert name == "torchvision"
    image = torch.rand(2, 3, 16, 16)
    mean, std = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]])[:, :, None, None]
    torch.testing.assert_close(vgg(image)[0][-1].relu(), features((image - mean) / std))


def test_the_next_weights_serve_where_the_first_cannot_be_had(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse() -> VGG:
        raise data.DataError("no place serves vgg19")

    monkeypatch.setitem(style_transfer.WEIGHTS, "torchvision", refuse)
    assert style_transfer.network(["torchvision", "caffe"])[0] == "caffe"
    with pytest.raises(data.DataError, match="no place serves vgg19"):
        style_transfer.network(["torchvision"])


def tutorial_loss(vgg: VGG, image: Tensor, style: Tensor, content: Tensor) -> tuple[Tensor, Tensor]:
    """Losses of one image (1, 3, H, W), layer by layer, for autograd: the tutorial's, but the mean
    over the layers (C.3) in the place of its sum.
    """

    def outputs(x: Tensor) -> list[Tensor]:
        x, found = (x - vgg.mean) / vgg.std, []
        for kernel, bias, name in zip(vgg.kernels, vgg.biases, LAYERS, strict=True):
            x = conv2d(x, kernel, bias, padding=1)
            found.append(x)
            x = x.relu()
            if name in ("conv1_2", "conv2_2"):
                x = max_pool2d(x, 2)
        return found

    def gram(x: Tensor) -> Tensor:
        a, b, c, d = x.shape
        features = x.reshape(a * b, c * d)
        return features @ features.T / (a * b * c * d)

    found, aim = outputs(image), outputs(style)
    errors = [mse_loss(gram(x), gram(y)) for x, y in zip(found, aim, strict=True)]
    return 1e6 * torch.stack(errors).mean(), mse_loss(found[CONTENT], outputs(content)[CONTENT])


def test_loss_and_gradient_are_those_of_the_paper(caffe: VGG) -> None:
    style, content = (picture(name, 24).double() for name in ("picasso", "dancing"))
    images = torch.stack(
        [torch.zeros(3, 24, 24), content[0], *torch.rand(2, 3, 24, 24, dtype=DOUBLE)]
    ).contiguous(memory_format=torch.channels_last)
    ours = Loss(caffe, style, content)(images)
    for i, image in enumerate(images):
        one = image[None].clone().requires_grad_()
        losses = tutorial_loss(caffe, one, style, content)
        (gradient,) = torch.autograd.grad(sum(losses), one)
        for mine, theirs in zip(ours, (*losses, gradient), strict=True):
            scale = float(theirs.detach().abs().max()) or 1.0
            expected = theirs[0] if theirs.dim() else theirs
            torch.testing.assert_close(mine[i], expected, rtol=0, atol=1e-10 * scale)


def test_weights_of_the_losses(caffe: VGG) -> None:
    style, content = (picture(name, 16).double() for name in ("picasso", "dancing"))
    image = torch.rand(1, 3, 16, 16, dtype=DOUBLE)
    s, c, whole = Loss(caffe, style, content, 3.0, 5.0)(image)
    style_alone, zero, gradient_s = Loss(caffe, style, content, 3.0, 0.0)(image)
    nought, content_alone, gradient_c = Loss(caffe, style, content, 0.0, 5.0)(image)
    assert float(zero) == float(nought) == 0
    torch.testing.assert_close((s, c, whole), (style_alone, content_alone, gradient_s + gradient_c))
    assert float(Loss(caffe, style, content)(content)[1]) == 0
    assert float(Loss(caffe, style, content)(style)[0]) == 0


# Runs ---------------------------------------------------------------------------------------------


SMALL = ("task=style_transfer", "scale=smoke", "task.size=16", "task.updates=12")


def test_regret_is_the_mean_of_the_losses_and_the_first_is_that_of_black(make: Maker) -> None:
    settings = make(*SMALL, "optimizer.nu=0.9", "task.log_first=12")
    end = trained(settings)
    assert end["weights"] == "caffe"
    losses = logged(settings)
    assert end["regret"][0] == pytest.approx(np.mean(losses), rel=1e-6)
    assert end["final_loss"][0] == losses[-1] < losses[0]
    vgg, image, style, content = black(settings)
    first = sum(part.item() for part in tutorial_loss(vgg, image, style, content))
    assert losses[0] == pytest.approx(first, rel=1e-4)


def black(settings: Settings) -> tuple[VGG, Tensor, Tensor, Tensor]:
    """What a run begins with: the network, a black image with gradients, style and content."""
    size = settings.task.size
    image = torch.zeros(1, 3, size, size, requires_grad=True)
    style, content = (picture(name, size) for name in ("picasso", "dancing"))
    return style_transfer.caffe_weights().to(CPU), image, style, content


def logged(settings: Settings) -> list[float]:
    """The losses that a run of one member logged; every step, counted from 1, must be there."""
    lines = (settings.folder / "metrics.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    assert [record["step"] for record in records] == list(range(1, settings.task.updates + 1))
    return [record["loss"][0] for record in records]


def test_sgd_is_torchs(make: Maker) -> None:
    settings = make(*SMALL, "optimizer=sgd", "optimizer.lr=1e-3", "task.log_first=12")
    assert execute(settings) == "finished"
    vgg, image, style, content = black(settings)
    optimizer = torch.optim.SGD([image], lr=1e-3, momentum=0.9)
    losses = []
    for _ in range(12):
        optimizer.zero_grad()
        loss = sum(tutorial_loss(vgg, image, style, content), torch.zeros(()))
        loss.backward()
        losses.append(loss.item())
        optimizer.step()
        with torch.no_grad():
            image.clamp_(0, 1)
    np.testing.assert_allclose(logged(settings), losses, rtol=1e-4)
    assert losses[-1] < 0.9 * losses[0]


def test_lbfgs_is_the_tutorials(make: Maker) -> None:
    """The tutorial's loop with autograd has 20 evaluations a step, each of a clamped image."""
    settings = make(*SMALL, "optimizer=lbfgs", "task.updates=40", "task.log_first=40")
    end = trained(settings)
    ours = logged(settings)
    vgg, image, style, content = black(settings)
    optimizer = torch.optim.LBFGS([image])
    losses: list[float] = []

    def closure() -> Tensor:
        with torch.no_grad():
            image.clamp_(0, 1)
        optimizer.zero_grad()
        loss = sum(tutorial_loss(vgg, image, style, content), torch.zeros(()))
        loss.backward()
        losses.append(loss.item())
        return loss

    while len(losses) < 40:
        optimizer.step(closure)
    np.testing.assert_allclose(ours, losses, rtol=1e-3)
    assert end["regret"][0] == pytest.approx(np.mean(ours), rel=1e-6)
    assert end["final_loss"][0] == ours[-1] < 0.1 * ours[0]


def test_lbfgs_refuses_a_weight_decay(make: Maker) -> None:
    with pytest.raises(ConfigError, match=r"optimizer\.weight_decay=0\.1: must be 0"):
        execute(make(*SMALL, "optimizer=lbfgs", "optimizer.weight_decay=0.1"))


def test_the_last_step_of_lbfgs_makes_the_evaluations_that_are_left(
    make: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = make(*SMALL, "optimizer=lbfgs", "task.updates=27", "task.log_first=27")
    calls = []
    count = Loss.__call__
    monkeypatch.setattr(Loss, "__call__", lambda self, x: calls.append(len(x)) or count(self, x))
    trained(settings)
    assert calls == [1] * 27
    assert len(logged(settings)) == 27


def test_an_lbfgs_that_stands_still_repeats_its_last_loss(caffe: VGG) -> None:
    image = picture("picasso", 16).double()
    objective = Loss(caffe, image, image)  # without a gradient there is only one evaluation
    losses, contents = style_transfer.evaluations(torch.optim.LBFGS([image]), objective, 5)
    assert losses.shape == contents.shape == (5,)
    assert (losses == 0).all()
    assert (image == picture("picasso", 16).double()).all()


def test_another_seed_starts_within_a_grey_level_of_black(make: Maker) -> None:
    settings = make(*SMALL, "seed=[0,1,2]", "optimizer.nu=[0.1,0.9]")
    settings.folder.mkdir(parents=True)
    run = Run(settings)
    images = style_transfer.start(settings.task, run).unflatten(0, (2, 3))
    run.close(completed=False)
    assert (images[:, 0] == 0).all()
    assert (images[0] == images[1]).all(), "the same start whatever nu is"
    assert (images <= 1 / 255).all()
    assert images[0, 1].std() > 1e-3
    assert (images[0, 1] != images[0, 2]).any()


def test_pictures_and_their_montage(make: Maker) -> None:
    settings = make(*SMALL, "optimizer.nu=[0.1,0.5,0.9]", "optimizer.lr=[0.01,0.3]", "seed=[0,1]")
    execute(settings)
    pictures = []
    for number in range(12):
        with Image.open(settings.folder / "pictures" / f"{number}.png") as file:
            pictures.append(np.asarray(file).astype(float))
    with Image.open(settings.folder / "montage.jpg") as file:
        montage = np.asarray(file).astype(float)
    assert montage.shape == (2 * 16, 3 * 16, 3)
    for number, (lr, _, _, nu, seed) in enumerate(settings.members()):
        if seed == 0:  # nu goes to the right and lr downward; JPEG keeps the mean colour
            row, column = [0.01, 0.3].index(lr), [0.1, 0.5, 0.9].index(nu)
            tile = montage[16 * row : 16 * (row + 1), 16 * column : 16 * (column + 1)]
            np.testing.assert_allclose(tile.mean(), pictures[number].mean(), atol=3)


def test_a_size_that_cannot_be_pooled_twice_is_refused(make: Maker) -> None:
    with pytest.raises(ConfigError, match=r"task\.size=30: must be .*multiple of 4"):
        make("task=style_transfer", "task.size=30")
