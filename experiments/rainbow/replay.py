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
        size: number of numbers.
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
        """Set one number, or several at an array of places."""
        node = index + self.leaves
        self.nodes[node] = value
        for _ in range(self.depth):
            node = node >> 1
            self.nodes[node] = self.nodes[2 * node] + self.nodes[2 * node + 1]

    def find(self, mass: np.ndarray) -> np.ndarray:
        """For each mass in [0, total) the first place whose running sum is above it."""
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
    following: Tensor  # states after the n steps, whose value is added to the returns
    discounts: Tensor  # factors of that value, 0 where the episode ended (B,)
    weights: Tensor  # importance weights (B,)
    places: np.ndarray  # in the memory


class Replay:
    """The agent's memory, which turns frames and steps into n-step transitions.

    A transition stores the numbers of its frames. A frame is kept as long as a transition, an
    unfinished window or the agent's present state refers to it.

    Args:
        capacity: largest number of transitions.
        shape: shape of a frame.
        stack: number of frames in a state.
        n_step: number of steps whose rewards are added; fewer at the end of an episode.
        discount: factor of a reward for each step that it comes later.
        alpha: exponent of the priorities.
        leak: a new transition has the priority ``m``. Each priority p that is updated sets m to
            ``max(leak m, p)``; with 1, m is the largest priority so far.
        random_overwrite: whether a full memory loses a random transition for each new one; if not,
            it loses the oldest.
        stratified: whether one transition is drawn from each of B equal parts of the sum of the
            priorities; if not, all are drawn from the whole sum.
        normalise: whether the weights of a minibatch are divided by the largest.
        reversed_returns: whether returns are those of the authors' program: the latest reward is
            not discounted and the earliest most; at the end of an episode only the oldest
            unfinished window becomes a transition, and the others are dropped.
        generator: generator of all random numbers here, on the CPU.
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
        self.oldest = 0  # place that is overwritten next, unless it is random
        self.ids = np.zeros((capacity, 2, stack), np.int32)  # frames of a state and its follower
        self.actions = np.zeros(capacity, np.int64)
        self.returns = np.zeros(capacity, np.float32)
        self.discounts = np.zeros(capacity, np.float32)
        room = self._room()
        self.frames = np.empty((room, *shape), np.uint8)  # only written pages take real memory
        self.held = np.zeros(room, np.int32)  # number of references to each frame
        self.freed = np.zeros(room, np.int32)  # numbers of frames without references, to use again
        self.free = 0  # number of valid entries of freed
        self.touched = 0  # number of frames that were ever written
        self.state: tuple[int, ...] = ()  # frames of the agent's present state
        self.window: deque[tuple[tuple[int, ...], int, float]] = deque()  # unfinished transitions

    def _room(self) -> int:
        """A number of frames that is enough for all references at any time.

        At most k = stack + n_step transitions refer to a frame. With random overwriting, each
        transition lives for a geometrically distributed time of mean N, the capacity. The last of
        the k lives (1 + 1/2 + ... + 1/k) N on average.
        """
        holders = self.stack + self.n_step
        alone = (self.stack + min(self.stack, self.n_step)) * self.capacity + holders
        expected = self.capacity * sum(1 / k for k in range(1, holders + 1))
        return min(alone, int(1.05 * expected + 20 * (holders * self.capacity) ** 0.5)) + holders

    def __len__(self) -> int:
        return self.filled

    # Steps of the agent

    def begin(self, frame: np.ndarray) -> None:
        """Begin an episode; its state is this frame, ``stack`` times."""
        self._enter((self._store(frame),) * self.stack)

    def append(self, action: int, reward: float, frame: np.ndarray, terminal: bool) -> None:
        """Add an action of the agent, its reward, and the frame that followed."""
        self._hold(self.state)
        self.window.append((self.state, action, reward))
        self._enter((*self.state[1:], self._store(frame)))
        if len(self.window) == self.n_step or (terminal and self.reversed_returns):
            self._add(terminal)
        if terminal:
            self._end(terminal=True)

    def cut(self) -> None:
        """Truncate the episode: unfinished windows bootstrap from the value of the last state."""
        self._end(terminal=False)

    def _end(self, terminal: bool) -> None:
        while self.window:
            if self.reversed_returns:
                self._release(self.window.popleft()[0])
            else:
                self._add(terminal)

    def _add(self, terminal: bool) -> None:
        """Turn the oldest unfinished window into a transition to the present state."""
        rewards = [reward for _, _, reward in self.window]
        if self.reversed_returns:
            rewards, n = rewards[::-1], self.n_step
        else:
            n = len(rewards)
        state, action, _ = self.window.popleft()
        place = self._place()
        self.ids[place] = state, self.state  # the window's reference becomes the transition's
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
        """Store a frame without references, and return its number."""
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
        """The agent's present state, uint8 (1, stack C, H, W)."""
        return self._stacked([self.state])

    # Minibatches

    def sample(self, size: int, beta: float) -> Batch:
        """Transitions, drawn with probabilities P proportional to priority^alpha.

        Their importance weights are (N P)^-beta, where N is the number of transitions.
        """
        u = torch.rand(size, generator=self.generator, dtype=torch.float64).numpy()
        total = self.tree.total
        mass = (np.arange(size) + u) / size * total if self.stratified else u * total
        index = np.minimum(self.tree.find(mass), self.filled - 1)  # rounding can lead past the end
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
        """Set new, positive priorities of the transitions at these places."""
        self.tree[index] = priorities.astype(np.float64) ** self.alpha
        leaks = self.leak ** np.arange(len(index) - 1, -1, -1)
        leaked = self.leak ** len(index) * self.largest
        self.largest = float(max(leaked, (leaks * priorities).max()))

    # Checkpoints

    ARRAYS = ("ids", "actions", "returns", "discounts", "held", "freed")
    NUMBERS = ("filled", "largest", "oldest", "free", "touched", "state")

    def state_dict(self) -> dict[str, Any]:
        """All that a checkpoint needs, with all frames that were written; arrays are not copied."""
        return {
            **{name: torch.from_numpy(getattr(self, name)) for name in self.ARRAYS},
            **{name: getattr(self, name) for name in self.NUMBERS},
            "priorities": torch.from_numpy(self.tree.nodes),
            "window": list(self.window),
            # A slice of the NumPy array, because torch saves a slice of a tensor with all of the
            # memory behind it.
            "frames": torch.from_numpy(self.frames[: self.touched]),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned."""
        for name in self.ARRAYS:
            getattr(self, name)[:] = state[name].numpy()
        for name in self.NUMBERS:
            setattr(self, name, state[name])
        self.tree.nodes[:] = state["priorities"].numpy()
        self.window = deque(state["window"])
        self.frames[: self.touched] = state["frames"].numpy()
