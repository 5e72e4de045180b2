"""Intervals and tests over seeds: how often they are wrong, and their definitions.

Each simulation is of the fewest seeds that any committed result has for the method, and of the
fewest that the method accepts.
"""

import itertools
import math
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binom, norm

from experiments.common.stats import (
    ALPHA,
    FEWEST_FOR_JACKKNIFE,
    Estimate,
    decide,
    equivalent,
    every_above,
    every_within,
    interquartile_mean,
    jackknife,
    log_ratio,
    maxima_by_chance,
    mean,
    median,
    paired,
    probability_of_improvement,
    proportion,
    share_above,
    share_below,
    somewhere,
)

REPEATS = 3000  # with so many, the share of misses of a 95 % interval is known to 0.4 points


def covered(estimate: Callable[[np.random.Generator], Estimate], truth: float) -> float:
    """Share of the simulations in which the interval contains the truth."""
    rng = np.random.default_rng(0)
    found = [estimate(rng) for _ in range(REPEATS)]
    return float(np.mean([e.low <= truth <= e.high for e in found]))


@pytest.mark.parametrize("seeds", [2, 3, 5, 10])
def test_the_interval_of_a_mean_covers(seeds: int) -> None:
    assert 0.93 < covered(lambda rng: mean(rng.normal(1, 2, seeds)), 1) < 0.97


def test_the_interval_of_the_largest_of_five_means_covers() -> None:
    """The choice of the largest mean costs coverage, which a smaller alpha restores."""
    truth = 1.0

    def largest(rng: np.random.Generator, alpha: float) -> Estimate:
        return max((mean(x, alpha) for x in rng.normal(truth, 2, (5, 8))), key=lambda e: e.centre)

    assert covered(lambda rng: largest(rng, ALPHA), truth) < 0.92
    assert 0.94 < covered(lambda rng: largest(rng, ALPHA / 5), truth) < 0.99


@pytest.mark.parametrize("seeds", [2, 3])
@pytest.mark.parametrize("noise", ["normal", "exponential"])
def test_the_interval_of_a_paired_difference_covers(seeds: int, noise: str) -> None:
    def difference(rng: np.random.Generator) -> Estimate:
        luck = 5 * rng.normal(size=seeds)  # of the seed, shared by both optimizers
        a, b = (luck + getattr(rng, f"standard_{noise}")(seeds) for _ in range(2))
        return paired(pd.Series(a + 1), pd.Series(b))

    assert 0.93 < covered(difference, 1) < 0.97


@pytest.mark.parametrize("spread", [0.0, 0.15])
def test_the_interval_of_an_interquartile_mean_covers(spread: float) -> None:
    """Five runs of five games; the games differ by far more than the runs, or not at all."""
    level = np.linspace(0, 1, 5) if spread else np.zeros(5)

    def difference(rng: np.random.Generator) -> Estimate:
        a, b = (level + (spread or 1) * rng.normal(size=(5, 5)) for _ in range(2))
        return jackknife(lambda x, y: interquartile_mean(x) - interquartile_mean(y), a + 0.1, b)

    assert 0.93 < covered(difference, 0.1) < 0.97


@pytest.mark.parametrize("seeds", [20, 100])
def test_the_interval_of_a_median_covers(seeds: int) -> None:
    x = np.random.default_rng(0).exponential(size=(REPEATS, seeds))
    ends = np.array([median(row)[1:] for row in x])
    truth = np.log(2)
    assert 0.93 < np.mean((ends[:, 0] <= truth) & (truth <= ends[:, 1])) < 0.97
    narrower = np.array([median(row, ALPHA / 41)[1:] for row in x[:400]])
    assert (narrower[:, 0] <= ends[:400, 0]).all()


def test_a_median_between_a_number_and_infinity_is_the_number() -> None:
    assert median([1, 2, math.nan, math.nan])[0] == 2


@pytest.mark.parametrize("trials", [9, 20, 27])
def test_the_interval_of_a_share_covers(trials: int) -> None:
    """Computed exactly, as a mean over shares: at each single share no interval covers 95 %."""
    truths, counts = np.linspace(0.05, 0.95, 181), np.arange(trials + 1)
    ends = np.array([proportion(int(count), trials)[1:] for count in counts])
    low, high = ends.T[..., None]
    chance = binom.pmf(counts[:, None], trials, truths)
    held = (chance * ((low <= truths) & (truths <= high))).sum(0)
    assert 0.93 < held.mean() < 0.97
    assert held.min() > 0.89


