"""Two things timed in turn, so that whatever else the machine does affects both."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np


def seconds(call: Callable[[], Any], repeats: int) -> float:
    """Return the mean wall-clock seconds of `repeats` calls."""
    began = time.perf_counter()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - began) / repeats


def paired(
    ours: Callable[[], Any], theirs: Callable[[], Any], rounds: int, repeats: int = 1, warm_up: int = 1
) -> dict[str, Any]:
    """Return the seconds of a call of both, and how many times faster ours is: the ratio of neighboring turns.

    Args:
        ours: what is measured.
        theirs: what it is compared with.
        rounds: turns that count.
        repeats: calls in a turn.
        warm_up: turns before them.
    """
    turns = [(seconds(ours, repeats), seconds(theirs, repeats)) for _ in range(warm_up + rounds)][warm_up:]
    mine, peers = zip(*turns, strict=True)
    return {"seconds": {"ours": float(np.median(mine)), "peer": float(np.median(peers))}, "ratio": ratio(peers, mine)}


def ratio(above: Sequence[float], below: Sequence[float]) -> dict[str, float]:
    """Return median, lowest and highest of the quotients, pair by pair."""
    quotients = np.divide(above, below)
    return {"median": float(np.median(quotients)), "low": float(quotients.min()), "high": float(quotients.max())}
