"""Rainbow's agent: its network and loss, its schedules, the authors' deviations, resuming."""

from __future__ import annotations

from typing import Any

import matplotlib as mpl
import numpy as np
import pytest
import torch
import yaml
from conftest import Maker, records, trained
from torch import Tensor

from experiments import rainbow
from experiments.common import CONFIGS
from experiments.common.config import expand
from experiments.common.run import Run
from experiments.rainbow import DEVIATIONS, Tally, play, shared
from experiments.rainbow.network import Network, losses, projected
from experiments.rainbow.replay import Batch, Replay
from scripts import discrepancies

pytestmark = pytest.mark.slow

mpl.use("Agg")

# The network --------------------------------------------------------------------------------------


def network(dueling: bool = True, seed: int = 0, **changes: Any) -> Network:
    torch.manual_seed(seed)
    options = {"convolutions": "minatar", "hidden": 16, "sigma": 0.5, "unit": 1}
    return Network((4, 10, 10), 3, 11, dueling=dueling, **options | changes)


def batch(size: int = 6, seed: int = 0) -> Batch:
    g = torch.Generator().manual_seed(seed)

    def states() -> Tensor:
        return torch.randint(2, (size, 4, 10, 10), generator=g, dtype=torch.uint8)

    return Batch(
        states(), torch.randint(3, (size,), generator=g), torch.randn(size, generator=g), states(),
        torch.full((size,), 0.9), torch.ones(size), np.arange(size),
    )  # fmt: skip


SUPPORT = torch.linspace(-2, 2, 11)


def test_projection_against_brute_force() -> None:
    g = torch.Generator().manual_seed(0)
    p = torch.rand(20, 11, generator=g).softmax(-1)
    returns = 2 * torch.randn(20, generator=g)
    # stays on its atoms; moves by one atom; leaves the support
    returns[:3] = torch.tensor([0.0, 0.4, -5.0])
    discounts = torch.tensor([1.0, 1.0, 0.9] + [0.0, 0.5, 0.97, 1.0] * 4 + [0.99])
    expected = np.zeros((20, 11))
    for b in range(20):
        for i in range(11):
            z = min(max(float(returns[b] + discounts[b] * SUPPORT[i]), -2.0), 2.0)
            for j in range(11):
                near = max(0.0, 1 - abs(z - float(SUPPORT[j])) / 0.4)
                expected[b, j] += near * float(p[b, i])
    result = projected(p, returns, discounts, SUPPORT)
    np.testing.assert_allclose(result, expected, atol=1e-5)
    np.testing.assert_allclose(result.sum(1), 1, rtol=1e-5)
    torch.testing.assert_close(result[0], p[0])
    assert float(result[2, 0]) == pytest.approx(1)


def test_forming_the_noisy_weights_changes_nothing() -> None:
    for dueling in (True, False):
        net = network(dueling)
        noise = net.draw(torch.Generator().manual_seed(1))
        states = batch().states
        together = net(states, net.formed(noise))
        for i in range(len(states)):
            alone = net(states[i : i + 1], net.factored(noise))
            torch.testing.assert_close(alone[0], together[i])


def test_noise_is_factorised_and_of_the_right_size() -> None:
    """A stream's noise matrix has rank 1, and the square of a factor has mean sqrt(2/pi)."""
    net = network(hidden=40)
    g = torch.Generator().manual_seed(0)
    noise = net.draw(g)
    layer = net.noisy["hidden"]
    weight, bias = layer.formed(noise["hidden"])
    spread = (weight.view_as(layer.weight) - layer.weight) / layer.weight_sigma
    assert torch.linalg.matrix_rank(spread[0].double(), atol=1e-3) == 1
    assert not torch.allclose(spread[0], spread[1])
    e_in, e_out = noise["hidden"]
    torch.testing.assert_close(
        (bias - layer.bias.flatten()) / layer.bias_sigma.flatten(), e_out.flatten()
    )
    assert float(e_in.square().mean()) == pytest.approx((2 / np.pi) ** 0.5, rel=0.05)
    assert abs(float(e_in.mean())) < 0.05
    assert not torch.equal(net.draw(g)["hidden"][0], e_in)


