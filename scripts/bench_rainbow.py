"""Agent steps per second of Rainbow on MinAtar, against a plain implementation; and of the games.

``python -m scripts.bench_rainbow`` writes ``results/benchmarks/rainbow.csv``. The plain agent is
the same one as public repositories write it: noisy layers that keep their noise as buffers and
form their weights in every forward pass, transitions as tuples in a list, sampling by
``numpy.random.choice``, the projection by ``index_add_``, torch's Adam as it comes. Counted are
steps on Breakout while learning, an update of 32 transitions to 4 steps. ``ratio`` is to the plain
agent, and for games to gymnasium's wrappers. One thread; the ways are run in turn.
"""

import math
import tempfile
import time
from collections import deque
from collections.abc import Callable
from functools import partial

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from experiments.common.config import expand
from experiments.common.execution import execute
from experiments.rainbow.environments import SUITES
from scripts import benchmark

GAME = "breakout"
STEPS = 2000  # counted, after WARMUP
WARMUP = 1000  # with learning in its last fifth
GAME_STEPS = 2000
REPEATS = 3
ATOMS, LIMIT, DISCOUNT, N_STEP = 51, 10.0, 0.99, 3


class NoisyLinear(nn.Module):
    """As in the tutorials."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        bound = 1 / math.sqrt(inputs)
        self.weight_mu = nn.Parameter(torch.empty(outputs, inputs).uniform_(-bound, bound))
        self.weight_sigma = nn.Parameter(torch.full((outputs, inputs), 0.5 * bound))
        self.bias_mu = nn.Parameter(torch.empty(outputs).uniform_(-bound, bound))
        self.bias_sigma = nn.Parameter(torch.full((outputs,), 0.5 / math.sqrt(outputs)))
        self.register_buffer("weight_epsilon", torch.empty(outputs, inputs))
        self.register_buffer("bias_epsilon", torch.empty(outputs))
        self.reset_noise()

    def reset_noise(self) -> None:
        """Fresh factorised noise."""
        z_in, z_out = torch.randn(self.weight_mu.shape[1]), torch.randn(self.weight_mu.shape[0])
        e_in, e_out = (z.sign() * z.abs().sqrt() for z in (z_in, z_out))
        self.weight_epsilon.copy_(torch.outer(e_out, e_in))
        self.bias_epsilon.copy_(e_out)

    def forward(self, x: Tensor) -> Tensor:
        """With the noise of the last reset."""
        weight = self.weight_mu + self.weight_sigma * self.weight_epsilon
        return nn.functional.linear(x, weight, self.bias_mu + self.bias_sigma * self.bias_epsilon)


class Network(nn.Module):
    """Probabilities (N, actions, atoms)."""

    def __init__(self, channels: int, actions: int) -> None:
        super().__init__()
        self.actions = actions
        self.features = nn.Sequential(nn.Conv2d(channels, 16, 3), nn.ReLU(), nn.Flatten())
        self.value = nn.Sequential(NoisyLinear(1024, 128), nn.ReLU(), NoisyLinear(128, ATOMS))
        self.advantage = nn.Sequential(
            NoisyLinear(1024, 128), nn.ReLU(), NoisyLinear(128, ATOMS * actions)
        )

    def reset_noise(self) -> None:
        """Of every layer."""
        for module in self.modules():
            if isinstance(module, NoisyLinear):
                module.reset_noise()

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        x = self.features(x)
        value = self.value(x).view(-1, 1, ATOMS)
        advantage = self.advantage(x).view(-1, self.actions, ATOMS)
        return (value + advantage - advantage.mean(1, keepdim=True)).softmax(2)


class Memory:
    """Prioritised, of n-step transitions."""

    def __init__(self, capacity: int) -> None:
        self.transitions: list[tuple[np.ndarray, int, float, np.ndarray, float]] = []
        self.priorities = np.zeros(capacity)
        self.capacity, self.largest = capacity, 1.0

    def push(self, *transition: object) -> None:
        """The newest in a random place, once it is full."""
        if len(self.transitions) < self.capacity:
            place = len(self.transitions)
            self.transitions.append(transition)  # type: ignore[arg-type]
        else:
            place = np.random.randint(self.capacity)  # noqa: NPY002
            self.transitions[place] = transition  # type: ignore[assignment]
        self.priorities[place] = self.largest

    def sample(self, size: int, beta: float) -> tuple[Tensor, ...]:
        """Columns of the transitions, their weights, and their places."""
        p = self.priorities[: len(self.transitions)] ** 0.5
        p /= p.sum()
        index = np.random.choice(len(p), size, p=p)  # noqa: NPY002
        columns = zip(*(self.transitions[i] for i in index), strict=True)
        weights = (len(p) * p[index]) ** -beta
        return (*(torch.as_tensor(np.array(c)) for c in columns), torch.as_tensor(weights), index)

    def update(self, index: np.ndarray, priorities: np.ndarray) -> None:
        """After an update."""
        for i, priority in zip(index, priorities, strict=True):
            self.priorities[i] = priority
            self.largest = max(0.99 * self.largest, priority)


def loss_of(net: Network, target: Network, batch: tuple[Tensor, ...], support: Tensor) -> Tensor:
    """Cross-entropy of each prediction with its projected target."""
    states, actions, returns, following, rest = batch
    rows, size = torch.arange(len(actions)), len(actions)
    with torch.no_grad():
        best = (net(following.float()) * support).sum(2).argmax(1)
        p = target(following.float())[rows, best]
        moved = returns.float()[:, None] + rest.float()[:, None] * support
        b = (moved.clamp(-LIMIT, LIMIT) + LIMIT) / (2 * LIMIT / (ATOMS - 1))
        lower, upper = b.floor().long(), b.ceil().long()
        lower[(upper > 0) & (lower == upper)] -= 1
        upper[(lower < ATOMS - 1) & (lower == upper)] += 1
        offset = torch.arange(size)[:, None] * ATOMS
        goal = torch.zeros(size * ATOMS)
        goal.index_add_(0, (lower + offset).flatten(), (p * (upper - b)).flatten())
        goal.index_add_(0, (upper + offset).flatten(), (p * (b - lower)).flatten())
    predicted = net(states.float())[rows, actions.long()]
    return -(goal.view(size, ATOMS) * predicted.clamp(min=1e-8).log()).sum(1)


def plain() -> float:
    """Steps per second of the plain agent."""
    from minatar import Environment

    env = Environment(GAME)
    codes = env.minimal_action_set()
    net, target = (Network(env.n_channels, len(codes)) for _ in range(2))
    target.load_state_dict(net.state_dict())
    optimizer = torch.optim.Adam(net.parameters(), lr=2.5e-4, eps=1.5e-4)
    support = torch.linspace(-LIMIT, LIMIT, ATOMS)
    memory, window = Memory(100_000), deque()  # type: ignore[var-annotated]

    def seen() -> np.ndarray:
        return env.state().transpose(2, 0, 1).astype(np.uint8)

    state = seen()
    for step in range(WARMUP + STEPS):
        if step == WARMUP:
            start = time.perf_counter()
        net.reset_noise()
        if np.random.rand() < 0.01:  # noqa: NPY002
            action = np.random.randint(len(codes))  # noqa: NPY002
        else:
            with torch.no_grad():
                p = net(torch.as_tensor(state[None]).float())
                action = int((p * support).sum(2).argmax(1))
        reward, over = env.act(codes[action])
        after = seen()
        window.append((state, action, reward))
        while window and (over or len(window) == N_STEP):
            total = sum(r * DISCOUNT**i for i, (_, _, r) in enumerate(window))
            rest = 0.0 if over else DISCOUNT ** len(window)
            first = window.popleft()
            memory.push(first[0], first[1], total, after, rest)
        state = after
        if over:
            env.reset()
            state = seen()
        if step >= 0.8 * WARMUP and step % 4 == 0:
            *batch, weights, index = memory.sample(32, 0.5)
            losses = loss_of(net, target, tuple(batch), support)
            optimizer.zero_grad()
            (weights.float() * losses).mean().backward()
            optimizer.step()
            memory.update(index, losses.detach().numpy() + 1e-7)
        if step % 1000 == 0:
            target.load_state_dict(net.state_dict())
    return STEPS / (time.perf_counter() - start)


def ours(*options: str) -> float:
    """Steps per second of the task: a run's time beyond that of one that ends after WARMUP."""

    def seconds(steps: int) -> float:
        values = [f"task.steps={steps}", f"task.learning_starts={int(0.8 * WARMUP)}"]
        with tempfile.TemporaryDirectory() as output:
            common = ["task.evaluate_every=0", "task.film=0", "threads=1", f"output={output}"]
            (settings,) = expand(
                ["task=rainbow", "scale=small", f"task.game={GAME}", *common, *values, *options]
            )
            start = time.perf_counter()
            execute(settings)
            return time.perf_counter() - start

    return STEPS / (seconds(WARMUP + STEPS) - seconds(WARMUP))


