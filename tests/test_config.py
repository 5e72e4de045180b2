"""Precedence, keys, and that everything in ``configs/`` composes."""

from __future__ import annotations

import dataclasses
import itertools
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import FIGURES, ROOT, TASKS, TOYS, Maker
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

import experiments
from experiments.common import config
from experiments.common.config import ConfigError, Settings, compose_settings, expand


@pytest.fixture
def toy_configs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """The project's configs with the toy task among them, and a figure that sweeps it."""
    folder = tmp_path / "configs"
    for group in ROOT.glob("configs/*"):
        if group.is_dir():
            (folder / group.name).mkdir(parents=True)
            for file in group.glob("*.yaml"):
                (folder / group.name / file.name).symlink_to(file)
    (folder / "config.yaml").symlink_to(ROOT / "configs" / "config.yaml")
    (folder / "task" / "toy.yaml").symlink_to(TOYS / "toy.yaml")
    (folder / "figure" / "toys.yaml").write_text(
        "# @package _global_\ndefaults: [override /task: toy]\nfigure: { name: toys }\n"
        "grids:\n  paper: { optimizer: 'adam,laprop', seed: '1,2' }\n"
        "  smoke: { optimizer.nu: '0.5,0.6', task.steps: 4, seed: 3 }\n"
    )
    monkeypatch.setattr(config, "CONFIGS", folder)
    monkeypatch.setattr(experiments, "__path__", [*experiments.__path__, str(TOYS)])
    config.composed.cache_clear()
    yield
    config.composed.cache_clear()


# Precedence ---------------------------------------------------------------------------------------


@pytest.mark.usefixtures("toy_configs")
def test_precedence():
    def read(*overrides: str) -> tuple[float, float, float, int]:
        s = compose_settings(["task=toy", *overrides])
        return s.optimizer.lr, s.optimizer.nu, s.task.pause, s.task.steps

    # lr: optimizer's file < task's < the task's for adam. nu: optimizer's < block < scale < ours.
    assert read() == (0.01, 0.999, 0.0, 12)
    assert read("optimizer=adam") == (0.02, 0.99, 0.001, 12)
    assert read("optimizer=adam", "scale=smoke") == (0.02, 0.95, 0.001, 3)
    ours = ("optimizer.nu=0.1", "optimizer.lr=1", "task.steps=7", "task.pause=2")
    assert read("optimizer=adam", "scale=smoke", *ours) == (1.0, 0.1, 2.0, 7)
    assert read(*ours, "scale=smoke", "optimizer=adam") == (1.0, 0.1, 2.0, 7)
    assert compose_settings(["task=toy"]).optimizer.mu == 0.9  # the optimizer's file alone


@pytest.mark.usefixtures("toy_configs")
def test_a_grid_counts_as_command_line_and_the_command_line_itself_wins():
    assert [(s.optimizer.name, s.seed) for s in expand(["figure=toys"])] == [
        ("adam", 1), ("adam", 2), ("laprop", 1), ("laprop", 2),
    ]  # fmt: skip
    smoke = expand(["figure=toys", "scale=smoke"])
    assert [(s.optimizer.nu, s.task.steps, s.seed) for s in smoke] == [(0.5, 4, 3), (0.6, 4, 3)]
    (one,) = expand(["figure=toys", "scale=smoke", "optimizer.nu=0.7"])
    assert (one.optimizer.nu, one.figure) == (0.7, "toys")
    with pytest.raises(ConfigError, match="scale=cpu: figure=toys has paper, smoke"):
        expand(["figure=toys", "scale=cpu"])


@pytest.mark.usefixtures("toy_configs")
def test_a_list_needs_a_vectorised_task():
    with pytest.raises(ConfigError) as caught:
        compose_settings(["task=toy", "optimizer.nu=[0.5,0.9]"])
    assert str(caught.value) == (
        "optimizer.nu=[0.5,0.9]: toy trains one value in a run, such as 0.5; "
        "sweep with -m optimizer.nu=0.5,0.9"
    )
    with pytest.raises(ConfigError, match="task toy has paper, smoke"):
        compose_settings(["task=toy", "scale=cpu"])


