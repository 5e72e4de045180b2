"""Settings: which source wins, what a key depends on, and that all of ``configs/`` composes."""

from __future__ import annotations

import dataclasses
import importlib
import itertools
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Literal

import pytest
from conftest import FIGURES, ROOT, TASKS, Maker
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

import experiments
from experiments.common import config, schema
from experiments.common import settings as of_runs
from experiments.common.config import compose_settings, expand
from experiments.common.messages import ConfigError, checked
from experiments.common.optimizers import OPTIMIZERS, vectorised
from experiments.common.settings import Settings
from experiments.common.versions import program, versions
from laprop.functional import ALGORITHMS

# Precedence ---------------------------------------------------------------------------------------


@pytest.mark.usefixtures("toy_configs")
def test_precedence():
    def read(*overrides: str) -> tuple[float, float, float, int]:
        s = compose_settings(["task=toy", *overrides])
        return s.optimizer.lr, s.optimizer.nu, s.task.pause, s.task.steps

    # Each later source wins. lr: the optimizer's file, the task's file, the task's block for adam.
    # nu: the optimizer's file, the task's block for adam, the scale's block, the command line.
    assert read() == (0.01, 0.999, 0.0, 12)
    assert read("optimizer=adam") == (0.02, 0.99, 0.001, 12)
    assert read("optimizer=adam", "scale=smoke") == (0.02, 0.95, 0.001, 3)
    ours = ("optimizer.nu=0.1", "optimizer.lr=1", "task.steps=7", "task.pause=2")
    assert read("optimizer=adam", "scale=smoke", *ours) == (1.0, 0.1, 2.0, 7)
    assert read(*ours, "scale=smoke", "optimizer=adam") == (1.0, 0.1, 2.0, 7)
    assert compose_settings(["task=toy"]).optimizer.mu == 0.9  # only the optimizer's file names it


@pytest.mark.usefixtures("toy_configs")
def test_a_grid_counts_as_command_line_and_the_command_line_itself_wins():
    assert [(s.optimizer.name, s.seed) for s in expand(["figure=toys"])] == [
        ("adam", 1), ("adam", 2), ("laprop", 1), ("laprop", 2),
    ]  # fmt: skip
    smoke = expand(["figure=toys", "scale=smoke"])
    assert [(s.optimizer.nu, s.task.steps, s.seed) for s in smoke] == [(0.5, 4, 3), (0.6, 4, 3)]
    (one,) = expand(["figure=toys", "scale=smoke", "optimizer.nu=0.7"])
    assert (one.optimizer.nu, one.figure) == (0.7, "toys")
    with pytest.raises(ConfigError, match="scale=small: figure=toys has paper, smoke"):
        expand(["figure=toys", "scale=small"])


@pytest.mark.parametrize(
    ("added", "line"),
    [
        ("shedule: {lr: {shape: cosine}}", r"shedule=.*unknown \(did you mean schedule\?\)"),
        ("scales: {smoke: {tsk: {steps: 3}}}", r"tsk=.*unknown \(did you mean task\?\)"),
        ("task: {name: toys}", "configs/task/toy.yaml: task.name=toys: must be toy"),
        (
            "optimizers: {adamm: {}}",
            r"optimizers=adamm: unknown \(did you mean adam\?\); .*amsgrad",
        ),
        ("scales: {smoky: {}}", r"scales=smoky: unknown \(did you mean smoke\?\)"),
    ],
)
@pytest.mark.usefixtures("toy_configs")
def test_a_misspelt_key_of_a_tasks_file_is_refused(added: str, line: str):
    file = config.CONFIGS / "task" / "toy.yaml"
    whole = OmegaConf.merge(OmegaConf.load(file), OmegaConf.create(added))
    text = file.read_text().partition("\n")[0] + "\n" + OmegaConf.to_yaml(whole)
    file.unlink()
    file.write_text(text)
    with pytest.raises(ConfigError, match=line):
        compose_settings(["task=toy", "scale=smoke"])


