"""Intervals against closed forms."""

import math

import numpy as np
import pytest
from scipy import stats

from diffpolicy.util.stats import bootstrap, stratified_bootstrap, wilson


def test_wilson_is_the_closed_form():
    z = 1.959963984540054
    for successes, trials in ((0, 50), (32, 50), (199, 200), (200, 200)):
        p = successes / trials
        center = (p + z**2 / (2 * trials)) / (1 + z**2 / trials)
        half = z / (1 + z**2 / trials) * math.sqrt(p * (1 - p) / trials + z**2 / (4 * trials**2))
        found = wilson(successes, trials)
        assert found["mean"] == p
        assert (found["low"], found["high"]) == pytest.approx(
            (max(0, center - half), min(1, center + half)), abs=1e-12
        )
    for given in ((3, 2), (-1, 2), (0, 0)):
        with pytest.raises(ValueError, match=f"{given[0]} of {given[1]}"):
            wilson(*given)


def test_bootstrap_is_near_the_normal_interval_and_repeats():
    values = np.random.default_rng(0).normal(0.9, 0.1, 500)
    found = bootstrap(values)
    half = 1.96 * values.std(ddof=1) / np.sqrt(500)
    assert found["mean"] == pytest.approx(values.mean())
    assert (found["low"], found["high"]) == pytest.approx((values.mean() - half, values.mean() + half), abs=half / 10)
    assert bootstrap(values) == found != bootstrap(values, seed=1)
    assert bootstrap([0.25] * 3) == {"mean": 0.25, "low": 0.25, "high": 0.25} and bootstrap([7])["high"] == 7
    for given in ([], [[1.0]]):
        with pytest.raises(ValueError, match="at least one number"):
            bootstrap(given)


def test_stratified_bootstrap_has_the_exact_quantiles():
    """Of zeros and ones, what is resampled is a sum of independent binomials, whose distribution is known."""
    strata = [[1] * 47 + [0] * 3, [1] * 50, [1] * 30 + [0] * 20, [1, 0] * 25]
    exact = np.ones(1)
    for values in strata:
        exact = np.convolve(exact, stats.binom(len(values), np.mean(values)).pmf(np.arange(len(values) + 1)))
    low, high = (np.searchsorted(exact.cumsum(), q) / sum(map(len, strata)) for q in (0.025, 0.975))
    found = stratified_bootstrap(strata)
    assert found["mean"] == pytest.approx(np.mean([np.mean(values) for values in strata]))
    assert (found["low"], found["high"]) == pytest.approx((low, high), abs=1 / 200)  # one episode of the 200
    assert stratified_bootstrap(strata) == found
    pooled = bootstrap([value for values in strata for value in values])
    assert pooled["high"] - pooled["low"] > found["high"] - found["low"]  # which adds what the strata differ by


def test_stratified_bootstrap_is_that_of_a_loop():
    """Strata of different sizes have equal weight; each is drawn from within itself."""
    rng = np.random.default_rng(3)
    strata = [rng.exponential(size=n) for n in (5, 40, 12)]
    means = [
        np.mean([values[rng.integers(len(values), size=len(values))].mean() for values in strata])
        for _ in range(10_000)
    ]
    found = stratified_bootstrap(strata)
    assert found["mean"] == pytest.approx(np.mean([values.mean() for values in strata]))
    assert (found["low"], found["high"]) == pytest.approx(np.quantile(means, [0.025, 0.975]), abs=0.03)
    assert stratified_bootstrap(strata[:1]) == bootstrap(strata[0])
    assert stratified_bootstrap([[1.0], [0.0, 0.0]]) == {"mean": 0.5, "low": 0.5, "high": 0.5}
    with pytest.raises(ValueError, match="no strata"):
        stratified_bootstrap([])
    with pytest.raises(ValueError, match="at least one number"):
        stratified_bootstrap([[1.0], []])
