"""LaProp in other people's training programs: the lines that the README shows, on tiny models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ROOT, documented
from torch import Tensor

from laprop import LaProp

pytestmark = pytest.mark.slow


@pytest.fixture
def used(monkeypatch: pytest.MonkeyPatch) -> list[LaProp]:
    """A list that gets every LaProp that makes a step."""
    seen: list[LaProp] = []
    step = LaProp.step

    def spy(self: LaProp, *arguments: Any, **options: Any) -> Any:
        if not any(self is other for other in seen):
            seen.append(self)
        return step(self, *arguments, **options)

    monkeypatch.setattr(LaProp, "step", spy)
    return seen


def line() -> tuple[Tensor, Tensor]:
    """Inputs and targets of a regression."""
    x = torch.randn(64, 3, generator=torch.Generator().manual_seed(0))
    return x, x @ torch.tensor([[1.0], [-2.0], [0.5]])


def test_plain_pytorch(used: list[LaProp]) -> None:
    x, y = line()
    model = torch.nn.Linear(3, 1)

    def loss() -> Tensor:
        return (model(x) - y).square().mean()

    before = float(loss().detach())
    names: dict[str, Any] = {"model": model}
    exec(documented("LaProp(model.parameters(), lr=4e-4, betas"), names)
    optimizer = names["optimizer"]
    for _ in range(20):
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()
    assert used == [optimizer]
    assert float(loss().detach()) < before


def test_hugging_face_trainer(used: list[LaProp], tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        vocab_size=20, hidden_size=8, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=8, num_labels=2,
    )  # fmt: skip
    numbers = torch.randint(20, (32, 6), generator=torch.Generator().manual_seed(0))
    names: dict[str, Any] = {
        "model": transformers.BertForSequenceClassification(config),
        "dataset": [{"input_ids": n, "labels": int(n[0] > 9)} for n in numbers],
        "args": transformers.TrainingArguments(
            str(tmp_path), max_steps=3, report_to=[], use_cpu=True, save_strategy="no",
            disable_tqdm=True, weight_decay=0.01,
        ),
    }  # fmt: skip
    weights = names["model"].classifier.weight.detach().clone()
    exec(documented("optimizer_cls_and_kwargs"), names)
    names["trainer"].train()
    (optimizer,) = used
    assert optimizer.param_groups[0]["lr"] < 4e-4  # the trainer's schedule has changed it
    assert all(float(state["step"]) == 3 for state in optimizer.state.values())
    assert not torch.equal(names["model"].classifier.weight, weights)


def test_lightning(used: list[LaProp], tmp_path: Path) -> None:
    lightning = pytest.importorskip("lightning")
    names: dict[str, Any] = {}
    exec(documented("configure_optimizers"), names)
    data = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(*line()), batch_size=16)
    trainer = lightning.Trainer(
        accelerator="cpu", max_steps=5, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, default_root_dir=tmp_path,
    )  # fmt: skip
    trainer.fit(names["Regression"](), data)
    (optimizer,) = used
    assert all(float(state["step"]) == 5 for state in optimizer.state.values())


def test_timm(used: list[LaProp]) -> None:
    timm = pytest.importorskip("timm")
    names: dict[str, Any] = {
        "model": timm.create_model("resnet10t", num_classes=2, in_chans=1, pretrained=False)
    }
    exec(documented("param_groups_weight_decay"), names)
    optimizer = names["optimizer"]
    assert type(optimizer) is LaProp
    decays = {group["weight_decay"] for group in optimizer.param_groups}
    assert decays == {0.0, 0.05}  # timm's recipe has no decay for biases and norms
    assert all(group["decay_by_lr"] for group in optimizer.param_groups)
    x = torch.randn(2, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    names["model"](x).sum().backward()
    optimizer.step()
    assert used == [optimizer]


# The same rule in other packages --------------------------------------------------------------


def recipe(start: str) -> str:
    """The code block of docs/optimizer.md that begins with these words."""
    blocks = (ROOT / "docs" / "optimizer.md").read_text().split("```python\n")[1:]
    (block,) = (block for block in blocks if block.startswith(start))
    return block.split("```")[0]


def some_params(seed: int = 0) -> list[torch.nn.Parameter]:
    """Weights of all sizes, some of them 0."""
    generator = torch.Generator().manual_seed(seed)
    shapes = [(20, 10), (10,), (4, 3, 2, 2), ()]
    sizes = [1.0, 0.0, 1e-5, 10.0]
    return [
        torch.nn.Parameter(size * torch.randn(shape, generator=generator))
        for shape, size in zip(shapes, sizes, strict=True)
    ]


def assert_same_path(
    ours: list[torch.nn.Parameter],
    theirs: list[torch.nn.Parameter],
    step: Any,
    steps: int,
    lr: float,
) -> None:
    """Equal after each step; a hundredth of lr is allowed for rounding in float32."""
    generator = torch.Generator().manual_seed(1)
    for t in range(steps):
        for a, b in zip(ours, theirs, strict=True):
            size = 10.0 ** (t % 5 - 3)
            a.grad = size * torch.randn(a.shape, generator=generator)
            b.grad = a.grad.clone()
        step()
        for a, b in zip(ours, theirs, strict=True):
            torch.testing.assert_close(a, b, rtol=2e-6, atol=0.01 * lr)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [{"fused": True}, {"foreach": True}, {"foreach": False}])
@pytest.mark.parametrize("clipped", [True, False])
def test_dreamer_v3s_optimizer_in_one_line(clipped: bool, kind: dict[str, bool]) -> None:
    """Equal to torchrl's after every step, through its warmup."""
    algorithms = pytest.importorskip("torchrl.trainers.algorithms", exc_type=ImportError)
    theirs = some_params()
    names: dict[str, Any] = {"params": some_params()}
    exec(recipe("import torch"), names)
    exec(recipe("warmup ="), names)
    names["optimizer"].param_groups[0].update(agc=0.3 if clipped else None, **kind)
    other = algorithms.DreamerV3Optimizer(theirs, agc=0.3 if clipped else 0.0)

    def step() -> None:
        names["optimizer"].step()
        names["warmup"].step()
        other.step()

    assert_same_path(names["params"], theirs, step, 1100, 4e-5)
    assert not torch.equal(theirs[0], some_params()[0])