def test_sweeps_of_hydra_expand():
    names = sorted(file.stem for file in (ROOT / "configs" / "optimizer").glob("*.yaml"))
    every = expand(["task=rosenbrock", "optimizer=glob(*)", "seed=range(3)", "optimizer.nu=0,0.5"])
    assert [(s.optimizer.name, s.seed, s.optimizer.nu) for s in every] == list(
        itertools.product(names, range(3), (0.0, 0.5))
    )
    assert len({s.key for s in every}) == len(every)


# Everything composes ------------------------------------------------------------------------------


@pytest.mark.parametrize("task", TASKS)
def test_every_task_with_every_optimizer_at_every_scale(task: str):
    raw = OmegaConf.load(ROOT / "configs" / "task" / f"{task}.yaml")
    assert raw.task.name == task
    assert set(raw.get("scales", {})) <= set(config.SCALES)
    assert set(raw.get("optimizers", {})) <= set(config.OPTIMIZERS)
    assert "smoke" in raw.scales
    for optimizer in config.OPTIMIZERS:
        for scale in {"paper", *raw.scales}:
            s = compose_settings([f"task={task}", f"optimizer={optimizer}", f"scale={scale}"])
            assert (s.task_name, s.optimizer.name, s.scale) == (task, optimizer, scale)
            assert len(list(s.members())) >= 1


@pytest.mark.parametrize("figure", FIGURES)
def test_every_figure_at_every_scale_it_has(figure: str):
    raw = OmegaConf.load(ROOT / "configs" / "figure" / f"{figure}.yaml")
    assert raw.figure.name == figure
    assert set(raw.grids) <= set(config.SCALES)
    assert "smoke" in raw.grids
    for scale in raw.grids:
        every = expand([f"figure={figure}", f"scale={scale}"])
        assert {s.figure for s in every} == {figure}
        assert len({s.key for s in every}) == len(every)


# Keys ---------------------------------------------------------------------------------------------

OTHER = {
    bool: lambda v: not v,
    int: lambda v: v + 1,
    float: lambda v: v / 2 + 0.125,
    str: lambda v: v + "x",
    tuple: lambda v: (*v[:-1], v[-1] + 1.0),
    list: lambda v: [*v, v[-1]],
    type(None): lambda v: 1,
}


def changed(group: object, name: str) -> object:
    """The same settings with another value in one field, checked or not."""
    copy = SimpleNamespace(**{f.name: getattr(group, f.name) for f in dataclasses.fields(group)})
    value = getattr(group, name)
    new = OTHER[type(value)](value)
    fresh = object.__new__(type(group))
    for key, old in vars(copy).items():
        object.__setattr__(fresh, key, new if key == name else old)
    return fresh


def with_group(settings: Settings, name: str, group: object) -> Settings:
    values = {f.name: getattr(settings, f.name) for f in dataclasses.fields(settings)}
    fresh = object.__new__(Settings)
    for key, value in (values | {name: group}).items():
        object.__setattr__(fresh, key, value)
    return fresh


@pytest.mark.parametrize("task", TASKS)
def test_the_key_depends_on_every_decisive_setting(task: str, monkeypatch: pytest.MonkeyPatch):
    base = compose_settings([f"task={task}"])
    keys = [base.key]
    for group in ("task", "optimizer"):
        for field in dataclasses.fields(getattr(base, group)):
            keys.append(with_group(base, group, changed(getattr(base, group), field.name)).key)
    keys.append(with_group(base, "seed", 1).key)
    keys.append(with_group(base, "seed", [0, 1]).key)
    monkeypatch.setattr(config, "code_hash", lambda name: "other code")
    keys.append(with_group(base, "seed", 0).key)
    assert len(set(keys)) == len(keys)


