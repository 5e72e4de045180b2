"""Atari by ale-py and MinAtar behind one interface: :class:`Atari` and :class:`MinAtar`.

Both return single uint8 frames (C, H, W); the agent stacks them. Both have::

    frame = game.begin()  # the next life, or the next game if ``game.over``
    frame, reward, terminal = game.step(action)  # ``reward`` as the game counts it

``terminal`` ends the episode for learning, although the game may go on. ``game.over`` tells whether
the game itself has ended. The packages of a game are imported when the game is made.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from experiments.common.checkpoint import numpy_state, restore_numpy_state
from experiments.common.messages import ConfigError

MINATAR = ("asterix", "breakout", "freeway", "seaquest", "space_invaders")
SCREEN = 84  # height and width in pixels of the agent's view of an Atari screen
SKIP = 4  # frames that an action lasts; the agent sees the maximum of the last two
NOOPS = 30  # a game begins with 1 to so many frames without action

Frame = np.ndarray  # uint8 (C, H, W)


class Atari:
    """An Atari game in the form of `*NoFrameskip-v4` with DeepMind's wrappers.

    There are no sticky actions, and the set of actions is minimal. The screen becomes grey, then
    the maximum over two frames is taken, then it is resized to 84 x 84 by area. A lost life is
    terminal, but the game goes on: the next life begins with a step without action. If the game has
    the action FIRE, a life begins with it, and then with the next action of the set.

    Args:
        game: name of the ROM, such as ``space_invaders``.
        seed: seed of the random number of frames without action.

    Attributes:
        actions: number of actions.
        shape: shape of a frame, (1, 84, 84).
        stack: number of frames in a state.
        unit: pixel value that the network sees as 1.
        over: whether the game has ended, so that the next ``begin`` starts another game.
    """

    shape, stack, unit = (1, SCREEN, SCREEN), 4, 255

    def __init__(self, game: str, seed: int) -> None:
        try:
            import cv2
            from ale_py import ALEInterface, ALEState, LoggerMode, roms
        except ImportError as error:
            raise _missing(error) from None
        self.check(game)
        ALEInterface.setLoggerMode(LoggerMode.Error)
        self.ale = ALEInterface()
        self.ale.setInt("random_seed", seed % 2**31)
        self.ale.setFloat("repeat_action_probability", 0.0)
        path = roms.get_rom_path(game)
        assert path is not None  # check() has found the game
        self.ale.loadROM(path)
        self._state_from = ALEState
        self._resize = cv2.resize
        self._area = cv2.INTER_AREA
        self.codes = self.ale.getMinimalActionSet()
        self.actions = len(self.codes)
        self.fires = self.actions > 2 and self.codes[1].name == "FIRE"
        self.over, self.lives = True, 0
        self._random = torch.Generator().manual_seed(seed)
        self._screens = np.zeros((2, *self.ale.getScreenDims()), np.uint8)  # last, last but one

    @staticmethod
    def check(game: str) -> None:
        """Refuse a game that ale-py does not have, and any game if ale-py is not installed.

        Raises:
            ConfigError: the message names the games that ale-py has, or how to install it.
        """
        try:
            from ale_py import roms
        except ImportError as error:
            raise _missing(error) from None
        if game not in (games := roms.get_all_rom_ids()):
            raise ConfigError(f"task.game={game}: ale-py has {', '.join(games)}")

    def begin(self) -> Frame:
        """First frame of a life; rewards before it do not count."""
        frame = self._new_game() if self.over else self._pass(0)
        for action in (1, 2) if self.fires else ():
            frame = self._pass(action)
        self.over, self.lives = False, self.ale.lives()
        return frame

    def step(self, action: int) -> tuple[Frame, float, bool]:
        """Frame, sum of the rewards, and whether a life was lost or the game ended."""
        frame, reward = self._advance(action)
        # Some games show 0 lives for a while before they are over. Then only the end is terminal.
        before, self.lives = self.lives, self.ale.lives()
        self.over = self.ale.game_over()
        return frame, reward, self.over or 0 < self.lives < before

    def picture(self) -> np.ndarray:
        """The screen in colour, uint8 (210, 160, 3)."""
        return self.ale.getScreenRGB()

    def _new_game(self) -> Frame:
        self.ale.reset_game()
        for _ in range(int(torch.randint(1, NOOPS + 1, (), generator=self._random))):
            self.ale.act(self.codes[0])
            if self.ale.game_over():
                self.ale.reset_game()
        self.ale.getScreenGrayscale(self._screens[0])
        self._screens[1] = 0
        return self._seen()

    def _pass(self, action: int) -> Frame:
        """Frame after an action whose reward does not count, or of a new game if it ended."""
        frame, _ = self._advance(action)
        return self._new_game() if self.ale.game_over() else frame

    def _advance(self, action: int) -> tuple[Frame, float]:
        reward = 0.0
        for i in range(SKIP):
            reward += self.ale.act(self.codes[action])
            if self.ale.game_over():
                break
            if i >= SKIP - 2:
                self.ale.getScreenGrayscale(self._screens[SKIP - 1 - i])
        return self._seen(), reward

    def _seen(self) -> Frame:
        screen = np.maximum(*self._screens)
        return self._resize(screen, (SCREEN, SCREEN), interpolation=self._area)[None]

    def state_dict(self) -> dict[str, Any]:
        """The state of the console with its random numbers, and of the generator here."""
        console = self.ale.cloneState(include_rng=True).serialize()
        return {
            "console": torch.frombuffer(bytearray(console), dtype=torch.uint8),
            "random": self._random.get_state(),
            "screens": torch.from_numpy(self._screens.copy()),
            "over": self.over,
            "lives": self.lives,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there."""
        self.ale.restoreState(self._state_from(state["console"].numpy().tobytes()))
        self._random.set_state(state["random"])
        self._screens[:] = state["screens"].numpy()
        self.over, self.lives = state["over"], state["lives"]


