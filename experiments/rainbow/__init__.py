"""Rainbow on Atari and MinAtar (paper 5.5, C.6, Figures 6 and 11).

Rainbow (Hessel et al. 2018) has double Q-learning, prioritised replay, dueling streams, n-step
returns, a distribution over returns (C51) and noisy layers. This file contains the agent's loop.
The games are in ``environments.py``, the memory is in ``replay.py``, the network and its loss are
in ``network.py``. (R) marks what the authors' repository has.

The paper's agent is a variant of Rainbow; its settings are in ``configs/task/rainbow.yaml``. The
authors' program deviates in four places from their text, or from what it evidently should do. By
default this agent has none of these deviations. ``task.authors=true`` has all of them, and
``task.authors=[dueling]`` has one:

==============  ====================================================================================
``noise``       after a copy of the weights both networks share one noise, until the step number
                reaches a multiple of 1024; from then until the next copy each draws its own
``dueling``     the prediction comes from the advantages alone, so the value stream does not learn
``multi_step``  the latest reward of a window is not discounted and the earliest is discounted
                most; at the end of an episode all unfinished windows but the oldest are dropped
``cutoff``      a life is cut off after 9,950 steps in training and 5,000 in evaluations, in place
                of ``task.cutoff`` steps in both
==============  ====================================================================================

The authors' published logs come from a program with all four deviations. ``dueling`` and
``multi_step`` change nothing in their Breakout run, which has no dueling and n = 1.
"""

import difflib
import math
from typing import Annotated, Literal

import numpy as np
import torch
from annotated_types import Ge, Gt, Interval
from PIL import Image
from torch import Tensor

from experiments.common.run import Run
from experiments.common.schema import Unit, settings
from experiments.common.settings import Settings
from experiments.rainbow.environments import MINATAR, SUITES, Atari, MinAtar
from experiments.rainbow.network import CONVOLUTIONS, Network, Noise, best_actions, losses
from experiments.rainbow.replay import Batch, Replay

VERSION = 2  # raise it when the same settings give other numbers
DEVIATIONS = ("noise", "dueling", "multi_step", "cutoff")
TABLE = 1024  # number of steps for which each network of the authors draws noise at once
CUTOFF, CUTOFF_IN_EVALUATION = 9950, 5000  # steps of a life in the authors' program
PRIORITY = 1e-7  # added to every priority (R)