def test_initial_weights_and_sizes() -> None:
    """As in the authors' program: 6.76 M parameters with dueling and 4 actions, 3.50 M without."""
    sizes = {}
    for dueling in (True, False):
        net = Network((4, 84, 84), 4, 51, convolutions="nature", hidden=512, dueling=dueling,
                      sigma=0.5, unit=255)  # fmt: skip
        sizes[dueling] = sum(p.numel() for p in net.parameters())
    assert sizes == {True: pytest.approx(6.76e6, rel=2e-3), False: pytest.approx(3.5e6, rel=2e-3)}
    layer = net.noisy["hidden"]
    bound = 3136**-0.5
    assert bound * 0.99 < float(layer.weight.detach().abs().max()) <= bound
    assert float(layer.weight_sigma.detach().unique()) == pytest.approx(0.5 * bound)
    assert float(layer.bias_sigma.detach().unique()) == pytest.approx(0.5 * 512**-0.5)


def gradients(deviates: bool = False, dueling: bool = True) -> dict[str, float]:
    online, target = network(dueling), network(dueling, seed=1)
    noise = online.draw(torch.Generator().manual_seed(2))
    result = losses(online, target, batch(), (noise, noise), SUPPORT, double=True,
                    advantage_alone=deviates)  # fmt: skip
    result.mean().backward()
    assert all(p.grad is None for p in target.parameters())
    return {
        name: 0.0 if p.grad is None else float(p.grad.abs().max())
        for name, p in online.named_parameters()
    }


def test_gradient_reaches_every_stream_and_every_noisy_parameter() -> None:
    for dueling in (True, False):
        found = gradients(dueling=dueling)
        assert len(found) == 2 + 4 * (3 if dueling else 2)
        assert min(found.values()) > 0, found


def test_the_authors_value_stream_does_not_learn() -> None:
    found = gradients(deviates=True)
    value = {name for name in found if name.startswith("noisy.value")}
    assert len(value) == 4
    assert {name for name, size in found.items() if size == 0} == value
    net = network()
    layers = net.formed(net.draw(torch.Generator()))
    states = batch().states
    theirs = net(states, layers, advantage_alone=True)
    hidden = layers("hidden", net.convolutions(states.float())).relu()
    torch.testing.assert_close(theirs.flatten(1), layers("advantage", hidden[:, :16]))


def test_loss_against_one_transition_at_a_time() -> None:
    """Double Q-learning, projection and divergence are written out for a single transition."""
    online, target, data = network(), network(seed=1), batch()
    g = torch.Generator().manual_seed(3)
    mine, its = online.draw(g), target.draw(g)
    for double in (True, False):
        found = losses(online, target, data, (mine, its), SUPPORT, double=double,
                       advantage_alone=False)  # fmt: skip
        for i in range(6):
            with torch.no_grad():
                now = online(data.states[i : i + 1], online.formed(mine))[0]
                then = target(data.following[i : i + 1], target.formed(its))[0]
                judge = (
                    online(data.following[i : i + 1], online.formed(mine))[0] if double else then
                )
            action = int(torch.stack([(a.softmax(0) * SUPPORT).sum() for a in judge]).argmax())
            goal = projected(then[action].softmax(0)[None], data.returns[i : i + 1],
                             data.discounts[i : i + 1], SUPPORT)[0]  # fmt: skip
            p = now[int(data.actions[i])].softmax(0)
            expected = sum(
                float(q) * np.log(float(q / r)) for q, r in zip(goal, p, strict=True) if q > 0
            )
            assert float(found[i].detach()) == pytest.approx(expected, rel=1e-3, abs=1e-6)


# The agent ----------------------------------------------------------------------------------------

