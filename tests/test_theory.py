"""The mathematics in the tasks of Table 1, the propositions, Theorem 1 and section 3.1."""

import json
import math
from pathlib import Path
from typing import get_args, get_type_hints

import pytest
import torch
from torch import Tensor

from experiments import convex_regret, limits, one_gradient, update_bounds, update_variance
from experiments.common.config import compose_settings, expand
from experiments.common.execution import execute
from laprop import bounds
from laprop.functional import ALGORITHMS


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=generator())


# Limits -------------------------------------------------------------------------------------------


def test_softmax_gradient_is_autograds() -> None:
    theta = normal(2, 5, 10).requires_grad_()
    x, labels = normal(2, 7, 5), torch.randint(10, (2, 7), generator=generator())
    loss, gradient = limits.loss_and_gradient(theta, x, labels)
    expected = torch.nn.functional.cross_entropy((x[1] @ theta[1]), labels[1])
    assert loss[1].item() == pytest.approx(expected.item(), rel=1e-12)
    assert torch.allclose(gradient, torch.autograd.grad(loss.sum(), theta)[0], atol=1e-14)


@pytest.mark.parametrize("limit", get_args(get_type_hints(limits.Config)["limit"]))
@pytest.mark.parametrize("name", ["adam", "laprop"])
def test_paths_meet_in_the_limit(limit: str, name: str) -> None:
    far, near, nearest = distances(limit, name)
    # This one divides the momentum by the last gradient, which may be near 0.
    if (limit, name) == ("nu_0", "adam"):
        assert min(far, near, nearest) > 1
    elif limit == "nu_1_other":  # the second moments are two different means of squared gradients
        assert min(far, near, nearest) > 0.01
    else:
        assert near < far / 5
        assert nearest < near / 5


def distances(limit: str, name: str) -> list[float]:
    """Largest distance of two paths on the same gradients, at 1e-2, 1e-5, 1e-8 from a limit."""
    e = torch.tensor([1e-2, 1e-5, 1e-8], dtype=torch.float64)
    near, far = ALGORITHMS[name], ALGORITHMS[limits.becomes(limit, name)]
    gradients = normal(30, 4)
    a, b = torch.zeros(3, 4).double(), torch.zeros(3, 4).double()
    state_a, state_b, lr = near.init(a), far.init(b), torch.full((3, 4), 0.1).double()
    if limit in limits.WARM:
        n = gradients.square().mean(0).expand(3, 4)
        state_a, state_b = limits.warm(state_a, n), limits.warm(state_b, n)
        if limit == "nu_1":
            lr = 0.1 / n.sqrt()
    widest = torch.zeros(3).double()
    for t, g in enumerate(gradients, 1):
        near_rates = limits.approaching(limit, e, 0.9, 0.9)
        a, state_a = near.step(a, g.expand(3, 4), state_a, lr=0.1, epsilon=0.0, **near_rates)
        rates = limits.limiting(limit, t, near_rates)
        b, state_b = far.step(b, g.expand(3, 4), state_b, lr=lr, epsilon=0.0, **rates)
        widest = torch.maximum(widest, (a - b).norm(dim=1))
    return widest.tolist()


# Updates ------------------------------------------------------------------------------------------


def test_constructed_sequences_fit_float64() -> None:
    mu = torch.tensor([0.0, 0.5, 0.9, 0.99]).double().repeat_interleave(5)
    nu = torch.tensor([0.0, 0.3, 0.9, 0.99, 0.999]).double().repeat(4)
    burst = update_bounds.burst_ratio(mu, nu)
    assert (burst > 0).all()
    for slope in (burst, -burst, torch.zeros(20).double()):
        e = torch.stack([update_bounds.exponent(slope, i, 500) for i in range(500)])
        assert e.abs().max() <= update_bounds.DECADES / 2 + 1e-9
        moves = e.diff(dim=0)
        changed = moves.abs() > 1e-9
        assert torch.allclose(moves[changed], slope.expand_as(moves)[changed], atol=1e-9)
        assert (changed.sum(0) == torch.floor(300 / slope.abs()).clamp(max=499)).all() or (
            slope == 0
        ).all()


def test_no_adversary_passes_and_the_constructed_ones_come_close(tmp_path: Path) -> None:
    for run in expand(["figure=propositions", "scale=smoke", f"output={tmp_path}"]):
        assert execute(run) == "finished"
        summary = json.loads((run.folder / "summary.json").read_text())
        nu = [n for _, n, _ in run.members()]
        worst = run.task.sequence == f"{run.optimizer.name}_worst"
        for n, size, excess in zip(
            nu, summary["update"], summary["excess_over_supremum"], strict=True
        ):
            assert size > 0
            assert excess is None or excess < 1e-9
            # With only 50 gradients it comes no closer.
            if worst and n < 0.9 and excess is not None:
                assert excess > -0.02


