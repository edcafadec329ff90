"""Controllers without a policy: an environment's expert, and recorded actions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from diffpolicy import registry
from diffpolicy.datasets.spec import Observation
from diffpolicy.policies.controller import Controller
from diffpolicy.util.errors import explain, require
from diffpolicy.util.names import suggest

Infos = Sequence[Mapping[str, Any]]


class Expert(Protocol):
    """What an installed package names as an entry point `diffpolicy.expert`, by the environment's id.

    It is made anew for every episode, as `Expert(seed, options)`, options being those of the environment.
    """

    settings: Mapping[str, Any]
    """What a recording says of its expert, as plain data."""

    def __init__(self, seed: int, options: Mapping[str, Any] | None = None) -> None: ...

    def reset(self, info: Mapping[str, Any]) -> None:
        """Start an episode, from the `info` of the environment's reset."""

    def act(self, info: Mapping[str, Any]) -> np.ndarray:
        """Return the action (A,) after the last `info`."""


def find_expert(env_id: str | None) -> type[Expert]:
    """Return the expert of an environment.

    Raises:
        ValueError: there is none, with the environments that have one.
    """
    known = registry.known("expert")
    if env_id not in known:
        given = f"no expert for env.id={env_id!r}{suggest(env_id, known)}"
        raise ValueError(explain(given, f"one of {', '.join(known) or 'none'}"))
    return registry.lookup("expert", str(env_id))


class ExpertAgent(Controller):
    """Drives an environment's expert in one or many environments.

    Args:
        env_id: of the environment.
        options: of the environment.
    """

    def __init__(self, env_id: str | None, options: Mapping[str, Any] | None = None) -> None:
        self.make, self.options = find_expert(env_id), dict(options or {})
        self._waiting: dict[int, Expert] = {}  # until the first info of their episode
        self._experts: dict[int, Expert] = {}

    def reset(self, env_ids: Sequence[int] | None = None, seeds: Sequence[int] | None = None) -> None:
        """Make new experts with these seeds, which are needed, one per environment."""
        env_ids, seeds = env_ids or [], seeds or []
        self._waiting |= {env_id: self.make(seed, self.options) for env_id, seed in zip(env_ids, seeds, strict=True)}

    def act(self, obs: Observation, env_ids: Sequence[int] | None = None, infos: Infos | None = None) -> np.ndarray:
        """Return the experts' actions (B, A) float32. They see the `infos` alone, which are needed."""
        require(infos is not None, "no infos", "the info of every environment, since experts see the whole state")
        infos = infos or []
        env_ids = range(len(infos)) if env_ids is None else env_ids
        actions = []
        for env_id, info in zip(env_ids, infos, strict=True):
            if env_id in self._waiting:
                self._experts[env_id] = self._waiting.pop(env_id)
                self._experts[env_id].reset(info)
            actions.append(np.asarray(self._experts[env_id].act(info), np.float32))
        return np.stack(actions)


class ReplayAgent(Controller):
    """Acts out recorded actions, whatever it sees; let `Reset.limit` end an episode with its recording.

    Args:
        actions: seed of an episode -> its actions (L, A).
    """

    def __init__(self, actions: Mapping[int, np.ndarray]) -> None:
        self.actions = actions
        self._playing: dict[int, tuple[int, int]] = {}  # env_id -> seed, next action

    def reset(self, env_ids: Sequence[int] | None = None, seeds: Sequence[int] | None = None) -> None:
        """Start the recordings of these seeds, which are needed, one per environment."""
        self._playing |= {env_id: (seed, 0) for env_id, seed in zip(env_ids or [], seeds or [], strict=True)}

    def act(self, obs: Observation, env_ids: Sequence[int] | None = None, infos: Infos | None = None) -> np.ndarray:
        """Return the next recorded actions (B, A)."""
        env_ids = list(self._playing) if env_ids is None else env_ids
        actions = []
        for env_id in env_ids:
            seed, step = self._playing[env_id]
            require(step < len(self.actions[seed]), f"step {step} of the recording {seed}", "a shorter episode")
            actions.append(self.actions[seed][step])
            self._playing[env_id] = (seed, step + 1)
        return np.stack(actions)
