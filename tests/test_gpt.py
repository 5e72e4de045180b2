"""The example task: its network, its data, the best checkpoint, the early end."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pandas as pd
import pytest
import torch
from conftest import Maker

from experiments import gpt
from experiments.common.checkpoint import load
from experiments.common.execution import execute
from experiments.common.messages import ConfigError
from experiments.common.run import Run
from experiments.common.settings import Settings

SMOKE = ("task=gpt", "scale=smoke", "checkpoint_every=0")


@pytest.fixture
def text(tmp_path: Path) -> str:
    """A real text without a download: the licence of this repository."""
    return str(Path(__file__).parents[1] / "LICENSE")


def numbers(settings: Settings) -> tuple[dict, list[dict], str]:
    folder = settings.folder
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    (row,) = pd.read_csv(folder / "sample.csv").to_dict("records")
    sample, of = row.pop("text"), settings.optimizer
    assert row == {"optimizer": of.name, "lr": of.lr, "mu": of.mu, "nu": of.nu, "seed": 0}
    return json.loads((folder / "summary.json").read_text()), records, sample


def test_a_character_depends_on_those_before_it_alone(make: Maker):
    cfg = make(*SMOKE).task
    net = gpt.GPT(20, cfg).eval()
    one = torch.randint(20, (2, cfg.context))
    other = one.clone()
    other[:, 9:] = torch.randint(20, (2, cfg.context - 9))
    a, b = net(one), net(other)
    torch.testing.assert_close(a[:, :9], b[:, :9])
    assert (a[:, 9:] - b[:, 9:]).abs().max() > 1e-3
    assert gpt.loss(net, one).item() == pytest.approx(math.log(20), abs=0.1)


@pytest.mark.parametrize(("patience", "steps"), [(2, [10, 20, 30]), (5, [10, 20, 30, 40])])
def test_the_best_network_is_kept_and_the_training_ends_early(
    make: Maker, text: str, patience: int, steps: list[int]
):
    # At lr 0 nothing is learnt: the first evaluation is the best one, and two more end the run.
    settings = make(*SMOKE, f"task.text={text}", "optimizer.lr=0", f"task.patience={patience}")
    assert execute(settings) == "finished"
    summary, records, sample = numbers(settings)
    assert [record["step"] for record in records] == steps
    assert summary["best_valid_loss"] == records[0]["valid_loss"]
    assert len(sample) == gpt.SAMPLE + 1
    assert summary["best_at"] == load(settings.folder / "best.pt")["step"] == 10


def test_the_best_of_a_run_is_the_lowest_and_no_nan(toy: Maker):
    settings = toy()
    settings.folder.mkdir(parents=True)
    run = Run(settings)
    weight = torch.zeros(2)
    assert not run.load_best(weight=weight)
    better = []
    for step, value in enumerate([math.nan, 3.0, 1.0, 1.0, 2.0, math.nan]):
        weight.fill_(step)
        better.append(run.best("loss", value, step, weight=weight))
    assert better == [False, True, True, False, False, False]
    assert run.load_best(weight=weight)
    assert weight.tolist() == [2, 2]
    run.checkpoint()
    run.close(completed=False)
    run = Run(settings)
    next(run.steps(5))
    assert not run.best("loss", 1.5, 9, weight=weight)
    assert run._summary == {"best_loss": 1.0, "best_at": 2}
    run.close(completed=False)


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (["task.text=nowhere.txt"], "task.text=nowhere.txt: No such file or directory; must"),
        (["task.heads=3"], "task.heads=3: must divide task.width=16"),
        (["task.characters=50"], "task.context=16: the text's 50 characters are too few for it"),
    ],
)
def test_what_cannot_be_trained_on_is_refused(
    make: Maker, text: str, overrides: list[str], line: str
):
    with pytest.raises(ConfigError, match=f"^{line}"):
        execute(make(*SMOKE, f"task.text={text}", *overrides))