@settings
class Config:
    """The agent. One step of the agent is four frames of an Atari game, or one frame of MinAtar.

    "(Rainbow)" marks the value in Hessel et al. (2018).

    Attributes:
        suite: ``atari`` or ``minatar``.
        game: name of the game, such as ``space_invaders``.
        network: the convolutions: ``nature``, ``data_efficient`` or ``minatar``.
        hidden: units of the noisy layer before the output, in each stream.
        sigma: initial scale of the noise.
        atoms: number of atoms of the distribution over returns.
        limit: the atoms are equally spaced on [-limit, limit].
        discount: factor of a reward for each step that it comes later.
        n_step: number of steps whose rewards are added before the network values the rest.
        double: whether the online network chooses the action that the target network values.
        dueling: whether value and advantages have a stream each.
        replay: number of transitions in the memory.
        random_overwrite: whether a full memory loses a random transition for each new one; if not,
            it loses the oldest (Rainbow).
        alpha: exponent of the priorities.
        beta: first exponent of the importance weights.
        beta_steps: number of steps in which this exponent grows linearly to 1.
        leak: for each priority that is updated, the priority of new transitions is multiplied by
            this factor, unless the updated one is larger and replaces it; 1: new transitions have
            the largest priority so far (Rainbow).
        stratified: whether a minibatch is drawn from equal parts of the priorities (Rainbow).
        normalise: whether the weights of a minibatch are divided by the largest (Rainbow).
        epsilon: final probability of a random action; 0: only the noise explores (Rainbow).
        epsilon_decay: time constant, in steps, with which this probability decays from 1 to
            epsilon; 0: it is epsilon at once.
        steps: number of steps of the agent in the whole run.
        learning_starts: number of steps before the first update.
        train_every: steps from one update to the next.
        batch_size: number of transitions in an update.
        target_every: steps from one copy of the weights to the target network to the next.
        cutoff: steps after which a life is cut off: actions are then random until it is lost.
        log_every: number of steps over which a point of the training curve is the mean.
        evaluate_every: steps from one evaluation to the next; 0: none.
        evaluate_games: number of games in an evaluation. All have the same noise, that of the
            present step, and greedy actions.
        authors: the authors' deviations: ``true`` for all, or a list of names.
        film: number of pictures of a last game, in the strip ``<game>.jpg`` of the run of seed 0;
            0: none.
        compile: mode of torch.compile for the loss; ``reduce-overhead`` makes CUDA graphs.
    """

    suite: Literal["atari", "minatar"]
    game: str
    network: Literal[tuple(CONVOLUTIONS)]  # type: ignore[valid-type]
    hidden: Annotated[int, Gt(0)]
    sigma: Annotated[float, Gt(0)]
    atoms: Annotated[int, Ge(2)]
    limit: Annotated[float, Gt(0)]
    discount: Unit
    n_step: Annotated[int, Gt(0)]
    double: bool
    dueling: bool
    replay: Annotated[int, Gt(0)]
    random_overwrite: bool
    alpha: Annotated[float, Interval(ge=0, le=1)]
    beta: Annotated[float, Interval(ge=0, le=1)]
    beta_steps: Annotated[int, Gt(0)]
    leak: Annotated[float, Interval(ge=0, le=1)]
    stratified: bool
    normalise: bool
    epsilon: Annotated[float, Interval(ge=0, le=1)]
    epsilon_decay: Annotated[float, Ge(0)]
    steps: Annotated[int, Gt(0)]
    learning_starts: Annotated[int, Gt(0)]
    train_every: Annotated[int, Gt(0)]
    batch_size: Annotated[int, Gt(0)]
    target_every: Annotated[int, Gt(0)]
    cutoff: Annotated[int, Gt(0)]
    log_every: Annotated[int, Gt(0)]
    evaluate_every: Annotated[int, Ge(0)]
    evaluate_games: Annotated[int, Ge(2)]
    authors: bool | list[Literal[DEVIATIONS]]  # type: ignore[valid-type]
    film: Annotated[int, Ge(0)]
    compile: Literal["none", "default", "reduce-overhead"]

    def __post_init__(self) -> None:
        if self.suite == "minatar" and self.game not in MINATAR:
            near = difflib.get_close_matches(self.game, MINATAR, 1)
            hint = f" (did you mean {near[0]}?)" if near else ""
            raise ValueError(
                f"task.game={self.game}: must be one of {', '.join(MINATAR)}{hint}, "
                "or task.suite=atari"
            )
        if (self.suite == "minatar") != (self.network == "minatar"):
            raise ValueError(
                f"task.network={self.network}: sees screens of another size than task.suite="
                f"{self.suite} has"
            )

        if self.learning_starts < self.n_step:
            raise ValueError(
                f"task.learning_starts={self.learning_starts}: must be at least task.n_step="
                f"{self.n_step}, the steps of a transition"
            )

    def as_authors(self, deviation: str) -> bool:
        """Whether a deviation, one of :data:`DEVIATIONS`, is switched on."""
        if isinstance(self.authors, bool):
            return self.authors
        return deviation in self.authors

    def cutoff_in(self, evaluation: bool) -> int:
        """Steps of a life, in training or in an evaluation, after which it is cut off."""
        if self.as_authors("cutoff"):
            return CUTOFF_IN_EVALUATION if evaluation else CUTOFF
        return self.cutoff

    def epsilon_at(self, step: int) -> float:
        """Probability of a random action."""
        decayed = math.exp(-step / self.epsilon_decay) if self.epsilon_decay else 0.0
        return self.epsilon + (1 - self.epsilon) * decayed

    def beta_at(self, step: int) -> float:
        """Exponent of the importance weights."""
        return self.beta + (1 - self.beta) * min(1.0, step / self.beta_steps)


