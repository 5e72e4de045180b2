"""Rainbow on Atari and MinAtar (paper 5.5, C.6, Figures 6 and 11).

Hessel et al. (2018): double Q-learning, prioritised replay, dueling streams, n-step returns, a
distribution over returns (C51) and noisy layers. Here is the whole agent's loop; beside it stand
the games (``environments.py``), the memory (``replay.py``), the network and its loss
(``network.py``).

The paper's agent is a variant of Rainbow whose settings are in ``configs/task/rainbow.yaml``. Where
the authors' program does something else than their text says, or than it should, this does what it
should; ``task.authors=true`` is their program, ``task.authors=[dueling]`` one of its deviations:

==============  ====================================================================================
``noise``       the two networks share their noise only from a copy of the weights until the step
                that is the next multiple of 1024; else each has its own
``dueling``     the prediction comes from the advantages alone: the value stream does not learn
``multi_step``  rewards are discounted backwards; all but one of the windows that the end of an
                episode cuts are dropped
``cutoff``      a life is cut off after 9,950 steps in training and 5,000 in evaluations; else
                after ``task.cutoff`` steps in both
==============  ====================================================================================

The authors' published logs come from a program that had all four; of these ``dueling`` and
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

from experiments.common.config import Settings, Unit, settings
from experiments.common.run import Run
from experiments.rainbow.environments import MINATAR, SUITES, Atari, MinAtar
from experiments.rainbow.network import CONVOLUTIONS, Network, Noise, best_actions, losses
from experiments.rainbow.replay import Batch, Replay

VERSION = 2  # raised when the same settings give other numbers
DEVIATIONS = ("noise", "dueling", "multi_step", "cutoff")
TABLE = 1024  # draws after which the authors' noise is drawn anew for each network
CUTOFF, CUTOFF_IN_EVALUATION = 9950, 5000  # the authors', steps of a life
PRIORITY = 1e-7  # is added to every priority (R)


@settings
class Config:
    """The agent. A step is one of the agent's: four frames of an Atari game, one of MinAtar.

    Attributes:
        suite: ``atari`` or ``minatar``.
        game: such as ``space_invaders``.
        network: convolutions: ``nature``, ``data_efficient`` or ``minatar``.
        hidden: units of the noisy layer before the output, of each stream.
        sigma: initial scale of the noise.
        atoms: of the distribution over returns.
        limit: the atoms lie equally spaced on [-limit, limit].
        discount: of a reward that comes a step later.
        n_step: steps whose rewards are added before the network values the rest.
        double: the online network chooses the action that the target network values.
        dueling: value and advantages have a stream each.
        replay: transitions in the memory.
        random_overwrite: a full memory loses a random transition, not the oldest (Rainbow).
        alpha: exponent of the priorities.
        beta: exponent of the importance weights at first ...
        beta_steps: ... and 1 from this step on, linearly.
        leak: of the priority of a new transition; 1: the largest priority so far (Rainbow).
        stratified: draw a minibatch from equal parts of the priorities (Rainbow).
        normalise: divide the weights of a minibatch by the largest (Rainbow).
        epsilon: probability of a random action in the end; 0: the noise alone explores (Rainbow).
        epsilon_decay: steps in which what is above it falls by a factor of e from 1; 0: at once.
        steps: of the agent in the whole run.
        learning_starts: steps before the first update.
        train_every: steps from one update to the next.
        batch_size: transitions of an update.
        target_every: steps from one copy of the weights to the target network to the next.
        cutoff: steps after which a life is cut off: actions are random until it is lost.
        log_every: steps that a point of the training curve is the mean of.
        evaluate_every: steps from one evaluation to the next; 0: none.
        evaluate_games: games of an evaluation; the noise is that of the moment, the actions are
            the best.
        authors: their deviations: ``true`` for all, or a list.
        film: pictures of a last game, as the strip ``<game>.jpg``, in the run of seed 0; 0: none.
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
        """Whether one of :data:`DEVIATIONS` is wanted."""
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

    The authors' networks copy their noise, a table of 1024 draws for the steps to come, with the
    weights; each fills its own anew when it is used up.
    """
    copied = step // cfg.target_every * cfg.target_every
    return not cfg.as_authors("noise") or (step + 1) // TABLE == copied // TABLE


# Games --------------------------------------------------------------------------------------------


def play(
    cfg: Config, net: Network, noise: Noise, support: Tensor, seeds: list[int], film: int = 0
) -> tuple[list[float], list[np.ndarray]]:
    """Play one game for each seed, side by side, with this noise and the best actions.

    After the cut-off of a life the actions are random until it is lost; what they earn by chance
    does not count.

    Args:
        cfg, net, noise, support: of the agent.
        seeds: of the games.
        film: keep so many pictures of the first game, at equal distances.

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
    places = np.linspace(0, len(pictures) - 1, film).astype(int) if pictures else []
    return scores, [pictures[i] for i in places]


