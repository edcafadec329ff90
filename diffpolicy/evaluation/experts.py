"""Controllers without a policy: experts, and recorded actions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, final

import numpy as np

from diffpolicy import registry
from diffpolicy.datasets.spec import Observation
from diffpolicy.evaluation.adapters import bare_id
from diffpolicy.policies.controller import Controller
from diffpolicy.util.errors import explain, require
from diffpolicy.util.names import suggest

Infos = Sequence[Mapping[str, Any]]

PROTOCOL = "make(seed, options), which returns an object with reset(obs, info) and act(obs, info)"
"""What an expert is, in words."""


class Expert(Protocol):
    """What acts in one episode, knowing how the task is done.

    An installed package names what makes it as an entry point `diffpolicy.expert`, by the environment's id.
    """

    def reset(self, obs: Any, info: Mapping[str, Any]) -> None:
        """Start an episode, from what the environment's `reset` returned."""

    def act(self, obs: Any, info: Mapping[str, Any]) -> np.ndarray:
        """Return the action (A,) after the last observation and `info`."""


class MakeExpert(Protocol):
    """A class or function that makes an expert anew for every episode."""

    def __call__(self, seed: int, options: Mapping[str, Any]) -> Expert:
        """Return an expert.

        Args:
            seed: of its random numbers.
            options: keyword arguments of the environment.
        """


def find_expert(env_id: str | None) -> MakeExpert:
    """Return what makes the expert of an environment, by its id with or without the module that registers it.

    Raises:
        ValueError: there is none, with the environments that have one.
    """
    known, name = registry.known("expert"), bare_id(env_id)
    if name not in known:
        given = f"no expert for env.id={env_id!r}{suggest(name, known)}"
        raise ValueError(explain(given, f"one of {', '.join(known) or 'none'}"))
    return registry.lookup("expert", str(name))


@dataclass
class _Acting:
    """An expert in its episode."""

    expert: Expert
    seed: int
    steps: int = 0


@final
class ExpertAgent(Controller):
    """Drives experts in one or many environments, an expert for each episode.

    Args:
        env_id: of the environment.
        options: keyword arguments of the environment.
        expert: makes the experts; None takes the environment's own.
        name: what messages call the expert.
        action_shape: of the environment's actions; None accepts any.
    """

    def __init__(
        self,
        env_id: str | None,
        options: Mapping[str, Any] | None = None,
        expert: MakeExpert | None = None,
        *,
        name: str | None = None,
        action_shape: tuple[int, ...] | None = None,
    ) -> None:
        self.make, self.options = find_expert(env_id) if expert is None else expert, dict(options or {})
        self.name, self.action_shape = name or f"the expert of {env_id}", action_shape
        self._acting: dict[int, _Acting] = {}

    @property
    def settings(self) -> dict[str, Any]:
        """What a recording says of the expert: its attribute `settings`, plain data, where it has one."""
        return dict(getattr(self.make, "settings", None) or {})

    def reset(self, env_ids: Sequence[int] | None = None, seeds: Sequence[int] | None = None) -> None:
        """Make new experts with these seeds, which are needed, one per environment.

        Raises:
            ValueError: making one raises; names the seed.
        """
        for env_id, seed in zip(env_ids or [], seeds or [], strict=True):
            with self._explained(seed, "before its episode"):
                self._acting[env_id] = _Acting(self.make(seed, self.options), seed)

    def act(self, obs: Observation, env_ids: Sequence[int] | None = None, infos: Infos | None = None) -> np.ndarray:
        """Return the experts' actions (B, A) float32; they see `obs` and `infos`, which are needed.

        Raises:
            ValueError: an expert raises, or gives an action of another shape than the environment's, NaN or infinity;
                names seed and step.
        """
        require(infos is not None, "no infos", "the info of every environment, since experts see the whole state")
        infos = infos or []
        env_ids = range(len(infos)) if env_ids is None else env_ids
        actions = []
        for i, (env_id, info) in enumerate(zip(env_ids, infos, strict=True)):
            seen = {key: values[i] for key, values in obs.items()} if isinstance(obs, Mapping) else obs[i]
            actions.append(self._action(self._acting[env_id], seen, info))
        return np.stack(actions)

    def _action(self, one: _Acting, obs: Any, info: Mapping[str, Any]) -> np.ndarray:
        with self._explained(one.seed, f"step {one.steps}"):
            if one.steps == 0:
                one.expert.reset(obs, info)
            action = np.asarray(one.expert.act(obs, info), np.float32)
        says = f"{self.name}, seed {one.seed}, step {one.steps}: an action"
        fits = self.action_shape in (None, action.shape)
        require(fits, f"{says} of shape {action.shape}", f"{self.action_shape}, as the environment takes")
        require(np.isfinite(action).all(), f"{says} {action.tolist()}", "finite numbers")
        one.steps += 1
        return action

    @contextmanager
    def _explained(self, seed: int, when: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # an expert may raise anything
            says = f"{self.name}, seed {seed}, {when}: {type(error).__name__}: {error}"
            cure = None if not isinstance(error, (TypeError, AttributeError)) else PROTOCOL
            raise ValueError(explain(says, cure)) from error


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