def shared(cfg: Config, step: int) -> bool:
    """Whether the two networks have the same noise at a step, counted from 0.

    Each network of the authors has a table of noise for 1024 steps. Copying the weights also copies
    the table. When its table is used up, each network draws a new one for itself.
    """
    copied = step // cfg.target_every * cfg.target_every
    return not cfg.as_authors("noise") or (step + 1) // TABLE == copied // TABLE


# Games --------------------------------------------------------------------------------------------


def play(
    cfg: Config, net: Network, noise: Noise, support: Tensor, seeds: list[int], film: int = 0
) -> tuple[list[float], list[np.ndarray]]:
    """Play one game for each seed, in parallel, with this noise and greedy actions.

    After the cut-off of a life the actions are random until it is lost; the rewards of these steps
    do not count.

    Args:
        cfg, net, noise, support: the agent's settings, network, noise and atoms.
        seeds: seeds of the games.
        film: number of pictures of the first game to keep, at equal distances.

    Returns:
        the scores, and the pictures.
    """
    games = [SUITES[cfg.suite](cfg.game, seed) for seed in seeds]
    limit = cfg.cutoff_in(evaluation=True)
    states = torch.stack([torch.from_numpy(g.begin()).repeat(g.stack, 1, 1) for g in games])
    scores, playing = [0.0] * len(games), list(range(len(games)))
    lengths = [0] * len(games)  # of the present lives
    random = torch.Generator().manual_seed(seeds[0])
    pictures: list[np.ndarray] = []
    with torch.no_grad():
        layers = net.formed(noise)
        while playing:
            logits = net(states[playing].to(net.device), layers)
            actions = best_actions(logits, support).tolist()
            if film and 0 in playing:
                pictures.append(games[0].picture())
            for i, action in zip(playing, actions, strict=True):
                game = games[i]
                cut = lengths[i] >= limit
                if cut:
                    action = int(torch.randint(game.actions, (), generator=random))
                frame, reward, terminal = game.step(action)
                scores[i] += 0.0 if cut else reward
                lengths[i] += 1
                if terminal and not game.over:
                    frame = game.begin()
                    states[i] = torch.from_numpy(frame).repeat(game.stack, 1, 1)
                    lengths[i] = 0
                else:
                    states[i] = torch.cat([states[i, len(frame) :], torch.from_numpy(frame)])
            playing = [i for i in playing if not games[i].over]
    kept = np.linspace(0, len(pictures) - 1, film if pictures else 0).astype(int)
    return scores, [pictures[i] for i in kept]


