"""LaProp in other people's training programs: the lines that the README shows, on tiny models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import readme
from torch import Tensor

from laprop import LaProp


@pytest.fixture
def used(monkeypatch: pytest.MonkeyPatch) -> list[LaProp]:
    """Every LaProp that makes a step."""
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
    exec(readme("LaProp(model.parameters(), lr=4e-4, betas"), names)
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
    exec(readme("optimizer_cls_and_kwargs"), names)
    names["trainer"].train()
    (optimizer,) = used
    assert optimizer.param_groups[0]["lr"] < 4e-4  # the trainer's schedule has been at it
    assert all(float(state["step"]) == 3 for state in optimizer.state.values())
    assert not torch.equal(names["model"].classifier.weight, weights)


def test_lightning(used: list[LaProp], tmp_path: Path) -> None:
    lightning = pytest.importorskip("lightning")
    names: dict[str, Any] = {"torch": torch}
    exec(readme("configure_optimizers"), names)
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
    exec(readme("param_groups_weight_decay"), names)
    optimizer = names["optimizer"]
    assert type(optimizer) is LaProp
    decays = {group["weight_decay"] for group in optimizer.param_groups}
    assert decays == {0.0, 0.05}  # none for biases and norms: timm's recipe
    assert all(group["decay_by_lr"] for group in optimizer.param_groups)
    x = torch.randn(2, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    names["model"](x).sum().backward()
    optimizer.step()
    assert used == [optimizer]