def test_search_ascends(tmp_path: Path) -> None:
    reached = []
    for iterations in (1, 150):
        overrides = ["task=update_bounds", "scale=smoke", "task.sequence=searched"]
        chosen = ["optimizer=adam", "optimizer.mu=0.5", "optimizer.nu=0.9", "seed=[0,1,2]"]
        chosen.append(f"output={tmp_path}")
        run = compose_settings([*overrides, *chosen, f"task.iterations={iterations}"])
        execute(run)
        summary = json.loads((run.folder / "summary.json").read_text())
        reached.append(1 + max(summary["excess_over_supremum"]))
    assert reached[0] < 0.9 < 0.97 < reached[1] < 1 + 1e-9


# Regret -------------------------------------------------------------------------------------------


def test_rare_gradients_outweigh_the_others_and_are_forgotten() -> None:
    for nu in (0.0, 0.1, 0.5, 0.9, 0.99):
        period = convex_regret.period(nu, 4.0)
        c = convex_regret.rare(nu, 4.0, 5 * period, generator())
        assert (c > 0).sum() == 5
        assert c.sum() == 5 * (4 * period - (period - 1))
        left = (1 - nu) * (4.0 * period) ** 2 * nu ** (0.8 * period)
        assert left < 1.01
        assert not (c == convex_regret.rare(nu, 4.0, 5 * period, generator(1))).all() or period == 3


def test_best_of_linear_is_the_best_of_a_grid() -> None:
    c, stream = normal(40, 2), torch.tensor([1, 0, 1])
    game = convex_regret.Linear(c, stream, diameter=3.0)
    x = torch.linspace(-1.5, 1.5, 301, dtype=torch.float64)
    for t in (1, 17, 40):
        for member in range(3):
            total = (c[:t, stream[member], None] * x).sum(0)
            assert game.best(t)[member].item() == pytest.approx(total.min().item(), abs=1e-12)
    loss, g = game(torch.tensor([[0.5], [1.0], [-1.0]]).double(), 7)
    assert g[:, 0].tolist() == c[6, stream].tolist()
    assert loss.tolist() == (c[6, stream] * torch.tensor([0.5, 1.0, -1.0])).tolist()
    assert game.gradient == c.abs().amax(0)[stream].tolist()


def test_growing_gradients_never_shrink() -> None:
    c = [convex_regret.growing(5000, generator(seed)) for seed in range(3)]
    for signed in c:
        assert (signed.abs().diff() >= 0).all()
        assert signed.abs()[[0, -1]].tolist() == pytest.approx([1, 10])
        assert 0.35 < (signed > 0).double().mean() < 0.65
    assert not torch.equal(c[0].sign(), c[1].sign())


def test_best_of_distances_is_the_best_of_a_grid() -> None:
    z, stream = convex_regret.targets(400, 2.0, generator()), torch.tensor([0, 1, 1])
    assert z.abs().max() <= 1
    assert z.median() == pytest.approx(-0.5, abs=0.15)
    game = convex_regret.Distance(torch.stack([z, -z], 1), stream)
    x = torch.linspace(-1, 1, 4001, dtype=torch.float64)
    for t in (1, 16, 399):
        for member in range(3):
            total = (x - game.targets[:t, stream[member], None]).abs().sum(0)
            assert game.best(t)[member].item() == pytest.approx(total.min().item(), abs=t * 3e-4)
            assert game.best(t)[member] <= total.min() + 1e-12
    loss, g = game(torch.tensor([[0.5], [1.0], [-1.0]]).double(), 7)
    assert g[1:].flatten().tolist() == [1, -1]
    assert loss[2] == 1 - z[6]


def test_condition_of_theorem_1_is_checked(tmp_path: Path) -> None:
    """Growing gradients keep it at every nu; rare ones break it for LaProp, not for AmsProp."""
    broken = {}
    for problem in ("growing", "median", "rare"):
        for name in ("laprop", "amsprop"):
            rates = ["optimizer.nu=[0.1,0.9]", "optimizer.mu=[0,0.9]", f"task.problem={problem}"]
            chosen = ["task=convex_regret", "scale=smoke", f"optimizer={name}"]
            run = compose_settings([*chosen, *rates, f"output={tmp_path}"])
            assert execute(run) == "finished"
            summary = json.loads((run.folder / "summary.json").read_text())
            broken[problem, name] = summary["condition_broken"]
            for share, at in zip(
                *(summary[f"condition_broken{k}"] for k in ("", "_at")), strict=True
            ):
                assert (share == 0) == (at is None)
    assert min(broken.pop(("rare", "laprop"))) > 0
    assert {share for shares in broken.values() for share in shares} == {0}