def strip(pictures: list[np.ndarray]) -> Image.Image:
    """Pictures of equal size in two rows, from left to right, with white lines between them."""
    framed = [np.pad(p, ((0, 4), (0, 4), (0, 0)), constant_values=255) for p in pictures]
    half = -(-len(framed) // 2)
    framed += [np.full_like(framed[0], 255)] * (2 * half - len(framed))
    rows = [np.concatenate(framed[i : i + half], 1) for i in (0, half)]
    return Image.fromarray(np.concatenate(rows))


# Training -----------------------------------------------------------------------------------------


class Tally:
    """Scores of the lives and games that ended since the last point of the curve."""

    def __init__(self) -> None:
        self.lives: list[float] = []
        self.games: list[float] = []
        self.losses: list[float] = []
        self.curve: list[float] = []  # life_score of every point; if no life ended, the one before
        self.life = self.game = 0.0  # score so far
        self.life_steps = 0

    def add(self, reward: float) -> None:
        """Count the reward of a step."""
        self.life, self.game = self.life + reward, self.game + reward
        self.life_steps += 1

    def end(self, game_over: bool) -> None:
        """Count the end of a life, and of the game if ``game_over``."""
        self.lives.append(self.life)
        self.life, self.life_steps = 0.0, 0
        if game_over:
            self.games.append(self.game)
            self.game = 0.0

    def point(self) -> dict[str, float]:
        """Means since the last point, NaN if there is nothing to average; then start anew."""
        kinds = {"life_score": self.lives, "game_score": self.games, "loss": self.losses}
        means = {name: sum(v) / len(v) if v else math.nan for name, v in kinds.items()}
        counts = {"lives": len(self.lives), "games": len(self.games)}
        if self.lives or self.curve:
            self.curve.append(means["life_score"] if self.lives else self.curve[-1])
        for values in kinds.values():
            values.clear()
        return means | counts

    def state_dict(self) -> dict[str, object]:
        """All attributes, for a checkpoint."""
        return vars(self)

    def load_state_dict(self, state: dict[str, object]) -> None:
        """Restore what :meth:`state_dict` returned."""
        vars(self).update(state)


def check(settings: Settings) -> None:
    """Refuse an Atari game that does not exist."""
    if settings.task.suite == "atari":
        Atari.check(settings.task.game)


class Agent:
    """The networks with their noise, the memory, and the optimizer.

    Args:
        cfg: the agent's settings.
        run: the run; it draws the weights, the noise, the random actions and the minibatches.
        game: the game to be played.

    Attributes:
        online: the network that acts and learns.
        target: its copy, which values what comes after a transition.
        support: the atoms of the distribution over returns, shape (atoms,).
    """

    def __init__(self, cfg: Config, run: Run, game: Atari | MinAtar) -> None:
        self.cfg, self.game, self.device = cfg, game, run.device
        self.online, self.target = self._network(), self._network()
        self.copy()
        self.optimizer = run.optimizer(self.online.parameters(), fused=True)
        self.support = torch.linspace(-cfg.limit, cfg.limit, cfg.atoms, device=run.device)
        self.memory = Replay(
            cfg.replay,
            game.shape,
            stack=game.stack,
            n_step=cfg.n_step,
            discount=cfg.discount,
            alpha=cfg.alpha,
            leak=cfg.leak,
            random_overwrite=cfg.random_overwrite,
            stratified=cfg.stratified,
            normalise=cfg.normalise,
            reversed_returns=cfg.as_authors("multi_step"),
            generator=run.generator("replay"),
        )
        self._noise_of_both = run.generator("noise of both")
        self._noise_of_target = run.generator("noise of target")
        self._actions = run.generator("actions")
        self._losses = losses if cfg.compile == "none" else torch.compile(losses, mode=cfg.compile)

    def _network(self) -> Network:
        game, cfg = self.game, self.cfg
        return Network(
            (game.stack * game.shape[0], *game.shape[1:]),
            game.actions,
            cfg.atoms,
            convolutions=cfg.network,
            hidden=cfg.hidden,
            dueling=cfg.dueling,
            sigma=cfg.sigma,
            unit=game.unit,
        ).to(self.device)

    def copy(self) -> None:
        """Copy the weights to the target network."""
        self.target.load_state_dict(self.online.state_dict())

    def noise(self) -> Noise:
        """The noise of a step, for both networks unless :func:`shared` says otherwise."""
        return self.online.draw(self._noise_of_both)

    def random_action(self) -> int:
        """One of the game's actions, all equally likely."""
        return int(torch.randint(self.game.actions, (), generator=self._actions))

    def act(self, step: int, noise: Noise) -> int:
        """The best action by the online network or, with some probability, a random one."""
        if float(torch.rand((), generator=self._actions)) < self.cfg.epsilon_at(step):
            return self.random_action()
        with torch.no_grad():
            screens = self.memory.present().to(self.device)
            logits = self.online(screens, self.online.factored(noise))
            return int(best_actions(logits, self.support))

    def learn(self, step: int, noise: Noise) -> float:
        """Make one update from a minibatch of the memory; return its mean loss, unweighted."""
        cfg = self.cfg
        batch = self.memory.sample(cfg.batch_size, cfg.beta_at(step))
        other = noise if shared(cfg, step) else self.target.draw(self._noise_of_target)
        divergence = self._losses(
            self.online,
            self.target,
            _to(batch, self.device),
            (noise, other),
            self.support,
            double=cfg.double,
            advantage_alone=cfg.as_authors("dueling"),
        )
        loss = (batch.weights.to(self.device) * divergence).mean()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        found = divergence.detach().cpu()
        self.memory.update(batch.places, found.clamp(min=0).numpy() + PRIORITY)
        return float(found.mean())


def step_game(agent: Agent, action: int, tally: Tally) -> None:
    """Take an action in the game, remember the transition, and count its reward.

    After the cut-off of a life the actions are random until it is lost. These steps are neither
    remembered nor counted, and for learning the life has not ended.
    """
    game, memory = agent.game, agent.memory
    frame, reward, terminal = game.step(action)
    memory.append(action, min(max(reward, -1.0), 1.0), frame, terminal)
    tally.add(reward)
    if not terminal and tally.life_steps >= agent.cfg.cutoff_in(evaluation=False):
        memory.cut()
        while not terminal:
            _, _, terminal = game.step(agent.random_action())
    if terminal:
        tally.end(game.over)
        memory.begin(game.begin())


def train(cfg: Config, run: Run) -> None:
    """Play and learn; log the scores of training, and of evaluations."""
    seeds = run.generator("games")
    game: Atari | MinAtar = SUITES[cfg.suite](cfg.game, _seed(seeds))
    agent, tally = Agent(cfg, run, game), Tally()
    best = {"score": -math.inf, "at": 0}  # evaluation
    run.track(game=game, online=agent.online, target=agent.target, optimizer=agent.optimizer)
    run.track(memory=agent.memory, tally=tally, best=best)
    agent.memory.begin(game.begin())
    for step in run.steps(cfg.steps):
        noise = agent.noise()
        step_game(agent, agent.act(step, noise), tally)
        done = step + 1
        if done > cfg.learning_starts and done % cfg.train_every == 0:
            tally.losses.append(agent.learn(step, noise))
            if run.diverged(tally.losses[-1], done):
                break
        if done % cfg.target_every == 0:
            agent.copy()

        point: dict[str, float] = {}
        if cfg.evaluate_every and done % cfg.evaluate_every == 0:
            drawn = [_seed(seeds) for _ in range(cfg.evaluate_games)]
            scores = np.array(play(cfg, agent.online, noise, agent.support, drawn)[0])
            error = scores.std(ddof=1) / len(scores) ** 0.5  # standard error of the mean
            point |= {"evaluation": scores.mean(), "evaluation_error": error}
            if scores.mean() > best["score"]:
                best |= {"score": float(scores.mean()), "at": done}
        if done % cfg.log_every == 0:
            point |= tally.point()
        if point:
            run.log(done, **point)
    run.summary(area=np.mean(tally.curve) if tally.curve else math.nan)  # mean height of the curve
    if cfg.evaluate_every:
        run.summary(best_evaluation=best["score"], best_evaluation_at=best["at"])
    if cfg.film and run.config.seed == 0:
        last = [_seed(seeds)]
        _, pictures = play(cfg, agent.online, agent.noise(), agent.support, last, cfg.film)
        strip(pictures).save(run.folder / f"{cfg.game}.jpg", quality=85)


def _seed(generator: torch.Generator) -> int:
    return int(torch.randint(2**31, (), generator=generator))


def _to(batch: Batch, device: torch.device) -> Batch:
    moved = (x.to(device) if isinstance(x, Tensor) else x for x in batch)
    return Batch._make(moved)