class MinAtar:
    """A game of MinAtar (Young and Tian 2019) as published.

    Actions are sticky with probability 0.1, and the difficulty rises. Arguments and attributes are
    those of :class:`Atari`. The set of actions is minimal. A frame is (C, 10, 10) of 0 and 1, and a
    state is one frame.
    """

    stack, unit = 1, 1

    def __init__(self, game: str, seed: int) -> None:
        try:
            from minatar import Environment
        except ImportError as error:
            raise _missing(error) from None
        self.game = Environment(game)
        self.game.seed(seed % 2**32)
        self.codes = self.game.minimal_action_set()
        self.actions = len(self.codes)
        self.shape = (self.game.n_channels, 10, 10)
        self.over = True

    def begin(self) -> Frame:
        """First frame of a game."""
        self.game.reset()
        self.over = False
        return self._seen()

    def step(self, action: int) -> tuple[Frame, float, bool]:
        """Frame, reward, and whether the game ended; MinAtar has no lives."""
        reward, self.over = self.game.act(self.codes[action])
        return self._seen(), float(reward), bool(self.over)

    def picture(self) -> np.ndarray:
        """The board with one colour for each channel, uint8 (200, 200, 3)."""
        from matplotlib import colormaps

        board = self.game.state()
        top = (board * np.arange(1, 1 + board.shape[2])).max(2)
        colours = colormaps["cubehelix"](np.linspace(0.15, 0.95, 1 + board.shape[2]))[:, :3]
        colours[0] = 0
        return (255 * colours[top]).astype(np.uint8).repeat(20, 0).repeat(20, 1)

    def _seen(self) -> Frame:
        return self.game.state().transpose(2, 0, 1).astype(np.uint8)

    def state_dict(self) -> dict[str, Any]:
        """The state of the game and of its random numbers."""
        inner = {k: v for k, v in vars(self.game.env).items() if k != "random"}
        return {
            "game": _plain(inner),
            "random": numpy_state(self.game.random),
            "last_action": self.game.last_action,
            "over": bool(self.over),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there."""
        vars(self.game.env).update(_arrays(state["game"]))
        restore_numpy_state(self.game.random, state["random"])
        self.game.last_action = state["last_action"]
        self.over = state["over"]


SUITES: dict[str, type[Atari | MinAtar]] = {"atari": Atari, "minatar": MinAtar}


def _missing(error: ImportError) -> ConfigError:
    return ConfigError(f"task=rainbow: {error.name} is not installed; pip install 'laprop[atari]'")


def _plain(value: Any) -> Any:
    """A copy with tensors in place of arrays, as a checkpoint may only hold plain types."""
    if isinstance(value, np.ndarray):
        return torch.from_numpy(value.copy())
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return type(value)(map(_plain, value)) if isinstance(value, list | tuple) else value


def _arrays(value: Any) -> Any:
    """The inverse of :func:`_plain`."""
    if isinstance(value, torch.Tensor):
        return value.numpy().copy()
    if isinstance(value, dict):
        return {key: _arrays(item) for key, item in value.items()}
    return type(value)(map(_arrays, value)) if isinstance(value, list | tuple) else value
