"""Means with 95% intervals."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from diffpolicy.util.errors import require

RESAMPLES = 10_000

Interval = dict[str, float]  # mean, low, high


def bootstrap(values: Sequence[float], seed: int = 0) -> Interval:
    """Return the mean of `values` (n,) with its 95% percentile bootstrap interval (Efron 1979), seeded.

    Raises:
        ValueError: not a list of at least one number.
    """
    from scipy import stats  # takes longer to import than everything else here

    x = np.asarray(values, np.float64)
    require(x.ndim == 1 and len(x), f"values of shape {x.shape}", "a list of at least one number")
    mean = float(x.mean())
    if np.ptp(x) == 0:
        return {"mean": mean, "low": mean, "high": mean}
    options = {"n_resamples": RESAMPLES, "method": "percentile", "vectorized": True, "batch": 1000}
    low, high = stats.bootstrap((x,), np.mean, rng=np.random.default_rng(seed), **options).confidence_interval
    return {"mean": mean, "low": float(low), "high": float(high)}


def wilson(successes: int, trials: int) -> Interval:
    """Return the proportion with Wilson's score interval (Wilson 1927), which holds near 0 and 1 too.

    Raises:
        ValueError: unless 0 <= successes <= trials and trials > 0.
    """
    from scipy import stats

    require(0 <= successes <= trials and trials, f"{successes} of {trials}", "0 <= successes <= trials, trials > 0")
    interval = stats.binomtest(successes, trials).proportion_ci(method="wilson")
    return {"mean": successes / trials, "low": float(interval.low), "high": float(interval.high)}
