"""``python -m experiments.check`` finds what a task forgets to track, and nothing in ours."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path

import pytest
from conftest import TASKS, Maker, files

from experiments import check
from experiments.check import Kill, kills
from experiments.common import data, plan
from experiments.common.terminal import guarded

pytestmark = pytest.mark.slow

# What a task's smoke scale does not reach.
MORE = {
    "mnist_divergence": ("task.epochs=2",),  # more than one step
    "deep_fc": ("task.batch_size=20000", "task.updates=8", "task.log_every=4"),  # three epochs
    "rainbow": ("task.n_step=3", "task.authors=true"),
    "rosenbrock": ("task.mean_over=300", "task.sigma=[0.04,0.12]", "optimizer.nu=[0,0.9]",
                   "seed=[0,1]"),
    "imdb": ("optimizer.nu=[0,0.9]", "task.flip=0.3", "seed=[0,1]"),
    "gpt": ("task.dropout=0.2",),
}  # fmt: skip
MINATAR = (
    "scale=small", "task.steps=250", "task.learning_starts=40", "task.hidden=8", "task.replay=100",
    "task.log_every=50", "task.evaluate_every=125", "task.evaluate_games=2", "task.film=4",
    "task.epsilon_decay=50", "task.dueling=true",
)  # fmt: skip
# The kills of fairseq's process in a training of translation are in test_fairseq.py.
CASES = [(task, MORE.get(task, ())) for task in TASKS if task != "translation"]
LBFGS = ("optimizer=lbfgs", "task.size=16", "task.updates=60", "seed=[0,1]")  # three steps
CASES += [("rainbow", MINATAR), ("style_transfer", LBFGS)]


@pytest.mark.parametrize("steps", range(1, 40))
def test_a_run_is_killed_first_last_and_in_the_midst(steps: int) -> None:
    planned = kills(steps)
    assert {Kill(1, False), Kill(steps, False)} <= set(planned)
    assert all(1 <= kill.step <= steps for kill in planned if not kill.midway)
    (midway,) = (kill for kill in planned if kill.midway)
    assert 0 <= midway.step < steps
    assert len(set(planned)) == len(planned) <= 5


@pytest.mark.parametrize(("task", "more"), CASES)
@pytest.mark.usefixtures("forkserver")
def test_every_task_resumes_to_the_same_numbers(
    make: Maker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, task: str, more: tuple[str, ...]
) -> None:
    if task == "roberta":  # fairseq starts anew after each kill, for many seconds: one has to do
        if importlib.util.find_spec("fairseq") is None:
            pytest.skip("fairseq is not installed: make fairseq")
        monkeypatch.setattr(check, "kills", lambda steps: [Kill(steps - 1, False)])
    settings = make(f"task={task}", "scale=smoke", *more)
    same, line = check.check(settings, tmp_path, settings.task_name)
    for name in plan.needed(task) if not same and "no place serves" in line else ():
        data.fetch(name)  # which is why it failed, and skips the test
    assert same, line
    assert line.startswith(f"{task}: ")
    assert "killed after step" in line
    assert "not compared" not in line
    assert "give the run more steps" not in line
    alone, resumed = (tmp_path / name / task / settings.key for name in ("alone", "resumed"))
    assert files(alone) == files(resumed)  # no checkpoint, no temporary file


@pytest.fixture
def forgetful(toy_configs: None, forkserver: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """The current folder is an empty one, and there is the task ``forgets``."""
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("forgetful")
def test_what_a_task_forgets_to_track_is_named_with_its_step(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first number that can differ is the one of the first step after the first kill."""
    arguments = ("threads=1", "task.tracked=false,true", "task.random=false,true")
    assert check.main(["task=forgets", *arguments]) == 1
    forgets, forgets_random, tracks, tracks_random = capsys.readouterr().out.splitlines()
    for line, label in (forgets, "false"), (forgets_random, "true"):
        start = f"forgets laprop tracked false random {label}: loss differs first at step 1: "
        assert line.startswith(start)
        before, after = line.removeprefix(start).split(" resumed")[0].split(" undisturbed, ")
        assert float(before) != float(after)
        assert "killed after step 1" in line
        assert line.endswith("has to be named in run.track")
    same = (
        "9 steps, 21 values, all the same, "
        "killed after step 1, after step 4, in step 7, after step 8, after step 9"
    )
    assert tracks == f"forgets laprop tracked true random false: {same}"
    assert tracks_random == (
        f"forgets laprop tracked true random true: {same}; "
        "not compared, as they differ in any two runs: chance"
    )
    assert not (tmp_path / "outputs").exists()


