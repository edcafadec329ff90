"""What rollouts ask of an environment, checked in words where it is broken."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import gymnasium as gym

from diffpolicy.evaluation.episode import Reset
from diffpolicy.util.errors import explain, require

MakeEnv = Callable[[], gym.Env[Any, Any]]


def make(make_env: MakeEnv) -> gym.Env[Any, Any]:
    """Return what `make_env` makes.

    Raises:
        TypeError: not a gymnasium environment.
    """
    env = make_env()
    given = f"make_env returned a {type(env).__name__}"
    require(isinstance(env, gym.Env), given, "a gymnasium.Env", error=TypeError)
    return env


def check_env(env: gym.Env[Any, Any], limited: bool) -> None:
    """Raise unless episodes of `env` end, and its `reset` takes what every episode is reset with.

    Args:
        limited: whether the caller limits the steps of all episodes.

    Raises:
        TypeError: a `reset` without `seed` and `options`.
        ValueError: no time limit.
    """
    inner = env.unwrapped
    parameters = inspect.signature(inner.reset).parameters
    missing = {"seed", "options"} - set(parameters)
    open_ended = any(one.kind is inspect.Parameter.VAR_KEYWORD for one in parameters.values())
    takes = f"{type(inner).__name__}.reset takes ({', '.join(parameters)})"
    require(open_ended or not missing, takes, "reset(*, seed=None, options=None)", error=TypeError)
    require(
        limited or has_time_limit(env),
        f"{type(inner).__name__} has no time limit, so that an episode might never end",
        cure="make it with gymnasium.make(…, max_episode_steps=N), or pass max_steps=N (env.max_steps=N to commands)",
    )


def has_time_limit(env: gym.Env[Any, Any]) -> bool:
    """Return whether a wrapper, or the environment itself by its registration, limits the steps of an episode."""
    return any(
        isinstance(layer, gym.wrappers.TimeLimit) or (layer.spec is not None and layer.spec.max_episode_steps)
        for layer in _layers(env)
    )


def reset(env: gym.Env[Any, Any], how: Reset) -> tuple[Any, Mapping[str, Any]]:
    """Reset an environment and return its observation and `info`.

    Raises:
        TypeError: it returned something else.
    """
    outcome = env.reset(
        seed=how.seed if how.env_seed is None else how.env_seed,
        options=None if how.options is None else dict(how.options),
    )
    if not (isinstance(outcome, tuple) and len(outcome) == 2 and isinstance(outcome[1], Mapping)):
        raise TypeError(explain(f"reset returned {_described(outcome)}", "(observation, info), info a dict"))
    return outcome


def step(env: gym.Env[Any, Any], action: Any) -> tuple[Any, float, bool, Mapping[str, Any]]:
    """Step an environment and return its observation, reward, whether the episode has ended, and `info`.

    Raises:
        TypeError: it returned something else.
    """
    outcome = env.step(action)
    if not (isinstance(outcome, tuple) and len(outcome) == 5 and isinstance(outcome[4], Mapping)):
        wanted = "(observation, reward, terminated, truncated, info), info a dict"
        raise TypeError(explain(f"step returned {_described(outcome)}", wanted))
    obs, reward, terminated, truncated, info = outcome
    return obs, float(reward), bool(terminated or truncated), info


def _layers(env: gym.Env[Any, Any]) -> Iterator[gym.Env[Any, Any]]:
    yield env
    while isinstance(env, gym.Wrapper):
        env = env.env
        yield env


def _described(outcome: Any) -> str:
    if isinstance(outcome, tuple):
        return f"({', '.join(type(part).__name__ for part in outcome)})"
    return f"a {type(outcome).__name__}"
