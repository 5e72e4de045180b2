"""What the benchmarks share."""

import pytest

from scripts.benchmarks import measure


@pytest.mark.parametrize("seconds", [1e-4, 0.01, 0.037, 0.049, 0.05, 0.3])
def test_a_call_of_any_length_is_measured_within_few_rounds(
    seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, made = 0.0, 0

    def call() -> None:
        nonlocal now, made
        now, made = now + seconds, made + 1

    monkeypatch.setattr(measure.time, "perf_counter", lambda: now)
    assert measure.seconds_per_call(call, 0.05) == pytest.approx(seconds)
    assert 0.05 <= now < 0.05 * 3 + 2 * seconds
    assert made * seconds == pytest.approx(now)
