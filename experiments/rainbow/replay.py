"""Prioritised replay of n-step transitions, in which every frame is stored once."""

from collections import deque
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor


class SumTree:
    """Non-negative numbers with the sums of their blocks of 2, 4, 8, ...; all zero at first.

    Args:
        size: how many numbers.
    """

    def __init__(self, size: int) -> None:
        self.depth = max(size - 1, 1).bit_length()
        self.leaves = 1 << self.depth
        self.nodes = np.zeros(2 * self.leaves)  # node i has the children 2 i and 2 i + 1

    @property
    def total(self) -> float:
        """Sum of all."""
        return float(self.nodes[1])

    def __getitem__(self, index: Any) -> Any:
        return self.nodes[index + self.leaves]

    def __setitem__(self, index: Any, value: Any) -> None:
        """One number, or several at an array of places."""
        node = index + self.leaves
        self.nodes[node] = value
        for _ in range(self.depth):
            node = node >> 1
            self.nodes[node] = self.nodes[2 * node] + self.nodes[2 * node + 1]

    def find(self, mass: np.ndarray) -> np.ndarray:
        """For each mass in [0, total) the place at which the running sum passes it."""
        node = np.ones(len(mass), np.int64)
        for _ in range(self.depth):
            left = self.nodes[2 * node]
            right = mass >= left
            mass = mass - np.where(right, left, 0)
            node = 2 * node + right
        return node - self.leaves


class Batch(NamedTuple):
    """A minibatch of B transitions; states are uint8 (B, stack C, H, W)."""

    states: Tensor
    actions: Tensor  # int64 (B,)
    returns: Tensor  # sum of the discounted rewards (B,)
    following: Tensor  # states from which the value of the rest is taken
    discounts: Tensor  # of that value, 0 where there is no rest (B,)
    weights: Tensor  # importance of each (B,)
    index: np.ndarray  # places in the memory