@schema.settings
class Both:
    """Two settings in one."""

    lr: float
    updates: int


def test_alternatives_of_a_type_are_one_error():
    @schema.settings
    class Settings:
        damp: int | float
        decay: float
        switch: bool | list[str] = True
        count: int | Literal["auto"] = 1
        several: bool | list[int] = True
        by_name: dict[str, int] = dataclasses.field(default_factory=dict)
        both: Both | None = None

    values = {"damp": "x", "decay": "y", "switch": "z", "count": "w"}
    values |= {"several": [1, "u", 3, "v"], "by_name": {"one": "s", "two": "t"}, "both": {}}
    with pytest.raises(ConfigError) as refused:
        checked(Settings, values, "task.")
    assert str(refused.value).split("; ") == [
        "task.damp=x: must be a number",
        "task.decay=y: must be a number",
        "task.switch=z: must be true or false or a list, such as [1,2]",
        "task.count=w: must be a whole number or 'auto'",
        "task.several=u: must be a whole number",
        "task.several=v: must be a whole number",
        "task.by_name=s: must be a whole number",
        "task.by_name=t: must be a whole number",
        "task.both.lr: missing",
        "task.both.updates: missing",
    ]


@pytest.mark.usefixtures("toy_configs")
def test_a_list_needs_a_vectorised_task():
    with pytest.raises(ConfigError) as caught:
        compose_settings(["task=toy", "optimizer.nu=[0.5,0.9]"])
    assert str(caught.value) == (
        "optimizer.nu=[0.5,0.9]: toy trains one value in a run, such as 0.5; "
        "sweep with -m optimizer.nu=0.5,0.9"
    )
    with pytest.raises(ConfigError, match="task toy has paper, smoke"):
        compose_settings(["task=toy", "scale=small"])


def test_sweeps_of_hydra_expand():
    names = sorted(file.stem for file in (ROOT / "configs" / "optimizer").glob("ams*.yaml"))
    assert len(names) == 2
    every = expand(
        ["task=rosenbrock", "optimizer=glob(ams*)", "seed=range(3)", "optimizer.nu=0,0.5"]
    )
    assert [(s.optimizer.name, s.seed, s.optimizer.nu) for s in every] == list(
        itertools.product(names, range(3), (0.0, 0.5))
    )
    assert len({s.key for s in every}) == len(every)


