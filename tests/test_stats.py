"""Statistics over runs and tasks: against their definitions, and for how often they are wrong."""

import itertools

import numpy as np
import pytest
from scipy.stats import trim_mean

from experiments.common.stats import (
    interquartile_mean,
    maxima_by_chance,
    probability_of_improvement,
    stratified,
)


def test_interquartile_mean_is_the_mean_of_the_middle_half() -> None:
    rng = np.random.default_rng(0)
    for shape in ((5, 5), (4, 1), (3, 7), (1, 1)):
        scores = rng.normal(size=shape)
        expected = trim_mean(scores, 0.25, axis=None)  # as rliable has it
        assert interquartile_mean(scores) == pytest.approx(expected)
    outlier = np.array([[0.0, 1.0, 2.0, 1e9]])
    assert interquartile_mean(outlier) == 1.5


def test_probability_of_improvement_counts_pairs_within_tasks() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 4, (5, 3)).astype(float), rng.integers(0, 4, (4, 3)).astype(float)
    wins = [
        np.mean([(x > y) + 0.5 * (x == y) for x, y in itertools.product(a[:, k], b[:, k])])
        for k in range(3)
    ]
    assert probability_of_improvement(a, b) == pytest.approx(np.mean(wins))
    assert probability_of_improvement(a, b) + probability_of_improvement(b, a) == pytest.approx(1)
    apart = np.array([[0.0, 100.0]]), np.array([[1.0, 99.0]])  # never across tasks
    assert probability_of_improvement(*apart) == 0.5


def test_the_bootstrap_draws_runs_and_keeps_tasks_apart() -> None:
    """A mean over tasks of different levels: the levels do not widen the interval, the runs do."""
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(10, 4))
    levels = np.array([0.0, 10.0, 20.0, 50.0])
    plain = stratified(np.mean, noise)
    shifted = stratified(np.mean, noise + levels)
    np.testing.assert_allclose(np.subtract(shifted, plain), 20)
    error = np.sqrt((noise.var(0) / 10).mean() / 4)
    assert plain[2] - plain[1] == pytest.approx(2 * 1.96 * error, rel=0.1)
    constant = np.tile(levels, (3, 1))
    assert stratified(np.mean, constant) == (20, 20, 20)


def test_two_tables_are_drawn_apart() -> None:
    rng = np.random.default_rng(1)
    a, b = rng.normal(1.0, 1, (8, 3)), rng.normal(0.0, 1, (8, 3))

    def gap(x: np.ndarray, y: np.ndarray) -> float:
        return float(x.mean() - y.mean())

    value, low, high = stratified(gap, a, b)
    error = np.sqrt(((a.var(0) + b.var(0)) / 8).mean() / 3)
    assert value == pytest.approx(a.mean() - b.mean())
    assert high - low == pytest.approx(2 * 1.96 * error, rel=0.1)
    assert stratified(gap, a, a)[1] < 0 < stratified(gap, a, a)[2]  # not the same draws twice


def test_maxima_of_equal_curves_seldom_seem_to_differ_and_those_of_unequal_ones_do() -> None:
    rng = np.random.default_rng(0)
    rise = 400 * (1 - np.exp(-np.arange(30) / 5))
    equal = [
        maxima_by_chance(*(rise + 40 * rng.normal(size=(2, 30))), resamples=400) for _ in range(200)
    ]
    assert np.mean(np.array(equal) < 0.05) < 0.12
    assert np.mean(np.array(equal) < 0.5) > 0.3
    higher = rise + np.array([[0.0], [150.0]]) + 20 * rng.normal(size=(2, 30))
    assert maxima_by_chance(*higher) < 0.02
    assert maxima_by_chance(*higher[::-1]) == pytest.approx(maxima_by_chance(*higher), abs=0.02)