@pytest.mark.parametrize("kind", [{"fused": True}, {"foreach": True}, {"foreach": False}])
def test_a_dreamer_v3_checkpoint_goes_on(
    kind: dict[str, bool], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Equal to torchrl's after every step, from the middle of its warmup to its end and beyond."""
    algorithms = pytest.importorskip("torchrl.trainers.algorithms", exc_type=ImportError)
    theirs = [*some_params(), torch.nn.Parameter(torch.ones(2))]  # the last has no gradient
    other = algorithms.DreamerV3Optimizer(theirs)
    generator = torch.Generator().manual_seed(2)
    for _ in range(970):
        for param in theirs[:-1]:
            param.grad = torch.randn(param.shape, generator=generator)
        other.step()
    monkeypatch.chdir(tmp_path)
    torch.save(other.state_dict(), "dreamer.pt")
    ours = [torch.nn.Parameter(param.detach().clone()) for param in theirs]
    names: dict[str, Any] = {"params": ours}
    exec(recipe("import torch"), names)
    exec(recipe("saved ="), names)
    names["optimizer"].param_groups[0].update(kind)
    start = [param.detach().clone() for param in ours]

    def step() -> None:
        names["optimizer"].step()
        names["warmup"].step()
        other.step()

    assert_same_path(ours[:-1], theirs[:-1], step, 60, 4e-5)
    assert not any(torch.equal(a, b) for a, b in zip(ours[:-1], start[:-1], strict=True))
    assert int(names["optimizer"].state[ours[0]]["step"]) == 1030


@pytest.mark.parametrize("kind", [{"fused": True}, {"foreach": True}, {"foreach": False}])
def test_cautious_is_timms(kind: dict[str, bool]) -> None:
    timm = pytest.importorskip("timm.optim.laprop")
    ours, theirs = some_params(), some_params()
    options = {"lr": 1e-3, "weight_decay": 0.01}
    one = LaProp(ours, **options, decay_by_lr=True, cautious=True, **kind)
    other = timm.LaProp(theirs, **options, caution=True)

    def step() -> None:
        one.step()
        other.step()

    assert_same_path(ours, theirs, step, 60, 1e-3)
