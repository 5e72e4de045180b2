"""Steps per second of Rainbow on Atari's Breakout, against tianshou's; and of the games alone.

``python -m scripts.benchmarks.rainbow`` writes ``results/benchmarks/rainbow.csv``. Both agents have
the network of the Nature paper with dueling and noisy layers, returns of three steps, a prioritised
memory, torch's Adam, and an update of 32 transitions every 4 steps. Steps are measured while the
agent learns. ``ratio`` is the quotient to tianshou's agent, and for games to gymnasium's wrappers.
Everything runs on one thread, and the ways are measured in turn.

tianshou does not fit the versions in ``constraints.txt``, so this script makes an environment for
it in ``build/tianshou``, which has the packages of the present environment and tianshou's own. If
that fails, for example without a network, a line is printed and tianshou's row is left out.
"""

import subprocess
import sysconfig
import tempfile
import time
import venv
from collections.abc import Callable
from functools import partial
from pathlib import Path

import gymnasium
import numpy as np
import pandas as pd
import torch

from experiments.common import ROOT
from experiments.common.config import expand
from experiments.common.execution import execute
from experiments.rainbow.environments import SUITES
from scripts.benchmarks import measure

GAME = "breakout"
STEPS = 400  # measured steps of an agent
WARMUP = 200  # steps before these, in the middle of which learning begins
GAME_STEPS = 2000  # measured steps of a game alone
TIANSHOU = "tianshou==2.0.1"


def environment_of_tianshou() -> Path | None:
    """The Python of an environment with tianshou; or None and a printed line if that fails."""
    folder = ROOT / "build" / "tianshou"
    python = folder / "bin" / "python"
    install = [python, "-m", "pip", "install", "--quiet", TIANSHOU]
    if not python.exists():
        venv.create(folder, with_pip=True)
        site_packages = sysconfig.get_path("purelib", vars={"base": str(folder)})
        Path(site_packages, "present.pth").write_text(sysconfig.get_path("purelib"))
    if subprocess.run(install, check=False).returncode:
        print(f"{TIANSHOU} could not be installed into {folder}: its agent is not measured")
        return None
    return python


def tianshou(python: Path) -> float:
    """Steps per second of tianshou's agent, in a process of its environment."""
    command = [python, "-m", "scripts.benchmarks.rainbow_of_tianshou", GAME]
    done = subprocess.run(
        [*command, str(WARMUP), str(STEPS)], cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True
    )
    return float(done.stdout.splitlines()[-1])


def ours(optimizer: str) -> float:
    """Steps per second of the task, from the difference to a run that ends after WARMUP steps."""

    def seconds(steps: int) -> float:
        agent = ["task.n_step=3", "task.dueling=true", f"task.learning_starts={WARMUP // 2}"]
        length = [f"task.steps={steps}", "task.log_every=100", "task.evaluate_every=0"]
        with tempfile.TemporaryDirectory() as output:
            where = ["threads=1", f"output={output}"]
            (settings,) = expand(
                ["task=rainbow", f"task.game={GAME}", f"optimizer={optimizer}"]
                + [*agent, *length, *where]
            )
            start = time.perf_counter()
            execute(settings)
            return time.perf_counter() - start

    return STEPS / (seconds(WARMUP + STEPS) - seconds(WARMUP))


def game(suite: str) -> float:
    """Steps per second of one of our games alone, with random actions."""
    env = SUITES[suite](GAME, 0)
    actions = np.random.default_rng(0).integers(env.actions, size=GAME_STEPS).tolist()
    env.begin()
    start = time.perf_counter()
    for action in actions:
        if env.step(action)[2]:
            env.begin()
    return GAME_STEPS / (time.perf_counter() - start)


def gymnasium_game(suite: str) -> float:
    """Steps per second of a game in gymnasium; only Atari has gymnasium's wrappers."""
    if suite == "atari":
        import ale_py

        gymnasium.register_envs(ale_py)
        env = gymnasium.make(f"{GAME.title()}NoFrameskip-v4", frameskip=1)
        env = gymnasium.wrappers.AtariPreprocessing(env, terminal_on_life_loss=True)
    else:
        from minatar.gym import register_envs

        register_envs()
        env = gymnasium.make(f"MinAtar/{GAME.title()}-v1")
    env.reset(seed=0)
    count = int(env.action_space.n)  # type: ignore[attr-defined]
    actions = np.random.default_rng(0).integers(count, size=GAME_STEPS).tolist()
    start = time.perf_counter()
    for action in actions:
        _, _, terminated, truncated, _ = env.step(action)
        if terminated or truncated:
            env.reset()
    return GAME_STEPS / (time.perf_counter() - start)


def main() -> None:
    """Measure, print and write."""
    arguments = measure.parser(__doc__, rounds=3).parse_args()
    torch.set_num_threads(1)
    agents: dict[str, Callable[[], float]] = {}
    python = environment_of_tianshou()
    if python is not None:
        agents["tianshou, Adam"] = partial(tianshou, python)
    agents |= {"ours, Adam": partial(ours, "adam"), "ours, LaProp": partial(ours, "laprop")}
    games = {
        f"{title} alone": {
            "gymnasium": partial(gymnasium_game, suite),
            "ours": partial(game, suite),
        }
        for title, suite in (("MinAtar", "minatar"), ("Atari", "atari"))
    }
    tables = []
    for what, ways in {"agent on Atari": agents, **games}.items():
        rows = measure.table(measure.interleaved(ways, arguments.rounds), "steps_per_second")
        rows.insert(0, "what", what)
        peer = rows.steps_per_second[rows.way.str.contains("tianshou|gymnasium")]
        tables.append(
            rows.assign(ratio=rows.steps_per_second / (peer.item() if len(peer) else np.nan))
        )
    measure.write(arguments.to / "rainbow.csv", pd.concat(tables).assign(threads=1))


if __name__ == "__main__":
    main()