@pytest.mark.parametrize("seeds", [10, 100])
def test_the_interval_of_a_ratio_covers(seeds: int) -> None:
    def ratio(rng: np.random.Generator) -> Estimate:
        a, b = (pd.Series(np.exp(0.1 * rng.normal(size=seeds))) for _ in range(2))
        return log_ratio(1.2 * a, b)

    assert 0.93 < covered(ratio, np.log(1.2)) < 0.97


def test_with_too_few_seeds_or_none_that_differ_there_is_no_interval_and_no_verdict() -> None:
    table = np.random.default_rng(0).normal(size=(FEWEST_FOR_JACKKNIFE - 1, 3))
    alone, same = mean([3.0]), mean([3.0, 3.0 + 1e-15, 3.0])
    few = jackknife(interquartile_mean, table)
    for estimate in (alone, same, few):
        assert np.isfinite(estimate.centre)
        assert np.isnan([estimate.low, estimate.high]).all()
        assert every_above([estimate]) is every_above([estimate], 1e9) is None
        assert equivalent(estimate, 1e9) is None
        assert f"{estimate:.0f}".endswith("[no interval]")
    assert np.isnan(median(np.arange(5.0))[1:]).all()
    assert median(np.arange(6.0))[1:] == (0, 5)


def test_an_estimate_shows_the_interval_that_its_p_values_decide_by() -> None:
    found = mean([1.0, 2.0, 3.0, 6.0])
    assert f"{found:+.2f}" == f"+3.00 [{found.low:+.2f}, {found.high:+.2f}]"
    for limit in (found.low, found.high):
        p = found.above(limit) if limit < found.centre else found.below(limit)
        assert p == pytest.approx(ALPHA / 2)
    assert every_above([found], found.low - 1e-6) is True
    assert every_above([found], found.low + 1e-6) is None
    assert every_above([found], found.high + 1e-6) is False


def test_a_median_counts_those_that_never_arrive() -> None:
    steps = [*range(1, 9), *[np.nan] * 12]
    assert median(steps)[0] == np.inf
    assert median(steps[:13])[0] == 7


@pytest.mark.parametrize("cells", [1, 6])
def test_a_claim_about_many_cells_keeps_its_level(cells: int) -> None:
    """Where no cell differs from 0, each verdict comes in 2.5 % of the cases at most."""
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(1000, cells, 3))
    found = [every_above([mean(cell) for cell in row]) for row in noise]
    assert found.count(False) < 1000 * 0.04
    assert found.count(True) < 1000 * 0.04
    one_below = noise + 100.0 * np.where(np.arange(cells) == 0, -1, 1)[:, None]
    assert [every_above([mean(cell) for cell in row]) for row in one_below[:200]].count(True) == 0


def test_equivalence_keeps_its_level_at_the_margin_and_finds_what_lies_within() -> None:
    rng = np.random.default_rng(0)
    at_margin = [equivalent(mean(x), 1) for x in rng.normal(1, 0.3, (2000, 3))]
    assert at_margin.count(True) < 2000 * 0.035
    assert at_margin.count(False) < 2000 * 0.035
    assert equivalent(mean(rng.normal(0, 0.1, 5)), 1) is True
    assert equivalent(mean(rng.normal(2, 0.1, 5)), 1) is False


def test_equivalence_is_refuted_where_the_interval_lies_outside() -> None:
    outside = Estimate(1.5, 0.48 / 1.96, math.inf)
    assert outside.low > 1
    assert equivalent(outside, 1) is False
    assert equivalent(Estimate(-outside.centre, outside.error, outside.df), 1) is False
    assert equivalent(Estimate(1.5, 0.52 / 1.96, math.inf), 1) is None


def test_what_lies_outside_in_some_cell_is_refuted_with_holm_for_the_cells() -> None:
    """The two sides of a cell exclude each other, so they need no correction."""
    inside, error = Estimate(0.0, 0.1, math.inf), 0.1
    for cells in (1, 2, 5):
        p = ALPHA / 2 / cells
        for side in (-1, 1):
            for share, verdict in ((0.99, False), (1.01, None)):
                outside = Estimate(side * (1 + error * norm.isf(share * p)), error, math.inf)
                found = every_within([*[inside] * (cells - 1), outside], -1, 1)
                assert found is verdict
        assert every_within([inside] * cells, -1, 1) is True


