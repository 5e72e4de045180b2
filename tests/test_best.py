"""What a task may ask of its run, and what the run refuses: best states, steps, log and tables."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
import torch
from conftest import Maker, interrupt, manifest, records, summary

from experiments.common.execution import execute
from experiments.common.files import Damaged
from experiments.common.run import Run
from experiments.common.settings import Settings

LOSSES = [5.0, 4.0, 3.0, 9.0, 9.0, 9.0, 1.0, 9.0, 9.0, 9.0]  # the lowest at steps 2 and 6
CHECKPOINT_AT = 4  # the number of steps after which the only checkpoint is written


class Killed(Exception):
    """It ends the training as a kill would, without a checkpoint."""


@pytest.fixture
def train(toy: Maker, monkeypatch: pytest.MonkeyPatch):
    """``train(killed_at)``: the weight that ``load_best`` gives after each step of a toy training.

    The weight at a step is the number of this step.
    """
    from experiments import toy as task

    def go(killed_at: int | None, settings: Settings | None = None) -> dict[int, float]:
        loaded: dict[int, float] = {}

        def loop(cfg: object, run: Run) -> None:
            weight = torch.zeros(1)
            run.track(weight=weight)
            for step in run.steps(len(LOSSES)):
                weight.fill_(step)
                run.best("loss", LOSSES[step], step, weight=weight)
                if step == killed_at:
                    raise Killed
                best = torch.zeros(1)
                assert run.load_best(weight=best)
                loaded[step] = float(best)
                if step + 1 == CHECKPOINT_AT:
                    run._step += 1
                    run.checkpoint()
                    run._step -= 1

        monkeypatch.setattr(task, "train", loop)
        try:
            assert execute(settings or toy()) == "finished"
        except Killed:
            assert killed_at is not None
        return loaded

    return go


def test_a_resumed_run_gets_the_best_states_of_its_past_and_not_of_its_future(train, toy: Maker):
    alone = [0.0, 1.0, 2.0, 2.0, 2.0, 2.0, 6.0, 6.0, 6.0, 6.0]
    assert list(train(6).values()) == alone[:6]
    assert train(6) == {4: 2.0, 5: 2.0}  # the checkpoint is older than best.pt
    assert train(8) == {4: 2.0, 5: 2.0, 6: 6.0, 7: 6.0}
    assert list(train(None).values()) == alone[4:]
    folder = toy().folder
    assert not (folder / "best.old.pt").exists()
    assert summary(toy()) == {"best_loss": 1.0, "best_at": 6}


def test_best_states_that_are_gone_or_of_another_step_are_named(train, toy: Maker):
    train(5)
    path = toy().folder / "best.pt"
    torch.save({"weight": torch.zeros(1), "step": 9}, path)
    with pytest.raises(Damaged, match=rf"{path}: cannot be used .* of step 9, not 2\); delete the"):
        train(None)
    path.unlink()
    with pytest.raises(
        Damaged, match=rf"{path}: cannot be used \(No such file or directory\); del"
    ):
        train(None)


def failing(toy: Maker, monkeypatch: pytest.MonkeyPatch, train) -> str:
    """The error of a run whose task trains so."""
    from experiments import toy as task

    monkeypatch.setattr(task, "train", train)
    with pytest.raises((RuntimeError, TypeError, ValueError)):
        execute(toy())
    return str(manifest(toy())["failure"])


def test_a_second_loop_over_the_steps_is_refused(toy: Maker, monkeypatch: pytest.MonkeyPatch):
    def twice(cfg: object, run: Run) -> None:
        for _ in range(2):
            for step in run.steps(3):
                run.log(step, loss=1.0)

    assert "run.steps: can be called once in a run" in failing(toy, monkeypatch, twice)
    assert len(records(toy())) == 3


@pytest.mark.parametrize("resumed", [False, True])
def test_a_record_before_the_steps_is_refused(
    toy: Maker, monkeypatch: pytest.MonkeyPatch, resumed: bool
):
    if resumed:
        interrupt(toy(), after=4)

    def early(cfg: object, run: Run) -> None:
        run.log(0, loss=1.0)
        list(run.steps(3))

    assert "run.log before run.steps" in failing(toy, monkeypatch, early)


@pytest.mark.parametrize("resumed", [False, True])
def test_a_step_that_is_not_greater_is_refused(
    toy: Maker, monkeypatch: pytest.MonkeyPatch, resumed: bool
):
    if resumed:  # after step 3, with a checkpoint
        interrupt(toy(), after=4)

    def repeats(cfg: object, run: Run) -> None:
        for step in run.steps(6):
            run.log(min(step, 4), loss=1.0)

    line = "run.log(step=4): must be greater than the last logged step, 4"
    assert line in failing(toy, monkeypatch, repeats)
    assert [record["step"] for record in records(toy())] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("value", [{"a": 1}, [[1.0]], Path("x"), object])
def test_what_is_no_number_is_refused(toy: Maker, monkeypatch: pytest.MonkeyPatch, value: object):
    for name, takes in ("log", "numbers; run.summary also"), ("summary", "numbers and text"):

        def train(cfg: object, run: Run, name: str = name) -> None:
            getattr(run, name)(**{"step": 1, "x": value})

        assert f"run.{name}(x={value!r}): takes {takes}" in failing(toy, monkeypatch, train)


@pytest.mark.parametrize("name", ["runs", "curves"])
def test_a_table_cannot_have_the_name_of_a_collected_one(
    toy: Maker, monkeypatch: pytest.MonkeyPatch, name: str
):
    def tables(cfg: object, run: Run) -> None:
        run.table(name, pd.DataFrame({"x": [1]}))

    assert f"run.table('{name}'): " in failing(toy, monkeypatch, tables)
    assert not Path(toy().folder, f"{name}.csv").exists()