@hypothesis_settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    overrides=st.fixed_dictionaries(
        {},
        optional={
            "output": st.sampled_from(["elsewhere", "/there"]),
            "device": st.sampled_from(["auto", "cpu", "cuda:1"]),
            "tracking": st.sampled_from(["none", "wandb"]),
            "tracking.project": st.sampled_from(["mine", "yours"]),
            "checkpoint_every": st.floats(0, 1e6).map(repr),
            "threads": st.integers(1, 64).map(str),
            "optimizer.lr": st.sampled_from(["0.01", "1e-2", "1.0e-2"]),  # the value it has
        },
    ),
    order=st.randoms(use_true_random=False),
)
def test_the_key_depends_on_nothing_else(overrides: dict[str, str], order):
    texts = ["task=rosenbrock", *(f"{key}={value}" for key, value in overrides.items())]
    order.shuffle(texts)
    assert compose_settings(texts).key == compose_settings(["task=rosenbrock"]).key


def test_the_key_is_the_same_in_every_process():
    overrides = ["task=rosenbrock", "seed=[3,1,2]", "optimizer.nu=0.5"]
    program = (
        "from experiments.common.config import compose_settings; "
        f"print(compose_settings({overrides!r}).key)"
    )
    for seed in "0", "1":
        done = subprocess.run(
            [sys.executable, "-c", program],
            cwd=ROOT,
            env=os.environ | {"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.strip() == compose_settings(overrides).key


def test_the_key_follows_the_code_but_not_its_comments(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    source = (TOYS / "toy.py").read_text()
    file = tmp_path / "toy.py"
    monkeypatch.setattr(config, "task_module", lambda name: SimpleNamespace(__file__=str(file)))

    def key(text: str) -> str:
        file.write_text(text)
        config.code_hash.cache_clear()
        return config.code_hash("toy")

    base = key(source)
    assert key(source.replace("0.99)", "0.98)")) != base
    assert key(source + "\nfurther = 1\n") != base
    for same in (
        source.replace('"""Draw from every', '"""Draw numbers from every'),
        source.replace('"""A small torch.nn', '"""A tiny torch.nn'),
        source.replace('"""Regression by', '"""Some regression by'),
        source.replace("    model = torch", "    # a comment\n    model   =   torch"),
    ):
        assert same != source
        assert key(same) == base
    config.code_hash.cache_clear()


def test_all_files_of_a_package_count(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    (tmp_path / "parts").mkdir()
    for name in ("__init__.py", "net.py", "parts/deep.py"):
        (tmp_path / name).write_text("x = 1\n")
    module = SimpleNamespace(__file__=str(tmp_path / "__init__.py"))
    monkeypatch.setattr(config, "task_module", lambda name: module)

    def key() -> str:
        config.code_hash.cache_clear()
        return config.code_hash("package")

    base = key()
    (tmp_path / "parts" / "deep.py").write_text("x = 2\n")
    assert key() != base
    config.code_hash.cache_clear()


# The batch ----------------------------------------------------------------------------------------


def test_members_are_the_product_last_axis_fastest(make: Maker):
    s = make("task=rosenbrock", "task.sigma=[0.1,0.2]", "optimizer.nu=[0,0.5]", "seed=[7,8]")
    axes = list(s.axes())
    assert axes[-1] == "seed"
    columns = [axes.index(name) for name in ("task.sigma", "optimizer.nu", "seed")]
    assert [tuple(member[c] for c in columns) for member in s.members()] == list(
        itertools.product([0.1, 0.2], [0.0, 0.5], [7, 8])
    )


@hypothesis_settings(deadline=None)
@given(st.floats(-5, 5), st.floats(-5, 5), st.integers(1, 50))
def test_resolvers(first: float, last: float, count: int):
    resolve = OmegaConf.create({"x": f"${{linspace:{first},{last},{count}}}"}).x
    assert len(resolve) == count
    assert resolve[0] == first
    assert count == 1 or resolve[-1] == pytest.approx(last, abs=1e-12)
    assert OmegaConf.create({"x": f"${{range:0,{count}}}"}).x == list(range(count))