@pytest.mark.usefixtures("forgetful")
def test_a_kill_in_a_step_that_logs_later_is_told_at_the_step_where_it_came(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """It is planned for step 7, and step 9 is the next that logs."""
    more = ("task.tracked=true", "task.log_every=9", "task.steps=10")
    assert check.main(["task=forgets", "threads=1", *more]) == 0
    assert "killed after step 1, after step 5, in step 9, after step 9, " in capsys.readouterr().out


@pytest.mark.usefixtures("forgetful")
def test_a_task_that_fails_says_when(capsys: pytest.CaptureFixture[str]) -> None:
    assert check.main(["task=forgets", "threads=1", "task.fails_late=true"]) == 1
    assert re.fullmatch(
        r"forgets: fails: RuntimeError: the mean is lost \(.*forgets\.py:\d+\), "
        "killed after step 1, after step 4\n",
        capsys.readouterr().out,
    )
    assert check.main(["task=forgets", "device=cuda:99"]) == 1  # before the run has a manifest
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("forgets: fails: device=cuda:99: no such GPU here; allowed are auto")
    assert guarded(lambda: check.main(["task=forgets", "task.steps=none"])) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("error: task.steps=none: must be a whole number")


@pytest.mark.usefixtures("forgetful")
def test_a_task_that_does_not_loop_over_its_steps_fails(capsys: pytest.CaptureFixture[str]) -> None:
    assert check.main(["task=forgets", "threads=1", "task.loops=false"]) == 1
    line = "train does not loop over run.steps(n), so a killed run begins again"
    assert capsys.readouterr().out == f"forgets: fails: {line}\n"


@pytest.mark.usefixtures("forgetful")
def test_a_run_that_diverges_at_once_is_told_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert check.main(["task=forgets", "threads=1", "task.explodes=true"]) == 0
    line = "forgets: 0 steps, 2 values, all the same; diverged at step 1\n"
    assert capsys.readouterr().out == line


def written(folder: Path, records: list[dict], summary: dict, status: str = "finished") -> Path:
    folder.mkdir()
    lines = "".join(json.dumps(record) + "\n" for record in records)
    (folder / "metrics.jsonl").write_text(lines)
    (folder / "summary.json").write_text(json.dumps(summary))
    (folder / "manifest.json").write_text(json.dumps({"status": status, "diverged_at": None}))
    return folder


def test_the_first_difference_is_found(tmp_path: Path) -> None:
    log = [{"step": 1, "loss": [0.5, 2.0]}, {"step": 2, "loss": [0.25, 1.0]}]
    one = written(tmp_path / "one", log, {"best": 1.0})
    same = written(tmp_path / "same", log, {"best": 1.0})
    assert check.difference(one, same, set()) is None
    other = [log[0], {"step": 2, "loss": [0.25, 1.5]}]
    batch = written(tmp_path / "batch", other, {"best": 2.0})
    assert check.difference(one, batch, set()) == ("loss", "at step 2", "1", "1.5")
    assert check.difference(one, batch, {"loss"}) == ("best", "in the summary", "1", "2")
    assert check.unrepeatable(one, batch) == {"loss", "best"}
    short = written(tmp_path / "short", log[:1], {"best": 1.0})
    assert check.difference(one, short, set())[:2] == ("step", "at step 2")
    more = written(tmp_path / "more", log, {"best": 1.0, "worst": 3.0})
    assert check.difference(one, more, set()) == ("worst", "in the summary", "nothing", 3.0)
    ended = written(tmp_path / "ended", log, {"best": 1.0}, status="diverged")
    assert check.difference(one, ended, set())[:2] == ("status", "in the manifest")
    for folder in one, same:
        (folder / "pictures").mkdir()
        (folder / "pictures" / "0.png").write_text(folder.name)
    assert check.difference(one, same, set())[:2] == ("pictures/0.png", "in its bytes")