def game(suite: str) -> float:
    """Steps per second of a game of ours alone, at random."""
    env = SUITES[suite](GAME, 0)
    actions = np.random.default_rng(0).integers(env.actions, size=GAME_STEPS).tolist()
    env.begin()
    start = time.perf_counter()
    for action in actions:
        if env.step(action)[2]:
            env.begin()
    return GAME_STEPS / (time.perf_counter() - start)


def gymnasium_game(suite: str) -> float:
    """The same by gymnasium: its wrappers for Atari, MinAtar's own environment for MinAtar."""
    import gymnasium

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


WAYS: dict[str, dict[str, Callable[[], float]]] = {
    "agent on MinAtar": {
        "plain, Adam": plain,
        "ours, Adam": partial(ours, "optimizer=adam"),
        "ours, LaProp": partial(ours, "optimizer=laprop"),
    },
    "MinAtar alone": {
        "gymnasium": partial(gymnasium_game, "minatar"),
        "ours": partial(game, "minatar"),
    },
    "Atari alone": {
        "gymnasium": partial(gymnasium_game, "atari"),
        "ours": partial(game, "atari"),
    },
}


def main() -> None:
    """Measure, print and write."""
    torch.set_num_threads(1)
    ours("optimizer=laprop")  # what is imported at first use
    tables = []
    for what, ways in WAYS.items():
        rows = benchmark.table(benchmark.interleaved(ways, REPEATS), "steps_per_second")
        rows.insert(0, "what", what)
        tables.append(rows.assign(ratio=rows.steps_per_second / rows.steps_per_second.iloc[0]))
    benchmark.write("rainbow", pd.concat(tables).assign(threads=1))


if __name__ == "__main__":
    main()
