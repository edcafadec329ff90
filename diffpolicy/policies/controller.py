"""What drives environments, whatever is behind it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from diffpolicy.datasets.spec import Observation
from diffpolicy.util.errors import require

EnvIds = Sequence[int] | np.ndarray
"""Environments by number, or a boolean mask over all of them."""

Batch = Observation | Sequence[Observation]
"""Observations of several environments: (B, D), a mapping of such arrays by key, or a list with one of each."""


class Controller(ABC):
    """What drives environments: a policy's agent, an expert, a person."""

    replan_every: int = 1
    """Control steps between the starts of chunks."""
    calls: int = 0
    """Network calls of the last chunk; with a warm start, of the last one that followed another."""
    spread: Mapping[int, float] = {}
    """How far the candidates of the last chunk were apart, by environment, where there were several."""
    asked: Mapping[int, int] = {}
    """How often it asked in the present episode, by environment, where it does."""
    device: torch.device = torch.device("cpu")
    """Where it computes."""

    @abstractmethod
    def reset(self, env_ids: EnvIds | None = None, seeds: Sequence[int] | None = None) -> None:
        """Start new episodes in these environments, all if None, keyed by `seeds` where they are given."""

    @abstractmethod
    def act(
        self, obs: Batch, env_ids: EnvIds | None = None, infos: Sequence[Mapping[str, Any]] | None = None
    ) -> np.ndarray:
        """Return the next action of each environment, (B, A). To be called at every control step.

        Args:
            obs: what was just observed, (B, D) or a mapping of such arrays by key; or a list of B observations, one
                of each environment.
            env_ids: the environment of each observation; 0 to B - 1 if None.
            infos: per environment the info of its last `step` or `reset`, for who sees more than `obs`.
        """


def env_numbers(env_ids: EnvIds) -> list[int]:
    """Return environments as numbers, where they may be given as a boolean mask."""
    ids = np.asarray(env_ids)
    ids = np.flatnonzero(ids) if ids.dtype == bool else ids
    fits = ids.ndim == 1 and (not ids.size or (np.issubdtype(ids.dtype, np.integer) and ids.min() >= 0))
    require(fits, f"env_ids={env_ids!r}", "numbers >= 0, or a boolean mask")
    return [int(env) for env in ids]
