"""What acts in environments: anything that turns observations into actions, and a policy with its state."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from diffpolicy.policies.observations import Observation
from diffpolicy.policies.policy import ActionQueue, Policy


class Controller(ABC):
    """Acts in one or many environments side by side, each known by its env_id."""

    calls: int = 0
    """Network calls of the last chunk."""

    device: torch.device = torch.device("cpu")
    """Where it computes."""

    @property
    @abstractmethod
    def replan_every(self) -> int:
        """Control steps from the start of one chunk to that of the next."""

    @abstractmethod
    def reset(self, env_ids: Sequence[int] | None = None, seeds: Sequence[int] | None = None) -> None:
        """Start new episodes in these environments (all if None), with these seeds."""

    @abstractmethod
    def act(
        self,
        obs: Observation,
        env_ids: Sequence[int] | None = None,
        infos: Sequence[Mapping[str, Any]] | None = None,
    ) -> np.ndarray:
        """Return the actions (B, A) for the observations just made, one per environment."""


class Agent(Controller):
    """A policy with the state of its episodes.

    Args:
        policy: draws chunks of actions.
    """

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self._queue = ActionQueue(policy)

    @property
    def replan_every(self) -> int:
        return self.policy.action_horizon

    @property
    def calls(self) -> int:
        return self.policy.calls

    @calls.setter
    def calls(self, count: int) -> None:
        self.policy.calls = count

    @property
    def device(self) -> torch.device:
        return self.policy.actor.device

    def reset(self, env_ids: Sequence[int] | None = None, seeds: Sequence[int] | None = None) -> None:
        self._queue.reset(env_ids, seeds)

    def act(
        self,
        obs: Observation,
        env_ids: Sequence[int] | None = None,
        infos: Sequence[Mapping[str, Any]] | None = None,
    ) -> np.ndarray:
        return self._queue.act(obs, env_ids)
