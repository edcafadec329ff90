"""Whether an environment shows and takes what a policy does, found out before the first episode."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, final

import gymnasium as gym
import numpy as np

from diffpolicy.datasets.spec import Observation, ObservationSpec
from diffpolicy.evaluation.adapting import Adapted
from diffpolicy.evaluation.contract import BrokenEnvironment, MakeEnv, env_name, innermost, layers, require_limits
from diffpolicy.evaluation.episode import Episode, Reset, Step
from diffpolicy.evaluation.observers import Observer
from diffpolicy.evaluation.rollout import finished_episodes
from diffpolicy.evaluation.task import TaskSpec
from diffpolicy.nets.text import vocabulary, words_of
from diffpolicy.policies.controller import Controller, EnvIds
from diffpolicy.util.errors import require

_TRIES = 3
"""Episodes of which one has to come to its first step; an environment may break at some seeds."""


def fitting_task(
    make_env: MakeEnv, spec: ObservationSpec, action_dim: int, says: str, whose: str, cure: str
) -> TaskSpec:
    """Return the task of an environment after one reset and one step, in an instance of its own.

    Args:
        make_env: makes the environment.
        spec: what has to be observed.
        action_dim: numbers per action.
        says: what the message calls the environment.
        whose: who has these observations and actions, as in "as the demonstrations have".
        cure: what to do about an environment that shows or takes something else.

    Raises:
        BrokenEnvironment: it gives what no environment may, or fails.
        ValueError: it shows or takes something else, or has no time limit.
        TypeError: it is no environment, or its `reset` takes no `seed` or `options`.
    """
    fit = _Fit(make_env, spec, action_dim, (says, whose, cure))
    first = None
    for seed in range(_TRIES):
        (episode,) = finished_episodes(_Still(action_dim), make_env, [Reset(seed, limit=1)], [fit], envs=1)
        if episode.error is None:
            return episode.observed[fit.name]
        first = first or episode.error
    raise BrokenEnvironment(first)


def check_said(
    make_env: MakeEnv, action_dim: int, texts: Mapping[str, Sequence[str]], resets: Sequence[Reset]
) -> None:
    """Raise ValueError where an environment asks for something in words that no demonstration had.

    Args:
        make_env: makes the environment.
        action_dim: numbers per action.
        texts: by key, those of the demonstrations.
        resets: the episodes that it is to ask for.
    """
    known = {key: set(vocabulary(said)) for key, said in texts.items()}
    starts = [replace(how, limit=1) for how in resets]
    for episode in finished_episodes(_Still(action_dim), make_env, starts, [_Said(tuple(texts))], envs=1):
        for key, text in episode.observed.get(_Said.name, {}).items():
            lacking = [word for word in words_of(text) if word not in known[key]]
            given = f"the environment says {text!r} as {key!r} at seed {episode.seed}"
            wanted = f"words of the demonstrations, which lack {', '.join(map(repr, lacking))}"
            require(not lacking, given, wanted, "record more of them, or take env.id=null to roll nothing out")


@final
class _Said(Observer):
    """Keeps what an environment says when an episode starts.

    Args:
        keys: of its texts.
    """

    name = "said"

    def __init__(self, keys: Sequence[str]) -> None:
        super().__init__()
        self._keys = keys

    def on_reset(self, episode: Episode, env: gym.Env[Any, Any], obs: Any, info: Mapping[str, Any]) -> None:
        """Keep the texts."""
        episode.observed[self.name] = {key: str(obs[key]) for key in self._keys}

    def on_step(self, step: Step) -> None:
        """Nothing: the start was what had to be seen."""


@final
class _Still(Controller):
    """Does nothing: actions of zeros, which the environment clips.

    Args:
        action_dim: numbers per action.
    """

    def __init__(self, action_dim: int) -> None:
        self._action_dim = action_dim

    def reset(self, env_ids: EnvIds | None = None, seeds: Sequence[int] | None = None) -> None:
        """Do nothing."""

    def act(
        self, obs: Observation, env_ids: EnvIds | None = None, infos: Sequence[Mapping[str, Any]] | None = None
    ) -> np.ndarray:
        """Return zeros (B, A)."""
        return np.zeros((len(env_ids or [0]), self._action_dim), np.float32)


@final
class _Fit(Observer):
    """Keeps the task of an environment whose spaces fit.

    Args:
        make_env: makes the environment.
        spec: what has to be observed.
        action_dim: numbers per action.
        words: see `ObservationSpec.check_space`: env, whose and cure.
    """

    name = "task"

    def __init__(
        self, make_env: MakeEnv, spec: ObservationSpec, action_dim: int, words: tuple[str, str, str]
    ) -> None:
        super().__init__()
        self._make_env, self._spec, self._action_dim, self._words = make_env, spec, action_dim, words

    def on_reset(self, episode: Episode, env: gym.Env[Any, Any], obs: Any, info: Mapping[str, Any]) -> None:
        """Check the spaces, and that the innermost environment steps as gymnasium's do."""
        says, whose, cure = self._words
        spaces = (env.observation_space, env.action_space)
        self._spec.check_space(*spaces, self._action_dim, says, whose=whose, cure=cure)
        require_limits(env, limited=False)  # the episodes to come have no limit of their own
        _check_step(env, env_name(self._make_env))
        episode.observed[self.name] = TaskSpec.of(env)

    def on_step(self, step: Step) -> None:
        """Nothing: the step itself was what had to be seen."""


def _check_step(env: gym.Env[Any, Any], name: str) -> None:
    """Raise BrokenEnvironment where gymnasium's own wrappers would trip over what the innermost step returns."""
    inner = innermost(env)
    adapted = next((layer for layer in layers(env) if isinstance(layer, Adapted)), None)
    if adapted is None or inner.action_space != env.action_space:
        return
    try:
        outcome = inner.step(adapted.carried_out(np.zeros(env.action_space.shape, np.float32)))
    except Exception:
        return  # the step that is to come says so in words
    if not (isinstance(outcome, tuple) and len(outcome) == 5):
        count = f"{len(outcome)} values" if isinstance(outcome, tuple) else f"a {type(outcome).__name__}"
        wanted = "gymnasium's five: observation, reward, terminated, truncated, info"
        raise BrokenEnvironment(f"{name}: step returned {count}; expected {wanted}; wrap it in a class that does so")
