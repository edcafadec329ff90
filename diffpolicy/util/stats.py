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
    return stratified_bootstrap([values], seed)


def stratified_bootstrap(strata: Sequence[Sequence[float]], seed: int = 0) -> Interval:
    """Return the mean of the strata's means with its 95% percentile bootstrap interval, seeded.

    Every stratum has equal weight, and values are drawn with replacement within each: of a suite, the episodes of
    each task (Agarwal et al. 2021, "Deep reinforcement learning at the edge of the statistical precipice", section
    4.1). So the interval speaks of these strata, and of no others.

    Args:
        strata: the values of each stratum, at least one; their numbers may differ.
        seed: of the resampling.

    Raises:
        ValueError: no stratum, or one that is not a list of at least one number.
    """
    from scipy import stats  # takes longer to import than everything else here

    require(len(strata), "no strata", "at least one")
    samples = [np.asarray(values, np.float64) for values in strata]
    for x in samples:
        require(x.ndim == 1 and len(x), f"values of shape {x.shape}", "a list of at least one number")
    mean = float(_mean_of_means(*samples))
    if not any(np.ptp(x) for x in samples):
        return {"mean": mean, "low": mean, "high": mean}
    options = {"n_resamples": RESAMPLES, "method": "percentile", "vectorized": True, "batch": 1000}
    found = stats.bootstrap(samples, _mean_of_means, rng=np.random.default_rng(seed), **options)
    low, high = found.confidence_interval
    return {"mean": mean, "low": float(low), "high": float(high)}


def _mean_of_means(*samples: np.ndarray, axis: int = -1) -> np.ndarray:
    return np.mean([x.mean(axis=axis) for x in samples], axis=0)


def wilson(successes: int, trials: int) -> Interval:
    """Return the proportion with Wilson's score interval (Wilson 1927), which holds near 0 and 1 too.

    Raises:
        ValueError: unless 0 <= successes <= trials and trials > 0.
    """
    from scipy import stats

    require(0 <= successes <= trials and trials, f"{successes} of {trials}", "0 <= successes <= trials, trials > 0")
    interval = stats.binomtest(successes, trials).proportion_ci(method="wilson")
    return {"mean": successes / trials, "low": float(interval.low), "high": float(interval.high)}


def assignment(cost: np.ndarray) -> np.ndarray:
    """Return for every row of `cost` (n, n) its column, each column once, such that the sum of the costs is least."""
    from scipy.optimize import linear_sum_assignment

    return linear_sum_assignment(cost)[1]