def test_a_seed_without_a_number_decides_nothing() -> None:
    a, b = pd.Series([2.0, 2.1, np.nan]), pd.Series([1.0, 1.05, 1.1])
    assert every_above([paired(a, b)]) is None
    assert every_above([paired(a[:2], b)]) is True  # of both only two seeds were run


@pytest.mark.parametrize(("seeds", "evaluations"), [(2, 8), (3, 20), (5, 4), (5, 60)])
def test_the_best_of_many_evaluations_keeps_its_level(seeds: int, evaluations: int) -> None:
    """Where nothing differs, Figure 6's rule gives a verdict in 5 % of the cases."""
    rng = np.random.default_rng(0)
    rise = np.linspace(0, 1, evaluations)
    best = (rise + rng.normal(size=(2, REPEATS, seeds, evaluations))).max(-1)
    verdicts = [every_above([mean(a - b)]) for a, b in zip(*best, strict=True)]
    assert 0.035 < 1 - verdicts.count(None) / REPEATS < 0.065


def test_maxima_of_equal_curves_seldom_seem_to_differ_and_those_of_unequal_ones_do() -> None:
    rng = np.random.default_rng(0)
    rise = 400 * (1 - np.exp(-np.arange(30) / 5))
    for scatter in (40.0, 0.1 * rise):
        p = [
            maxima_by_chance(*(rise + scatter * rng.normal(size=(2, 30))), resamples=400)
            for _ in range(600)
        ]
        assert 0.02 < np.mean(np.array(p) < 0.05) < 0.07
    higher = rise + np.array([[0.0], [150.0]]) + 20 * rng.normal(size=(2, 30))
    assert maxima_by_chance(*higher) < 0.02
    assert maxima_by_chance(*higher[::-1]) == pytest.approx(maxima_by_chance(*higher), abs=0.02)


def test_shares_are_tested_exactly() -> None:
    assert share_above(20, 20) == pytest.approx(0.5**20)
    assert share_below(0, 27, 0.1) == pytest.approx(0.9**27)
    k = np.arange(21)
    wrong = binom.pmf(k, 20, 0.5) * ((share_above(k, 20) < 0.025) | (share_below(k, 20) < 0.025))
    assert wrong.sum() < 0.05


def test_a_verdict_takes_the_smaller_chance_of_error() -> None:
    assert [decide(0.01, 0.9), decide(0.9, 0.01), decide(0.03, 0.9)] == [True, False, None]
    assert somewhere([0.01, 0.5, 0.9]) == pytest.approx(0.03)
    assert somewhere([0.9, 0.9]) == 1


def test_interquartile_mean_is_the_mean_of_the_middle_half() -> None:
    assert interquartile_mean(np.array([[0.0, 1.0, 2.0, 1e9]])) == 1.5
    assert interquartile_mean(np.array([[-5.0, 1.0, 3.0], [2.0, 1e9, 4.0]])) == 2.5  # 6 // 4 is 1


def test_the_jackknife_of_a_mean_is_students_interval() -> None:
    table = np.random.default_rng(0).normal(size=(6, 4))
    ours, expected = jackknife(np.mean, table), mean(table.mean(axis=1))
    assert [ours.low, ours.high] == pytest.approx([expected.low, expected.high])


def test_probability_of_improvement_counts_pairs_within_tasks() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 4, (5, 3)).astype(float), rng.integers(0, 4, (4, 3)).astype(float)
    wins = [
        np.mean([(x > y) + 0.5 * (x == y) for x, y in itertools.product(a[:, k], b[:, k])])
        for k in range(3)
    ]
    assert probability_of_improvement(a, b) == pytest.approx(np.mean(wins))
    assert probability_of_improvement(a, b) + probability_of_improvement(b, a) == pytest.approx(1)
    apart = np.array([[0.0, 100.0]]), np.array([[1.0, 99.0]])  # pairs are made within a task only
    assert probability_of_improvement(*apart) == 0.5
