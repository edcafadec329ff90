"""Intervals against closed forms."""

import math

import numpy as np
import pytest

from diffpolicy.util.stats import bootstrap, wilson


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