PACKAGE = "# @package _global_\n"
HEAD = "# @package _global_\ndefaults: [override /task: toy]\n"
FILES = {
    # a file of the user's own, and the one line about it
    ("task", "task:\n\tname: mole\n"): "configs/task/mole.yaml, line 2: found character .* token",
    ("task", ""): "configs/task/mole.yaml: must hold lines of KEY: VALUE, but it is null",
    ("task", "task: { name: mole } # sch\xf6n"): "configs/task/mole.yaml: must be text in UTF-8 ",
    ("task", "# @package _global_\ntask: { name: mole }"): "task=mole: has no program experiments/",
    (
        "figure",
        HEAD + "figure: { name: moel }\ngrids: { paper: {} }",
    ): "configs/figure/mole.yaml: figure.name=moel: must",
    ("task", "task: { name: mole }"): (
        "configs/task/mole.yaml: its first line must be # @package _global_$"
    ),
    ("task", PACKAGE + "task: { name: mole, steps: '${range:0,${nope}}' }"): (
        "task.steps=.*: Interpolation key 'nope' not found$"
    ),
    ("task", PACKAGE + "task: { steps: 3 }"): "configs/task/mole.yaml: task.name=null: must be mol",
    ("figure", "defaults: [override /task: toy]\nfigure: { name: mole }"): (
        "configs/figure/mole.yaml: its first line must be # @package _global_$"
    ),
    ("figure", HEAD + "figure: { name: mole }"): "scale=paper: figure=mole has no grids",
    ("figure", HEAD + "figure: { name: mole }\ngrids: { paper: [seed] }"): (
        r"figure=mole: grids.paper=\[seed\]: must be KEY: VALUES"
    ),
    ("figure", HEAD + "figure: { name: mole }\ngrids: seed"): (
        "configs/figure/mole.yaml: grids=seed: must be KEY: VALUE$"
    ),
    ("figure", HEAD + "figure: { name: mole }\ngrids: { paper: 3 }"): (
        "figure=mole: grids.paper=3: must be KEY: VALUES"
    ),
    ("figure", HEAD + "figure: { name: mole }\ngrids: { paper: null }"): (
        "figure=mole: grids.paper=null: must be KEY: VALUES"
    ),
    ("figure", HEAD + "figure: { name: mole }\ngrids: { paper: [] }"): (
        r"figure=mole: grids.paper=\[\]: must be KEY: VALUES"
    ),
    ("figure", HEAD + "figure: { name: mole }\ngrids: { paper: { seed: null } }"): (
        "seed=null: must be a whole number"
    ),
    ("figure", HEAD + 'figure: { name: mole }\ngrids: { paper: { seed: "${range:0,2}" } }'): (
        r'seed=\[0,1\]: toy trains one value .* -m seed=0,1, or in a grid seed: "0,1"$'
    ),
    ("figure", HEAD + "figure: { name: mole }\ngrids: { paper: { optimizer: [adam, sgd] } }"): (
        'optimizer=.*: must be one of .* or in a grid optimizer: "adam,sgd"$'
    ),
    ("figure", HEAD + "figure: { name: mole }\ntask: 3\ngrids: { paper: {} }"): (
        "configs/figure/mole.yaml: task=3: must be KEY: VALUE$"
    ),
    ("task", "- task"): r"configs/task/mole.yaml: must hold lines of KEY: .*, but it is \[task\]$",
    ("task", PACKAGE + "- task"): "configs/task/mole.yaml: must hold lines of KEY: VALUE, but it",
    ("task", PACKAGE + "lr: 1\nlr: 2"): "configs/task/mole.yaml, line 3: found duplicate key lr$",
    ("optimizer", "lr: 0.1"): "configs/optimizer/mole.yaml: name=null: must be mole",
    ("optimizer", "- lr"): "configs/optimizer/mole.yaml: must hold lines of KEY: VALUE, but it is",
} | {
    ("task", f"{PACKAGE}task: {{ name: mole }}\n{text}"): (
        f"configs/task/mole.yaml: {line}: must be KEY: VALUE$"
    )
    for text, line in {
        "optimizers: 3": "optimizers=3",
        "optimizers: [adam]": r"optimizers=\[adam\]",
        "optimizers: ${nowhere}": r"optimizers=\${nowhere}",
        "optimizers: { adam: 3 }": "optimizers.adam=3",
        "optimizers: { adam: { optimizer: 3 } }": "optimizers.adam.optimizer=3",
        "scales: [smoke]": r"scales=\[smoke\]",
        "scales: { smoke: [1] }": r"scales.smoke=\[1\]",
        "scales: { smoke: { task: 3 } }": "scales.smoke.task=3",
        "schedule: [1]": r"schedule=\[1\]",
        "schedule: { lr: 3 }": "schedule.lr=3",
        "optimizer: [lr]": r"optimizer=\[lr\]",
    }.items()
}  # fmt: skip


@pytest.mark.parametrize(("group", "text"), FILES)
@pytest.mark.usefixtures("toy_configs")
def test_a_file_of_ones_own_that_does_not_do_is_named_in_one_line(group: str, text: str):
    (config.CONFIGS / group / "mole.yaml").write_bytes(text.encode("latin-1"))
    with pytest.raises(ConfigError, match=f"^{FILES[group, text]}") as caught:
        expand([f"{group}=mole", *(["task=toy"] if group == "optimizer" else [])])
    assert len(str(caught.value).splitlines()) == 1
    assert compose_settings(["task=toy", "optimizer=adam"]).optimizer.name == "adam"