def test_logistic_problem() -> None:
    x = torch.rand(60, 3, dtype=torch.float64, generator=generator())
    y = torch.where(normal(60) + x[:, 0] > 0.5, 1.0, -1.0).double()
    order = torch.stack([torch.randperm(60, generator=generator(s)) for s in range(2)], 1)
    stream = torch.tensor([0, 1, 1])
    game = convex_regret.Logistic(x, y, order, stream, diameter=2.0)
    theta = normal(3, 3).requires_grad_()
    loss, gradient = game(theta, 5)
    assert torch.allclose(gradient, torch.autograd.grad(loss.sum(), theta)[0], atol=1e-14)
    row = order[4, 1]
    assert loss[2].item() == pytest.approx(
        torch.log1p((-y[row] * (theta[2] @ x[row])).exp()).item()
    )
    assert (gradient.abs() <= 1).all()

    def total(points: Tensor, member: int, t: int) -> Tensor:
        rows = order[:t, stream[member]]
        return torch.nn.functional.softplus(-(points @ (x[rows] * y[rows, None]).T)).sum(1)

    axis = torch.linspace(-1, 1, 41, dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis, axis)
    for t in (1, 30, 60):
        best = game.best(t)
        for member in range(3):
            smallest = total(grid, member, t).min().item()
            # a grid's least value is never below the minimum
            assert best[member] <= smallest + 1e-3 * t
            assert best[member] >= smallest - 0.02 * t


# One gradient -------------------------------------------------------------------------------------


def test_one_gradient_reaches_the_closed_form(tmp_path: Path) -> None:
    for name in ("adam", "laprop"):
        rates = ["optimizer.mu=[0.5,0.9]", "optimizer.nu=[0,0.5,0.9]", "task.size=[10,1e10]"]
        chosen = ["task=one_gradient", f"optimizer={name}", "task.before=500", "task.after=300"]
        run = compose_settings([*chosen, *rates, f"output={tmp_path}"])
        assert execute(run) == "finished"
        summary = json.loads((run.folder / "summary.json").read_text())
        assert summary["update_before"] == pytest.approx([1.0] * 12)
        for (size, mu, nu), after, closed, turned in zip(
            run.members(),
            *(summary[key] for key in ("update_after", "update_closed", "turned_for")),
            strict=True,
        ):
            assert closed == one_gradient.closed_form(name, mu, nu)
            assert after >= closed - 1e-9
            if size == 1e10:
                assert after == pytest.approx(closed, abs=1e-6)
            assert (after < 0) == (turned > 0)
            if name == "laprop" and nu < bounds.steady_direction_nu(mu):
                assert after > 0


# Variance -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["adam", "laprop"])
def test_variance_of_an_update_is_the_measured_one(tmp_path: Path, name: str) -> None:
    chosen = ["task=update_variance", f"optimizer={name}", "task.settling=1", "task.counted=2"]
    rates = ["optimizer.mu=[0,0.5,0.9]", "optimizer.nu=[0.1,0.5,0.9]", "seed=[0]"]
    run = compose_settings([*chosen, *rates, "task.coordinates=1000", f"output={tmp_path}"])
    assert execute(run) == "finished"
    summary = json.loads((run.folder / "summary.json").read_text())
    assert summary["variance"] == pytest.approx(summary["variance_exact"], rel=0.05)


def test_exact_variance_in_its_limits() -> None:
    exact = update_variance.exact
    for mu in (0.0, 0.5, 0.9):
        assert exact("laprop", mu, 0.0) == pytest.approx((1 - mu) / (1 + mu))
        assert exact("laprop", mu, 1e-8) == pytest.approx(exact("laprop", mu, 0.0), rel=1e-3)
        assert exact("laprop", mu, 0.9) <= (1 - mu) / (1 + mu) / 0.1
    assert exact("adam", 0.0, 0.0) == 1
    assert exact("adam", 0.0, 0.3) == pytest.approx(exact("laprop", 0.0, 0.3), rel=1e-12)
    assert exact("adam", 0.5, 0.0) == math.inf
    # The gradient one step ago alone contributes (1-mu)^2 mu^2 / sqrt(nu).
    assert exact("adam", 0.5, 1e-8) > 0.5**4 / 1e-4
    assert exact("adam", 0.5, 1e-8) / exact("adam", 0.5, 1e-6) > 10