def strip(pictures: list[np.ndarray]) -> Image.Image:
    """Pictures of equal size side by side in two rows, from left to right, a white line between."""
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
        self.curve: list[float] = []  # life_score of every point; where no life ended, the last
        self.life = self.game = 0.0  # score so far
        self.life_steps = 0

    def add(self, reward: float) -> None:
        """A step."""
        self.life, self.game = self.life + reward, self.game + reward
        self.life_steps += 1

    def end(self, game_over: bool) -> None:
        """A life ended, and maybe the game."""
        self.lives.append(self.life)
        self.life, self.life_steps = 0.0, 0
        if game_over:
            self.games.append(self.game)
            self.game = 0.0

    def point(self) -> dict[str, float]:
        """Means since the last point, NaN of nothing; forgets what they are the means of."""
        kinds = {"life_score": self.lives, "game_score": self.games, "loss": self.losses}
        means = {name: sum(v) / len(v) if v else math.nan for name, v in kinds.items()}
        counts = {"lives": len(self.lives), "games": len(self.games)}
        if self.lives or self.curve:
            self.curve.append(means["life_score"] if self.lives else self.curve[-1])
        for values in kinds.values():
            values.clear()
        return means | counts

    def state_dict(self) -> dict[str, object]:
        """All of it."""
        return vars(self)

    def load_state_dict(self, state: dict[str, object]) -> None:
        """Go on from there."""
        vars(self).update(state)


def check(settings: Settings) -> None:
    """Refuse a game of Atari that there is not."""
    if settings.task.suite == "atari":
        Atari.check(settings.task.game)


def train(cfg: Config, run: Run) -> None:
    """Play and learn; log the scores of training, and of evaluations."""
    seeds = run.generator("games")
    game: Atari | MinAtar = SUITES[cfg.suite](cfg.game, _seed(seeds))
    shape = (game.stack * game.shape[0], *game.shape[1:])

    def network() -> Network:
        return Network(
            shape,
            game.actions,
            cfg.atoms,
            convolutions=cfg.network,
            hidden=cfg.hidden,
            dueling=cfg.dueling,
            sigma=cfg.sigma,
            unit=game.unit,
        ).to(run.device)

    online, target = network(), network()
    target.load_state_dict(online.state_dict())
    optimizer = run.optimizer(online.parameters(), fused=True)
    support = torch.linspace(-cfg.limit, cfg.limit, cfg.atoms, device=run.device)
    memory = Replay(
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
    tally = Tally()
    noises = {name: run.generator(f"noise of {name}") for name in ("both", "target")}
    actions = run.generator("actions")
    loss_of = losses if cfg.compile == "none" else torch.compile(losses, mode=cfg.compile)
    cutoff = cfg.cutoff_in(evaluation=False)
    best = {"score": -math.inf, "at": 0}  # evaluation

    run.track(game=game, online=online, target=target, optimizer=optimizer)
    run.track(memory=memory, tally=tally, best=best)
    memory.begin(game.begin())
    for step in run.steps(cfg.steps):
        # Act
        noise = online.draw(noises["both"])
        if float(torch.rand((), generator=actions)) < cfg.epsilon_at(step):
            action = int(torch.randint(game.actions, (), generator=actions))
        else:
            with torch.no_grad():
                logits = online(memory.present().to(run.device), online.factored(noise))
                action = int(best_actions(logits, support))
        frame, reward, terminal = game.step(action)
        memory.append(action, min(max(reward, -1.0), 1.0), frame, terminal)
        tally.add(reward)
        if not terminal and tally.life_steps >= cutoff:
            memory.cut()  # for learning the life goes on; what the random actions bring is not seen
            while not terminal:
                action = int(torch.randint(game.actions, (), generator=actions))
                _, _, terminal = game.step(action)
        if terminal:
            tally.end(game.over)
            memory.begin(game.begin())

        # Learn
        done = step + 1
        if done > cfg.learning_starts and done % cfg.train_every == 0:
            batch = memory.sample(cfg.batch_size, cfg.beta_at(step))
            both = (noise, noise if shared(cfg, step) else target.draw(noises["target"]))
            divergence = loss_of(
                online,
                target,
                _to(batch, run.device),
                both,
                support,
                double=cfg.double,
                advantage_alone=cfg.as_authors("dueling"),
            )
            loss = (batch.weights.to(run.device) * divergence).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            found = divergence.detach().cpu()
            memory.update(batch.index, found.clamp(min=0).numpy() + PRIORITY)
            tally.losses.append(float(found.mean()))
            if run.diverged(tally.losses[-1], step):
                break
        if done % cfg.target_every == 0:
            target.load_state_dict(online.state_dict())

        # Log
        point: dict[str, float] = {}
        if cfg.evaluate_every and done % cfg.evaluate_every == 0:
            drawn = [_seed(seeds) for _ in range(cfg.evaluate_games)]
            scores = np.array(play(cfg, online, noise, support, drawn)[0])
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
        noise = online.draw(noises["both"])
        _, pictures = play(cfg, online, noise, support, [_seed(seeds)], cfg.film)
        strip(pictures).save(run.folder / f"{cfg.game}.jpg", quality=85)


def _seed(generator: torch.Generator) -> int:
    return int(torch.randint(2**31, (), generator=generator))


def _to(batch: Batch, device: torch.device) -> Batch:
    moved = (x.to(device) if isinstance(x, Tensor) else x for x in batch)
    return Batch(*moved)