@pytest.mark.usefixtures("toy_configs")
def test_the_chosen_file_is_named_and_not_another_one():
    (config.CONFIGS / "optimizer" / "broken.yaml").write_text("")
    (config.CONFIGS / "task" / "mole.yaml").write_text("task: { name")
    (config.CONFIGS / "figure" / "mole.yaml").write_text(HEAD.replace("toy", "mole"))
    for choice in "task=mole", "figure=mole":
        with pytest.raises(ConfigError, match=r"^configs/task/mole.yaml, line 2: "):
            expand([choice])


# Everything composes ------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
def test_every_task_with_every_optimizer_at_every_scale(task: str):
    raw = OmegaConf.load(ROOT / "configs" / "task" / f"{task}.yaml")
    assert raw.task.name == task
    assert set(raw.get("scales", {})) <= set(config.SCALES)
    assert set(raw.get("optimizers", {})) <= set(OPTIMIZERS)
    assert "smoke" in raw.scales
    module = config.task_module(task)
    rules = ALGORITHMS if vectorised(module) else set(OPTIMIZERS) - {"lbfgs", "signum"}
    for optimizer in OPTIMIZERS:
        if optimizer not in getattr(module, "OPTIMIZERS", rules):
            with pytest.raises(ConfigError, match=f"={optimizer}: is not for {task}, which"):
                compose_settings([f"task={task}", f"optimizer={optimizer}"])
            continue
        # A smaller scale can only clash with an optimizer for which the task's file has values.
        scales = {"paper", *raw.scales} if optimizer in raw.get("optimizers", {}) else {"paper"}
        for scale in scales | ({*raw.scales} if optimizer == "laprop" else set()):
            s = compose_settings([f"task={task}", f"optimizer={optimizer}", f"scale={scale}"])
            assert (s.task_name, s.optimizer.name, s.scale) == (task, optimizer, scale)
            assert len(list(s.members())) >= 1


@pytest.mark.slow
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
    """The same settings with another value in one field, even one that validation would refuse."""
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
    for other in ({"task": "other", "laprop": 1}, {"task": 1, "laprop": "other"}):
        monkeypatch.setattr(of_runs, "versions", lambda name, other=other: other)
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
            "tracking": st.sampled_from(["none", "tensorboard", "wandb"]),
            "checkpoint_every": st.floats(0, 1e6).map(repr),
            "threads": st.integers(1, 64).map(str),
            # other spellings of its value
            "optimizer.lr": st.sampled_from(["0.01", "1e-2", "1.0e-2"]),
        },
    ),
    order=st.randoms(use_true_random=False),
)
def test_the_key_does_not_depend_on_where_and_how_a_run_is_made(overrides: dict[str, str], order):
    texts = ["task=rosenbrock", *(f"{key}={value}" for key, value in overrides.items())]
    order.shuffle(texts)
    assert compose_settings(texts).key == compose_settings(["task=rosenbrock"]).key