TINY = (
    "task=rainbow", "scale=small", "task.steps=400", "task.learning_starts=40", "task.hidden=8",
    "task.replay=150", "task.target_every=60", "task.log_every=50", "task.evaluate_every=200",
    "task.evaluate_games=2", "task.film=4", "task.epsilon_decay=50", "task.n_step=3",
    "task.dueling=true",
)  # fmt: skip


def test_epsilon_and_beta_follow_the_authors_schedules_and_rainbows_on_demand(make: Maker) -> None:
    cfg = make("task=rainbow").task
    assert cfg.learning_starts == 80_000
    assert cfg.epsilon_at(0) == 1
    assert cfg.epsilon_at(30000) == pytest.approx(0.005 + 0.995 / np.e)
    assert cfg.epsilon_at(10**7) == pytest.approx(0.005)
    assert [cfg.beta_at(t) for t in (0, 50000, 100000, 10**7)] == pytest.approx([0.4, 0.7, 1, 1])
    rainbows = make(*discrepancies.entries()["rainbow_rest"]["option"].split(), "task=rainbow").task
    assert rainbows.learning_starts == 20_000
    assert [rainbows.beta_at(t) for t in (0, 6 * 10**6, 12 * 10**6)] == pytest.approx([0.4, 0.7, 1])
    assert rainbows.epsilon_at(0) == 0
    assert (rainbows.leak, rainbows.stratified, rainbows.normalise) == (1, True, True)
    assert rainbows.random_overwrite


def test_the_networks_share_their_noise_and_the_authors_seldom_do(make: Maker) -> None:
    """Theirs share it at 5 % of the steps: from a copy of the weights to the table's end."""
    ours = make("task=rainbow").task
    theirs = make("task=rainbow", "task.authors=[noise]").task
    steps = range(80_000, 1_000_000)
    assert all(shared(ours, step) for step in steps)
    assert np.mean([shared(theirs, step) for step in steps]) == pytest.approx(0.052, abs=0.002)
    assert [shared(theirs, step) for step in (90_000, 90_110, 90_111, 99_999)] == [
        True,
        True,
        False,
        False,
    ]