class Replay:
    """The agent's memory: it is told frames and steps, and hands out n-step transitions.

    A transition holds numbers of frames, and a frame is kept for as long as a transition, or the
    state that the agent is in, holds it.

    Args:
        capacity: transitions.
        shape: of a frame.
        stack: frames in a state.
        n_step: steps whose rewards are added; fewer where an episode ends.
        discount: of a reward that comes a step later.
        alpha: exponent of the priorities.
        leak: a new transition has the priority ``m``, which each priority p that comes in makes
            ``max(leak m, p)``; 1: the largest ever.
        random_overwrite: a full memory loses a random transition for each new one, not the oldest.
        stratified: draw one transition from each of B equal parts of the sum of the priorities,
            instead of all from the whole.
        normalise: divide the weights of a minibatch by the largest.
        reversed_returns: as the authors' program has it: the latest reward is not discounted, the
            earliest most; at the end of an episode only the oldest open window becomes a
            transition, the others are dropped.
        generator: of everything random here, on the CPU.
    """

    def __init__(
        self,
        capacity: int,
        shape: tuple[int, ...],
        *,
        stack: int,
        n_step: int,
        discount: float,
        alpha: float,
        leak: float,
        random_overwrite: bool,
        stratified: bool,
        normalise: bool,
        reversed_returns: bool,
        generator: torch.Generator,
    ) -> None:
        self.capacity, self.stack, self.n_step, self.discount = capacity, stack, n_step, discount
        self.alpha, self.leak = alpha, leak
        self.random_overwrite, self.stratified = random_overwrite, stratified
        self.normalise, self.reversed_returns = normalise, reversed_returns
        self.generator = generator
        self.tree = SumTree(capacity)
        self.filled = 0
        self.largest = 1.0  # priority of a new transition
        self.oldest = 0  # place that is overwritten next, where that is not random
        self.ids = np.zeros((capacity, 2, stack), np.int32)  # frames of a state and its follower
        self.actions = np.zeros(capacity, np.int64)
        self.returns = np.zeros(capacity, np.float32)
        self.discounts = np.zeros(capacity, np.float32)
        room = self._room()
        self.frames = np.empty((room, *shape), np.uint8)  # memory is real where it was written
        self.held = np.zeros(room, np.int32)  # how many states hold each frame
        self.freed = np.zeros(room, np.int32)  # numbers of frames that no state holds any more
        self.free = 0  # how many entries of freed count
        self.touched = 0  # frames that were ever written
        self.state: tuple[int, ...] = ()  # frames of the state that the agent is in
        self.window: deque[tuple[tuple[int, ...], int, float]] = deque()  # steps without their end

    def _room(self) -> int:
        """More frames than are held at once.

        k = stack + n_step transitions hold a frame. With random overwriting each lives for a
        geometric time of mean N, the last of k for 1 + 1/2 + ... + 1/k times as long on average.
        """
        holders = self.stack + self.n_step
        alone = (self.stack + min(self.stack, self.n_step)) * self.capacity + holders
        expected = self.capacity * sum(1 / k for k in range(1, holders + 1))
        return min(alone, int(1.05 * expected + 20 * (holders * self.capacity) ** 0.5)) + holders

    def __len__(self) -> int:
        return self.filled

    # What the agent lives through

    def begin(self, frame: np.ndarray) -> None:
        """An episode begins: the state is this frame, ``stack`` times."""
        self._enter((self._store(frame),) * self.stack)

    def append(self, action: int, reward: float, frame: np.ndarray, terminal: bool) -> None:
        """The agent acted; the reward and the next frame came of it."""
        self._hold(self.state)
        self.window.append((self.state, action, reward))
        self._enter((*self.state[1:], self._store(frame)))
        if len(self.window) == self.n_step or (terminal and self.reversed_returns):
            self._add(terminal)
        if terminal:
            self._end(terminal=True)

    def cut(self) -> None:
        """The episode is left without having ended: the last state stands for the rest."""
        self._end(terminal=False)

    def _end(self, terminal: bool) -> None:
        while self.window:
            if self.reversed_returns:
                self._release(self.window.popleft()[0])
            else:
                self._add(terminal)

    def _add(self, terminal: bool) -> None:
        """The oldest open window becomes a transition into the present state."""
        rewards = [reward for _, _, reward in self.window]
        if self.reversed_returns:
            rewards, n = rewards[::-1], self.n_step
        else:
            n = len(rewards)
        state, action, _ = self.window.popleft()
        place = self._place()
        self.ids[place] = state, self.state  # the window's hold passes on to the transition
        self._hold(self.state)
        self.actions[place] = action
        self.returns[place] = sum(r * self.discount**i for i, r in enumerate(rewards))
        self.discounts[place] = 0.0 if terminal else self.discount**n
        self.tree[place] = self.largest**self.alpha

    def _place(self) -> int:
        if self.filled < self.capacity:
            self.filled += 1
            return self.filled - 1
        if self.random_overwrite:
            place = int(torch.randint(self.capacity, (), generator=self.generator))
        else:
            place, self.oldest = self.oldest, (self.oldest + 1) % self.capacity
        self._release(self.ids[place].ravel().tolist())
        return place

    # Frames

    def _store(self, frame: np.ndarray) -> int:
        """Keep a frame that nothing holds yet; its number."""
        if self.free:
            self.free -= 1
            number = int(self.freed[self.free])
        else:
            number, self.touched = self.touched, self.touched + 1
        self.frames[number] = frame
        return number

    def _enter(self, state: tuple[int, ...]) -> None:
        self._hold(state)
        self._release(self.state)
        self.state = state

    def _hold(self, state: tuple[int, ...]) -> None:
        for number in state:
            self.held[number] += 1

    def _release(self, state: Any) -> None:
        for number in state:
            self.held[number] -= 1
            if not self.held[number]:
                self.freed[self.free] = number
                self.free += 1

    def _stacked(self, ids: Any) -> Tensor:
        """Frames (..., stack) to states (..., stack C, H, W)."""
        frames = torch.from_numpy(self.frames[ids])
        return frames.flatten(-4, -3)

    def present(self) -> Tensor:
        """The state that the agent is in, uint8 (1, stack C, H, W)."""
        return self._stacked([self.state])

    # What is learnt from

    def sample(self, size: int, beta: float) -> Batch:
        """Transitions with probability in proportion to priority^alpha; weights (N P)^-beta."""
        u = torch.rand(size, generator=self.generator, dtype=torch.float64).numpy()
        total = self.tree.total
        mass = (np.arange(size) + u) / size * total if self.stratified else u * total
        index = np.minimum(self.tree.find(mass), self.filled - 1)  # where rounding went past it
        weights = (self.filled * self.tree[index] / total) ** -beta
        if self.normalise:
            weights /= weights.max()
        ids = self.ids[index]
        return Batch(
            self._stacked(ids[:, 0]),
            torch.from_numpy(self.actions[index]),
            torch.from_numpy(self.returns[index]),
            self._stacked(ids[:, 1]),
            torch.from_numpy(self.discounts[index]),
            torch.from_numpy(weights.astype(np.float32)),
            index,
        )

    def update(self, index: np.ndarray, priorities: np.ndarray) -> None:
        """New priorities, positive, of the transitions at these places."""
        self.tree[index] = priorities.astype(np.float64) ** self.alpha
        leaks = self.leak ** np.arange(len(index) - 1, -1, -1)
        leaked = self.leak ** len(index) * self.largest
        self.largest = float(max(leaked, (leaks * priorities).max()))

    # Checkpoints

    ARRAYS = ("ids", "actions", "returns", "discounts", "held", "freed")
    NUMBERS = ("filled", "largest", "oldest", "free", "touched", "state")

    def state_dict(self) -> dict[str, Any]:
        """Everything; of the frames those that were ever written. Arrays are not copied."""
        return {
            **{name: torch.from_numpy(getattr(self, name)) for name in self.ARRAYS},
            **{name: getattr(self, name) for name in self.NUMBERS},
            "priorities": torch.from_numpy(self.tree.nodes),
            "window": list(self.window),
            # Cut by NumPy: a cut of a tensor would be saved with all of the memory behind it.
            "frames": torch.from_numpy(self.frames[: self.touched]),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there."""
        for name in self.ARRAYS:
            getattr(self, name)[:] = state[name].numpy()
        for name in self.NUMBERS:
            setattr(self, name, state[name])
        self.tree.nodes[:] = state["priorities"].numpy()
        self.window = deque(state["window"])
        self.frames[: self.touched] = state["frames"].numpy()
