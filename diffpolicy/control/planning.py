"""What a control loop asks of whoever plans its chunks: a policy in this process, or one behind a network."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

Observation = np.ndarray | Mapping[str, np.ndarray]
"""What a robot observes at one step: numbers (D,), or arrays by key."""


@dataclass(frozen=True)
class Metadata:
    """What a policy is, so far as a robot has to know.

    Args:
        obs_horizon: T_o, observations that it sees.
        horizon: T_p, actions that it plans, the first T_o - 1 of which lie in the past.
        action_horizon: T_a, steps after which it is asked again.
        action_dim: A, numbers per action.
        fields: of an observation, by key: "kind" ("vector", "image", "text" or "goal"), "shape", "unit" where it is
            known, and of a text an "example". One key "obs" stands for an observation that is no mapping.
        fps: control steps per second of the recording that it learned from; None if that is not known.
        limits: of actions, see `guard.Limits.to_plain`; None if they are not known.
        follows: which numbers of the observation's vector follow the action; empty if that is not known.
        execution: how chunks are executed.
    """

    obs_horizon: int
    horizon: int
    action_horizon: int
    action_dim: int
    fields: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    fps: float | None = None
    limits: Mapping[str, Any] | None = None
    follows: Sequence[int] = ()
    execution: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Ask:
    """A request for the next chunk.

    Args:
        obs: the last T_o observations, oldest first; at the start the first one is repeated.
        key: of the chunk's noise: (the episode's seed, the chunk's number).
        executed: (n, A), the last actions, n <= T_o - 1.
        pending: (m, A), the actions of the next m steps, as they are planned, whatever is answered.
        last: (T_p, A), the trajectory of the last chunk; None if there is none.
        age: control steps since that was asked for.
    """

    obs: Sequence[Observation]
    key: tuple[int, int]
    executed: np.ndarray
    pending: np.ndarray
    last: np.ndarray | None = None
    age: int = 0


@dataclass(frozen=True)
class Plan:
    """A chunk.

    Args:
        trajectory: (T_p, A) float32, as it was sampled.
        calls: network calls.
    """

    trajectory: np.ndarray
    calls: int = 0


def warm(planner: Planner) -> None:
    """Have a first chunk planned, and one that goes on from it, before a robot moves: the first ones allocate.

    Raises:
        ConnectionError: whoever plans cannot be reached.
    """
    meta = planner.metadata
    seen = {
        key: np.array(one["example"])
        if one["kind"] == "text"
        else np.zeros(one["shape"], np.uint8 if one["kind"] == "image" else np.float32)
        for key, one in meta.fields.items()
    }
    alone = len(seen) == 1 and next(iter(meta.fields.values()))["kind"] == "vector"
    obs = [next(iter(seen.values())) if alone else seen] * meta.obs_horizon
    none, past = (np.zeros((rows, meta.action_dim), np.float32) for rows in (0, meta.obs_horizon - 1))
    first = planner.plan(Ask(obs, (0, 0), none, none))
    planner.plan(Ask(obs, (0, 1), past, none, first.trajectory, meta.action_horizon))


class Planner(ABC):
    """Plans chunks, one after the other; called from a thread beside the control loop."""

    metadata: Metadata

    def corrected(self, obs: Observation, action: np.ndarray, step: int) -> np.ndarray:
        """Return an action (A,) as it is to be carried out now; called by the control loop itself.

        Args:
            obs: what is observed now.
            action: what a chunk planned for now.
            step: how many steps ago that chunk was asked for.
        """
        return action

    @abstractmethod
    def plan(self, ask: Ask) -> Plan:
        """Return the next chunk.

        Raises:
            ConnectionError: whoever plans cannot be reached; the next request may succeed.
        """