def test_a_run_uses_the_noise_it_says(make: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both networks see one noise by default; with the authors' deviation they often see two."""
    seen: list[bool] = []
    real = rainbow.losses

    def spy(online: Any, target: Any, data: Any, noises: Any, *args: Any, **options: Any) -> Tensor:
        seen.append(noises[0] is noises[1])
        return real(online, target, data, noises, *args, **options)

    monkeypatch.setattr(rainbow, "losses", spy)
    found = {}
    for authors in ("false", "[noise]"):
        seen.clear()
        changes = ("task.steps=1500", "task.target_every=400", "task.evaluate_every=0")
        trained(make(*TINY, *changes, f"task.authors={authors}"))
        found[authors] = np.mean(seen)
        assert len(seen) == (1500 - 40) // 4  # an update every four steps once learning has begun
    assert found["false"] == 1
    assert 0.4 < found["[noise]"] < 0.9


@pytest.mark.parametrize("scale", ["paper", "short", "small", "smoke"])
def test_breakout_has_no_dueling_and_no_returns_of_n_steps_at_any_scale(
    make: Maker, scale: str
) -> None:
    """C.6 makes Breakout an exception, but an explicit setting wins."""

    def settings(*overrides: str) -> tuple[int, bool, float]:
        cfg = make("task=rainbow", f"scale={scale}", *overrides).task
        return cfg.n_step, cfg.dueling, cfg.epsilon

    assert settings("task.game=breakout") == (1, False, 0.005)
    assert settings("task.game=asterix") == (3, True, 0.01)
    assert settings("task.game=breakout", "task.n_step=5") == (5, False, 0.005)
    assert settings("task.game=asterix", "task.dueling=false") == (3, False, 0.01)


def figures_of_rainbow() -> list[tuple[str, str]]:
    found = []
    for file in sorted(CONFIGS.glob("figure/*.yaml")):
        figure = yaml.safe_load(file.read_text())
        if {"override /task": "rainbow"} in figure["defaults"]:
            found += [(file.stem, scale) for scale in figure["grids"]]
    return found


@pytest.mark.parametrize(("figure", "scale"), figures_of_rainbow())
def test_figures_keep_the_exception_of_breakout(figure: str, scale: str) -> None:
    every = expand([f"figure={figure}", f"scale={scale}"])
    assert every
    for settings in every:
        cfg = settings.task
        assert (cfg.n_step == 1) == (cfg.game == "breakout")
        assert cfg.dueling == (cfg.game != "breakout")


def test_a_life_is_cut_off_after_the_papers_number_of_steps_or_the_authors(make: Maker) -> None:
    ours, theirs = (make("task=rainbow", f"task.authors={a}").task for a in ("false", "[cutoff]"))
    assert [ours.cutoff_in(evaluation) for evaluation in (False, True)] == [10_000, 10_000]
    assert [theirs.cutoff_in(evaluation) for evaluation in (False, True)] == [9_950, 5_000]


def test_scores_are_of_lives_and_of_games() -> None:
    tally = Tally()
    for lives, length in enumerate((4, 2)):
        for _ in range(length):
            tally.add(1.0)
        assert tally.life_steps == length
        tally.end(game_over=lives == 1)
        assert tally.life_steps == 0
    point = tally.point()
    assert (point["life_score"], point["game_score"], point["lives"]) == (3, 6, 2)
    assert tally.curve == [3]
    assert np.isnan(tally.point()["life_score"])
    assert tally.curve == [3, 3]


class Endless:
    """A game of two lives that goes on for ever, except that action 1 loses a life."""

    actions, shape, stack, unit = 2, (4, 10, 10), 1, 1
    made: list[Endless] = []  # noqa: RUF012

    def __init__(self, game: str, seed: int) -> None:
        self.over, self.lives, self.steps, self.games = True, 0, 0, 0
        self.made.append(self)

    def begin(self) -> np.ndarray:
        if self.over:
            self.lives, self.games = 2, self.games + 1
        self.over = False
        return np.zeros(self.shape, np.uint8)

    def step(self, action: int) -> tuple[np.ndarray, float, bool]:
        self.steps += 1
        self.lives -= action
        self.over = self.lives == 0
        return np.zeros(self.shape, np.uint8), 1.0, action == 1

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


@pytest.fixture
def endless(monkeypatch: pytest.MonkeyPatch) -> type[Endless]:
    """Replace MinAtar's games by such games, and the agent by one that always chooses action 0."""
    monkeypatch.setitem(rainbow.SUITES, "minatar", Endless)
    monkeypatch.setattr(rainbow, "best_actions", lambda logits, support: torch.zeros(len(logits)))
    monkeypatch.setattr(Endless, "made", [])
    return Endless


@pytest.mark.parametrize(("authors", "limit"), [("false", 7), ("[cutoff]", 5)])
def test_an_evaluation_counts_what_a_life_earns_before_its_cutoff(
    make: Maker,
    monkeypatch: pytest.MonkeyPatch,
    endless: type[Endless],
    authors: str,
    limit: int,
) -> None:
    monkeypatch.setattr(rainbow, "CUTOFF_IN_EVALUATION", 5)
    cfg = make(*TINY, "task.cutoff=7", f"task.authors={authors}").task

    class Net:
        device = torch.device("cpu")

        def formed(self, noise: Any) -> None: ...

        def __call__(self, states: Tensor, layers: None) -> Tensor:
            return torch.zeros(len(states), 2, 11)

    scores, pictures = play(cfg, Net(), {}, SUPPORT, [0, 1, 2])  # type: ignore[arg-type]
    assert pictures == []
    assert scores == [2 * limit] * 3  # of both lives
    for game in endless.made:
        assert game.games == 1
        assert game.over
        # random actions lost the lives, and what they earned does not count
        assert game.steps > 2 * limit


@pytest.mark.parametrize(("authors", "limit"), [("false", 7), ("[cutoff]", 5)])
def test_a_life_that_is_cut_off_in_training_is_lost_by_random_actions(
    make: Maker,
    monkeypatch: pytest.MonkeyPatch,
    endless: type[Endless],
    authors: str,
    limit: int,
) -> None:
    """The random steps neither count nor enter the memory, and the cut is no end of an episode."""
    monkeypatch.setattr(rainbow, "CUTOFF", 5)
    memories: list[Replay] = []

    class Kept(Replay):
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            memories.append(self)

    monkeypatch.setattr(rainbow, "Replay", Kept)
    cut = (f"task.cutoff={7 if limit == 7 else 60}", f"task.authors={authors}")
    quiet = ("task.epsilon=0", "task.epsilon_decay=0", "task.evaluate_every=0", "task.film=0")
    steps = 10 * limit
    settings = make(
        *TINY, *cut, *quiet, f"task.steps={steps}", "task.learning_starts=1000", "seed=1",
        f"task.log_every={steps}",
    )  # fmt: skip
    trained(settings)
    (point,) = records(settings)
    assert (point["lives"], point["games"]) == (10, 5)
    assert (point["life_score"], point["game_score"]) == (limit, 2 * limit)
    (game,) = endless.made
    assert game.steps > steps
    (memory_,) = memories
    assert len(memory_) == steps
    assert not memory_.actions[:steps].any()
    assert (memory_.discounts[:steps] > 0).all()


def test_a_score_of_an_evaluation_has_its_standard_error(
    make: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = [1.0, 2.0, 6.0]
    monkeypatch.setattr(rainbow, "play", lambda *args: (scores, []))
    settings = make(*TINY, "task.evaluate_games=3", "task.film=0", "seed=1")
    assert trained(settings)["best_evaluation"] == 3
    (record, _) = [r for r in records(settings) if "evaluation" in r]
    assert record["evaluation"] == 3
    assert record["evaluation_error"] == pytest.approx(np.std(scores, ddof=1) / 3**0.5)


def test_every_deviation_of_the_authors_makes_another_run(make: Maker) -> None:
    """Each deviation changes the numbers where it applies, and only there."""
    options = (*TINY, "task.film=0", "task.evaluate_every=0", "task.steps=200")
    ours = records_of(make, *options)
    assert records_of(make, *options, "task.authors=[]") == ours
    for deviation in ("dueling", "multi_step"):
        assert records_of(make, *options, f"task.authors=[{deviation}]") != ours
    assert records_of(make, *options, "task.authors=[cutoff]") == ours  # lives are shorter here
    plain = (*options, "task.dueling=false", "task.n_step=1")
    both = "task.authors=[dueling,multi_step]"
    assert records_of(make, *plain, both) == records_of(make, *plain)  # as in their Breakout run
    every = make(*options, "task.authors=true").task
    assert all(every.as_authors(deviation) for deviation in DEVIATIONS)


@pytest.mark.parametrize("name", ["adam", "laprop"])
def test_adam_is_torchs_fused_one_where_a_task_asks_for_it(make: Maker, name: str) -> None:
    settings = make("task=rainbow", f"optimizer={name}")
    settings.folder.mkdir(parents=True)
    run, params = Run(settings), [torch.nn.Parameter(torch.ones(3))]
    assert run.optimizer(params, fused=True).param_groups[0]["fused"] is (name == "adam" or None)
    assert run.optimizer(params).param_groups[0]["fused"] is None


def records_of(make: Maker, *overrides: str) -> list[dict[str, Any]]:
    settings = make(*overrides)
    trained(settings)
    return records(settings)


def test_it_learns_breakout_of_minatar(make: Maker) -> None:
    settings = make("task=rainbow", "scale=small", "task.steps=7000", "task.hidden=32",
                    "task.evaluate_every=0", "task.film=0", "optimizer.lr=1e-3")  # fmt: skip
    trained(settings)
    curve = [record["life_score"] for record in records(settings)]
    assert curve[0] < 0.7  # it begins with random play
    assert max(curve[-3:]) > 1.2