def test_the_key_is_the_same_in_every_process():
    overrides = ["task=rosenbrock", "seed=[3,1,2]", "optimizer.nu=0.5"]
    program = (
        "from experiments.common.config import compose_settings; "
        f"print(compose_settings({overrides!r}).key)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env=os.environ | {"PYTHONHASHSEED": "1"},  # of this process it is another one
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == compose_settings(overrides).key


@pytest.fixture
def program_of(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """``program_of(parts={...}, task=...)``: the hash of a task ``mole`` made of these modules."""
    monkeypatch.setattr(experiments, "__path__", [*experiments.__path__, str(tmp_path)])
    monkeypatch.syspath_prepend(str(tmp_path))

    def forget() -> None:
        for name in [name for name in sys.modules if name.startswith("experiments.mole")]:
            del sys.modules[name]
        program.cache_clear()

    def write(**texts: str) -> str:
        for name, text in texts.items():
            file = tmp_path / f"{name}.py"
            file.parent.mkdir(exist_ok=True)
            file.write_text(text)
        importlib.invalidate_caches()
        forget()
        return str(versions("mole")["task"])

    yield write
    forget()


TASK = '''"""A task."""
from experiments import mole_helper
import experiments.common.stats
from experiments.common.schema import settings

@settings
class Config:
    """No settings."""

def train(cfg, run):
    """Train."""
    total = 1
    run.summary(x=mole_helper.double(total))
'''
HELPER = "def double(x):\n    return 2 * x\n"


MODULES = {
    # the module of a task: the one line about it
    "def train(:": "experiments/mole.py, line 1: SyntaxError: invalid syntax",
    f"{TASK}import nowhere": "experiments/mole.py, line 14: ModuleNotFoundError: No module named",
    f"{TASK}1 / 0": "experiments/mole.py, line 14: ZeroDivisionError: division by zero$",
    TASK.replace("class Config", "class Settings"): "experiments/mole.py: Config: must be a class",
    TASK.replace("@settings", ""): "experiments/mole.py: Config: must be a class with @settings ab",
    TASK.replace("def train", "def run"): "experiments/mole.py: train: must be a function",
    TASK.replace("cfg, run", "cfg"): r"experiments/mole.py: train: must be a .* train\(cfg, run\)$",
    f"{TASK}AXES = ('optimizer.foo',)": (
        "experiments/mole.py: AXES=optimizer.foo: unknown .*; allowed are seed, optimizer.lr, "
    ),
    f"{TASK}AXES = 'seed'": r"experiments/mole.py: AXES=seed: must be a tuple, .* \('seed',\)$",
    f"{TASK}OPTIMIZERS = ('amsgrd',)": (
        r"experiments/mole.py: OPTIMIZERS=amsgrd: unknown \(did you mean amsgrad\?\); allowed are "
    ),
    f"{TASK}OPTIMIZERS = 3": "experiments/mole.py: OPTIMIZERS=3: must be a tuple",
    f"{TASK}OPTIONS = 'agc'": "experiments/mole.py: OPTIONS=agc: must be a tuple",
}  # fmt: skip


@pytest.mark.parametrize("text", MODULES)
def test_a_module_that_is_no_task_is_named_in_one_line(program_of, text: str):
    with pytest.raises(ConfigError, match=f"^{MODULES[text]}") as caught:
        program_of(mole=text, mole_helper=HELPER)
    assert len(str(caught.value).splitlines()) == 1


def test_without_a_version_the_key_follows_the_program_and_what_it_imports(program_of):
    base = program_of(mole=TASK, mole_helper=HELPER)
    assert program_of(mole=TASK.replace("total = 1", "total = 3")) != base
    assert program_of(mole=TASK) == base
    for same in (
        TASK.replace('"""Train."""', '"""Train a net."""'),
        TASK.replace("    total = 1", "    # a comment\n    total   =   1"),
    ):
        assert same != TASK
        assert program_of(mole=same) == base
    program_of(mole=TASK)
    assert program_of(mole_helper=HELPER.replace("2", "3")) != base
    assert program_of(mole_helper=HELPER) == base
    without = program_of(mole=TASK.replace("import experiments.common.stats\n", ""))
    assert without != base  # a module of experiments/common counts too


def test_a_declared_version_takes_the_place_of_the_program(program_of):
    """Renaming a local variable keeps the keys; raising the version makes new ones."""
    declared = TASK.replace("def train", "VERSION = 3\n\ndef train")
    assert program_of(mole=declared, mole_helper=HELPER) == "3"
    assert program_of(mole=declared.replace("total", "amount")) == "3"
    assert program_of(mole=declared.replace("VERSION = 3", "VERSION = 4")) == "4"


def test_the_program_is_the_one_that_was_imported(program_of, tmp_path: Path):
    """A run of a long queue begins days later, when the files may be others."""
    declared = TASK.replace("def train", "VERSION = 3\n\ndef train")
    program_of(mole=declared, mole_helper=HELPER)
    (tmp_path / "mole.py").write_text(declared.replace("total = 1", "total = 2"))
    named = program("mole")
    (tmp_path / "mole.py").write_text(declared)
    program.cache_clear()
    assert program("mole") == named


def test_a_new_field_at_its_default_keeps_the_keys(make: Maker):
    settings = make("task=rosenbrock")

    @schema.settings
    class More(type(settings.task)):  # type: ignore[misc]
        added: int = 3

    old = dataclasses.asdict(settings.task)
    assert with_group(settings, "task", More(**old)).key == settings.key
    assert with_group(settings, "task", More(**old, added=4)).key != settings.key


@pytest.mark.parametrize(
    "override", ["seed=[true,2]", "optimizer.nu=[0.5,false]", "optimizer.epsilon=true"]
)
def test_true_and_false_are_no_numbers(make: Maker, override: str):
    with pytest.raises(ConfigError) as caught:
        make("task=rosenbrock", override)
    assert str(caught.value) == f"{override}: must be a number, not true or false"


def test_the_home_folder_may_be_written_as_in_a_shell(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOME", "/home/me")
    assert compose_settings(["task=rosenbrock", "output=~/x"]).output == Path("/home/me/x")


FOLDERS = [
    *("2024", "true", "1e3", "null", "[runs]", "{a:1}", "a,b", "x=y", "it's", "/x${HOME}", "a${b"),
    *(r"a\b", r"a\${b}", "runs of é"),
]


@pytest.mark.parametrize("name", FOLDERS)
def test_a_folder_has_the_name_that_is_typed(name: str):
    assert compose_settings(["task=rosenbrock", f"output={name}"]).output == Path(name)


def test_a_folder_may_have_the_quotes_of_hydra():
    for typed in "'runs of x'", '"runs of x"':
        assert compose_settings(["task=rosenbrock", f"output={typed}"]).output == Path("runs of x")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("optimizer.nu=[0.9]", "optimizer.nu=0.9"),
        ("seed=[3]", "seed=3"),
        ("task.sigma=-0.0", "task.sigma=0"),
        ("task.sigma=[-0.0,0.1]", "task.sigma=[0,0.1]"),
        ("optimizer.lr=1", "optimizer.lr=1.0"),
    ],
)
def test_one_setting_has_one_key(make: Maker, one: str, other: str):
    assert make("task=rosenbrock", one).key == make("task=rosenbrock", other).key


def test_a_run_that_is_named_twice_is_there_once():
    assert [s.seed for s in expand(["task=rosenbrock", "seed=0,1,0"])] == [0, 1]


@pytest.mark.parametrize("overrides", [
    ["optimizer.nu=0.5,0.7", "optimizer.mu=${optimizer.nu}"],
    ["optimizer.mu=${optimizer.nu}", "optimizer.nu=0.5,0.7"],
])  # fmt: skip
def test_a_reference_has_the_value_that_the_command_line_gives(overrides: list[str]):
    runs = [run.optimizer for run in expand(["task=rosenbrock", *overrides])]
    assert [(run.mu, run.nu) for run in runs] == [(0.5, 0.5), (0.7, 0.7)]


@pytest.mark.parametrize("override", [
    "threads=1,2", "device=cpu,auto", "checkpoint_every=1,2",
    "tracking=none,tensorboard", "tracking.project=a,b",
])  # fmt: skip
def test_what_makes_no_other_run_cannot_be_swept(override: str):
    with pytest.raises(ConfigError) as caught:
        expand(["task=rosenbrock", "seed=0,1", override])
    assert str(caught.value) == f"{override}: must be one value, as it does not make another run"


@pytest.mark.parametrize(("typed", "meant"), [
    ("optimizer/nu=0.5", "optimizer.nu=0.5"), ("seed/x=1", "seed.x=1"), ("seed@x=3", "seed=3"),
])  # fmt: skip
def test_a_slash_or_a_package_is_refused(typed: str, meant: str):
    with pytest.raises(ConfigError) as caught:
        expand(["task=rosenbrock", typed])
    assert str(caught.value) == f"{typed}: unknown (did you mean {meant}?)"


def test_an_optimizer_has_its_own_hyper_parameters_alone(make: Maker):
    sgd = make("task=rosenbrock", "optimizer=sgd").optimizer
    assert (sgd.mu, sgd.nu, sgd.epsilon) == (0.9, None, None)
    with pytest.raises(ConfigError) as caught:
        make("task=rosenbrock", "optimizer=sgd", "optimizer.nu=0.5")
    assert str(caught.value) == "optimizer.nu=0.5: sgd has no nu; it has lr, mu"


def test_a_shape_that_is_chosen_leaves_what_it_does_not_use_of_the_tasks_file():
    """The task's file says cosine, with an end and a warm-up."""
    overrides = ["task=gpt", "schedule.lr.shape=constant"]
    lr = compose_settings(overrides).schedule.lr
    assert (lr.shape, lr.warmup, lr.end) == ("constant", 100, 0.0)
    assert compose_settings(["task=gpt", "schedule.lr.shape=linear"]).schedule.lr.end == 0.1
    with pytest.raises(ConfigError, match=r"schedule.lr.end=0.5: is for schedule.lr.shape=linear"):
        compose_settings([*overrides, "schedule.lr.end=0.5"])


@pytest.mark.usefixtures("toy_configs")
def test_a_grid_may_be_a_list_of_grids():
    file = config.CONFIGS / "figure" / "toys.yaml"
    file.write_text(
        "# @package _global_\ndefaults: [override /task: toy]\nfigure: { name: toys }\n"
        "grids:\n  paper:\n    - { seed: '1,2', optimizer: 'adam,laprop' }\n"
        "    - { optimizer: sgd, seed: 2, task.steps: 4 }\n"
        "    - { seed: 1, optimizer: adam }\n"
    )
    every = expand(["figure=toys"])
    assert [(s.seed, s.optimizer.name, s.task.steps) for s in every] == [
        (1, "adam", 12), (1, "laprop", 12), (2, "adam", 12), (2, "laprop", 12), (2, "sgd", 4),
    ]  # fmt: skip
    given = expand(["figure=toys", "seed=5"])
    assert [(s.seed, s.optimizer.name) for s in given] == [(5, "adam"), (5, "laprop"), (5, "sgd")]
    # A value that one grid lists is not run with the settings of another.
    for chosen, runs in (
        (["optimizer=sgd"], [(2, "sgd")]),
        (["optimizer=laprop,sgd"], [(1, "laprop"), (2, "laprop"), (2, "sgd")]),
        (["optimizer=lion"], [(1, "lion"), (2, "lion")]),
        (["optimizer=adam", "seed=1"], [(1, "adam")]),
        (["optimizer=sgd", "seed=2,5"], [(2, "sgd"), (5, "sgd")]),
    ):
        given = expand(["figure=toys", *chosen])
        assert [(s.seed, s.optimizer.name) for s in given if s.task.steps == 12] == [
            run for run in runs if run[1] != "sgd"
        ]
        assert {(s.seed, s.optimizer.name) for s in given} == set(runs)
    with pytest.raises(ConfigError, match=r"^optimizer=sgd seed=1: no grid of figure=toys has all"):
        expand(["figure=toys", "optimizer=sgd", "seed=1"])


@pytest.mark.parametrize(
    ("chosen", "rates"),
    [
        (["figure=fig03", "optimizer=laprop", "optimizer.nu=[0.4,0.999]", "seed=[0]"], [0.01]),
        (["figure=fig03", "optimizer=sgd"], [0.01, 0.1, 0.3, 1]),
        (["figure=fig09", "optimizer=sgd", "optimizer.lr=0.1"], [0.1]),
        (["figure=fig06", "optimizer=laprop", "seed=0"], [6.25e-5]),
    ],
)
def test_a_part_of_a_figure_has_the_settings_of_its_own_grid(chosen: list[str], rates: list[float]):
    every = expand([*chosen, "scale=short"])
    assert [settings.optimizer.lr for settings in every] == rates
    assert {s.key for s in every} < {s.key for s in expand([chosen[0], "scale=short"])}


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
