"""Any gymnasium environment as rollouts want it: plain observations, clipped actions, success where it is looked for.

What has to be done is decided once, when the environment is made; a step does no more than that.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, final

import gymnasium as gym
import numpy as np

from diffpolicy.config import EnvConfig
from diffpolicy.evaluation import spaces
from diffpolicy.evaluation.task import NO_SUCCESS, SUCCESS_KEYS, TaskSpec
from diffpolicy.util.errors import explain
from diffpolicy.util.imports import import_named, is_import_path

_SUCCESS = SUCCESS_KEYS[0]


@final
class Adapted(gym.Wrapper[Any, Any, Any, Any]):
    """An environment made to fit.

    * Observations are read as `spaces.observation` says.
    * Actions are clipped to the space and cast to its dtype, unless the task declares that the environment does so.
    * `info["success"]` is what `config.success` names, and the task in `metadata` says so.
    * With `config.stop_on_success` the first success terminates the episode.
    * With `config.seed_globals` the environment has the generators of `random` and `numpy.random` to itself.

    Args:
        env: the environment.
        config: of the environment; what makes it has no meaning here.

    Raises:
        ValueError: observations or actions that cannot be made to fit, or settings that do not fit the environment.
        ImportError: a function of success that cannot be imported.
    """

    def __init__(self, env: gym.Env[Any, Any], config: EnvConfig) -> None:
        super().__init__(env)
        space = env.observation_space
        self.observation_space, self._read = spaces.observation(space, config.obs_keys, config.image_range)
        task = TaskSpec.of(env)
        clip = spaces.action(env.action_space)
        self._clip = None if task.clips_actions else clip
        self._judge = _judge(config.success)
        if config.success is not None:
            self.metadata = _judged(env.metadata or {}, config.success)
        self._ends = TaskSpec.of(self).succeeded if config.stop_on_success else None
        self._generators = GlobalGenerators() if config.seed_globals else None

    def reset(
        self, *, seed: int | None = None, options: Mapping[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Reset the environment, its global generators seeded alike."""
        if self._generators is not None and seed is not None:
            self._generators.seed(seed)
        with self._drawing():
            outcome = self.env.reset(seed=seed, options=options)  # type: ignore[arg-type]
        if not (isinstance(outcome, tuple) and len(outcome) == 2):
            return outcome  # for whoever checks what environments return
        return self._read(outcome[0]), outcome[1]

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Step with the action as the environment takes it."""
        if self._clip is not None:
            action = self._clip(action)
        if self._generators is None:
            outcome = self.env.step(action)
        else:
            with self._generators:
                outcome = self.env.step(action)
        if not (isinstance(outcome, tuple) and len(outcome) == 5):
            return outcome  # as above
        obs, reward, terminated, truncated, info = outcome
        if self._judge is not None:
            info = {**info, _SUCCESS: self._judge(info)}
        if self._ends is not None:
            terminated = terminated or bool(self._ends(info))
        return self._read(obs), reward, terminated, truncated, info

    def carried_out(self, action: np.ndarray) -> np.ndarray:
        """Return an action (A,) as the environment carries it out."""
        return action if self._clip is None else self._clip(action)

    def _drawing(self) -> AbstractContextManager[Any]:
        return nullcontext() if self._generators is None else self._generators


@final
class Fresh(gym.Wrapper[Any, Any, Any, Any]):
    """A new instance at every reset, for environments whose instances remember earlier episodes.

    Args:
        make: makes one instance.
        keep_first: whether the first reset takes the instance that showed the spaces. Not where instances draw from
            generators that are seeded for every episode, which that one did not see.
    """

    def __init__(self, make: Callable[[], gym.Env[Any, Any]], keep_first: bool = True) -> None:
        super().__init__(make())
        self._make, self._used = make, not keep_first

    def reset(self, **how: Any) -> tuple[Any, dict[str, Any]]:
        """Close the old instance and reset a new one."""
        if self._used:
            self.env.close()
            self.env = self._make()
        self._used = True
        return self.env.reset(**how)


@final
class GlobalGenerators:
    """The generators of `random` and `numpy.random` as one environment has them, in place inside a `with` block.

    So environments side by side do not draw from each other's, and nothing outside notices.
    """

    def __init__(self) -> None:
        self._python, self._numpy = random.Random(0).getstate(), np.random.RandomState(0).get_state(legacy=False)

    def seed(self, seed: int) -> None:
        """Start both anew, as `random.seed` and `numpy.random.seed` do."""
        self._python = random.Random(seed).getstate()
        self._numpy = np.random.RandomState(seed % 2**32).get_state(legacy=False)

    def __enter__(self) -> None:
        self._outer = _swapped(self._python, self._numpy)

    def __exit__(self, *error: object) -> None:
        self._python, self._numpy = _swapped(*self._outer)


def _swapped(python: Any, numpy: Any) -> tuple[Any, Any]:
    """Put states of both generators in place and return those that were there."""
    before = random.getstate(), np.random.get_state(legacy=False)  # noqa: NPY002  what environments draw from
    random.setstate(python)
    np.random.set_state(numpy)  # noqa: NPY002
    return before


def _judge(success: str | None) -> Callable[[Mapping[str, Any]], bool] | None:
    """What says of an `info` whether the task is done; None where `info` says it itself, or nothing does."""
    if success is None or success in (NO_SUCCESS, _SUCCESS):
        return None
    if is_import_path(success):
        function = import_named(success, "env.success")
        return lambda info: bool(function(info))

    def by_key(info: Mapping[str, Any]) -> bool:
        if success not in info:
            has = ", ".join(map(str, info)) or "nothing"
            raise spaces.Misfit(explain(f"info lacks the success key {success!r}; it has {has}"))
        return bool(info[success])

    return by_key


def _judged(metadata: Mapping[str, Any], success: str) -> dict[str, Any]:
    """Metadata in which the task has another success."""
    key = NO_SUCCESS if success == NO_SUCCESS else _SUCCESS
    says = f"episodes in which {success} was true at some step"
    return {**metadata, "task": {**(metadata.get("task") or {}), "success_key": key, "success_description": says}}
