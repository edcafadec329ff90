"""What a policy is asked, and what it answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import numpy as np

from diffpolicy.datasets.spec import Observation
from diffpolicy.policies.chunking import Decided, Past


@final
@dataclass(frozen=True)
class PlanRequest:
    """A request for the next chunk of each of B episodes.

    Args:
        obs: the last T_o observations, oldest first, in the environment's units: (B, T_o, D), or a mapping of such
            arrays by key, texts among them as arrays of strings. At the start of an episode the first observation is
            repeated.
        keys: per episode its noise key: integers >= 0, the last of which is the chunk's number within the episode.
            An integer s stands for the first chunks of episodes with the seeds s, s + 1, …
        previous: per episode the `memory` of its last chunk, or None at its start; None if all start.
        decided: per episode what was executed and what is pending, in the environment's units, (n, A) float32 each;
            None where nothing is delayed, and the last chunk was executed as it was planned.
    """

    obs: Observation
    keys: Sequence[Sequence[int]] | int = 0
    previous: Sequence[Past | None] | None = None
    decided: Sequence[Decided | None] | None = None


@final
@dataclass(frozen=True)
class Chunk:
    """The next chunk of each of B episodes, in the environment's units.

    Args:
        actions: (B, T_a + d, A) float32 from now on, where d is the longest delay; asked again T_a steps later.
        trajectory: (B, T_p, A) float32, the whole chunk as sampled; its first T_o - 1 actions lie in the past.
        calls: (B,) network calls that each took.
        memory: per episode what the next request needs as `previous`; None where it needs nothing.
        spread: (B,) how far the candidates of a chunk are apart, see `doubt.spread_of`; None of one candidate.
    """

    actions: np.ndarray
    trajectory: np.ndarray
    calls: np.ndarray
    memory: list[Past | None]
    spread: np.ndarray | None = None
