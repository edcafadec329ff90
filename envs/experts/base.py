"""What an expert is."""

from __future__ import annotations

import abc
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

Vector = np.ndarray


class Expert(abc.ABC):
    """Solves one environment, of whose `info` it sees the whole state.

    Where a task has several modes, the expert chooses one for each episode from its own generator, so that
    demonstrations hold all of them. The same seed, options and `info`s give the same actions.

    Args:
        seed: of the expert's generator.
        options: the environment's constructor arguments, as far as the expert needs them.
    """

    id: ClassVar[str]
    """Id of the environment."""
    settings: ClassVar[Mapping[str, float]]
    """The expert's constants, which a recording stores."""

    def __init__(self, seed: int, options: Mapping[str, Any] | None = None) -> None:
        self._draw = np.random.default_rng(seed)

    @abc.abstractmethod
    def reset(self, obs: Any, info: Mapping[str, Any]) -> None:
        """Start an episode.

        Args:
            obs: what the environment's `reset` returned first.
            info: what it returned second.
        """

    @abc.abstractmethod
    def act(self, obs: Any, info: Mapping[str, Any]) -> Vector:
        """Return the next action, the agent's target (2,) px.

        Args:
            obs: what the environment observed last.
            info: what the environment's last `reset` or `step` returned.
        """
