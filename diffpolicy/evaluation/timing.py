"""How long one robot waits for a chunk."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from time import monotonic
from typing import Any

import numpy as np

from diffpolicy.evaluation.contract import MakeEnv
from diffpolicy.evaluation.episode import Reset
from diffpolicy.evaluation.rollout import simulate
from diffpolicy.policies.controller import Controller

CHUNKS = 50
WARM_UP = 3
SECONDS = 5.0


def time_chunks(
    agent: Controller,
    make_env: MakeEnv,
    resets: Sequence[Reset],
    *,
    chunks: int = CHUNKS,
    warm_up: int = WARM_UP,
    seconds: float = SECONDS,
) -> dict[str, Any]:
    """Return seconds per chunk of one robot while it acts, on one thread.

    Args:
        agent: acts; freeze its policy before for what a robot would use.
        make_env: makes the environment.
        resets: episodes to act in, one after another.
        chunks: how many to time at most.
        warm_up: chunks before them that do not count.
        seconds: stop after so long.

    Returns:
        "median" and "p95" in seconds, "chunks" timed, "threads".
    """
    times: list[float] = []
    until = monotonic() + seconds
    with closing(simulate(agent, make_env, resets, envs=1)) as steps:
        for (step,) in steps:
            if step.planned:
                times.append(step.seconds)
            if len(times) == chunks + warm_up or monotonic() > until:
                break
    counted = times[warm_up:] or times
    return {
        "median": float(np.median(counted)),
        "p95": float(np.quantile(counted, 0.95)),
        "chunks": len(counted),
        "threads": 1,
    }
