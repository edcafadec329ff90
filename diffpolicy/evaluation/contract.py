"""What rollouts ask of an environment, and what an environment that breaks it costs: one episode, in one sentence."""

from __future__ import annotations

import functools
import inspect
import math
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, final

import gymnasium as gym
import numpy as np

from diffpolicy.evaluation.adapters import EnvFactory
from diffpolicy.evaluation.episode import Episode, Reset
from diffpolicy.evaluation.journal import Call, Journal
from diffpolicy.evaluation.spaces import Misfit
from diffpolicy.evaluation.task import TaskSpec
from diffpolicy.util.errors import explain, require

MakeEnv = Callable[[], gym.Env[Any, Any]]

_LONGEST = 300
"""Characters of an environment's own message that are repeated."""


class BrokenEnvironment(ValueError):
    """An environment raised an error, gave what it must not, hung, or ended its process."""


class _Breach(Exception):
    """What an environment gave, and what was expected."""


class _Part(NamedTuple):
    """One array of an observation: the keys that lead to it, and what its space says."""

    keys: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: np.dtype

    def __str__(self) -> str:
        return f"{_path(self.keys)} {self.dtype}{list(self.shape)}"


@dataclass
class Contract:
    """What all environments of a rollout share, as the first one declares it.

    Args:
        limited: whether the caller limits the steps of all episodes.
        task: what results mean; None takes what the first environment declares.
        parts: what an observation consists of, by the first environment; None before it is made.
    """

    limited: bool
    task: TaskSpec | None = None
    parts: list[_Part] | None = field(default=None, init=False)

    def settle(self, env: gym.Env[Any, Any]) -> None:
        """Take over what the first environment says.

        Raises:
            TypeError: no gymnasium environment, or a `reset` without `seed` and `options`.
            ValueError: no time limit, or a malformed task.
        """
        require(isinstance(env, gym.Env), *_no_env(env), error=TypeError)
        require_limits(env, self.limited)
        self.task = TaskSpec.of(env) if self.task is None else self.task
        self.parts = _parts(env)

    def admit(self, env: gym.Env[Any, Any]) -> None:
        """Raise _Breach unless an environment shows what the first one shows."""
        if not isinstance(env, gym.Env):
            raise _Breach(explain(*_no_env(env)))
        if (parts := _parts(env)) != self.parts:
            shown, expected = (", ".join(map(str, each)) or "nothing" for each in (parts, self.parts or ()))
            raise _Breach(explain(f"it shows {shown}", f"{expected}, as the first one"))


@final
class Place:
    """One of the environments side by side: kept to the contract, and made anew once it has broken.

    Args:
        make_env: makes the environment.
        contract: what it is kept to.
        journal: where its calls are noted.
    """

    def __init__(self, make_env: MakeEnv, contract: Contract, journal: Journal) -> None:
        self._make_env, self._contract, self._journal = make_env, contract, journal
        self._episode = Episode(0)
        self._env: gym.Env[Any, Any] | None = None
        self._space: gym.Space[Any] | None = None
        self._action_shape: tuple[int, ...] | None = None
        self._broken = False

    @property
    def env(self) -> gym.Env[Any, Any]:
        """The environment of the episode."""
        require(self._env is not None, "no environment", cure="start an episode first", error=RuntimeError)
        return self._env  # type: ignore[return-value]

    def start(self, episode: Episode, how: Reset) -> tuple[Any, Mapping[str, Any]]:
        """Start an episode and return its first observation and `info`.

        Raises:
            BrokenEnvironment: the environment cannot be made or reset.
            TypeError: see `Contract.settle`.
            ValueError: see `Contract.settle`.
        """
        self._episode = episode
        if self._broken:
            self.close()
        if self._env is None:
            self._env = self._call("make", self._make_env)
            self._broken = True  # until it has been looked at
            if self._contract.parts is None:
                self._contract.settle(self._env)
            else:
                self._call("make", self._contract.admit, self._env)
            self._space = getattr(self._env, "action_space", None)
            self._action_shape = None if self._space is None else self._space.shape
            self._broken = False
        return self._call("reset", self._reset, how)

    def step(self, action: Any) -> tuple[Any, float, bool, Mapping[str, Any]]:
        """Step, count it in the episode, and return observation, reward, whether the episode has ended, and `info`.

        Raises:
            BrokenEnvironment: what the environment returns, or that it returns nothing.
        """
        return self._call("step", self._step, action)

    def end(self) -> None:
        """Take into account that the episode has no more steps."""
        self._episode.end(self._space)

    def close(self) -> None:
        """Close the environment, if there is one; an error is no more than a warning, and none of a broken one."""
        env, self._env, broken = self._env, None, self._broken
        if env is not None:
            try:
                self._call("close", lambda: env.close())
            except BrokenEnvironment as error:
                if not broken:
                    warnings.warn(str(error), RuntimeWarning, stacklevel=2)

    def _call(self, what: str, call: Callable[..., Any], *arguments: Any) -> Any:
        episode = self._episode
        step = episode.steps + 1 if what == "step" else 0
        self._journal.begin(what, episode.number, step)
        try:
            return call(*arguments)
        except (Exception, SystemExit) as error:
            self._broken = True
            if what == "step":
                episode.steps = step - 1  # it may have been counted already
            says = sentence(self._make_env, episode.seed, Call(what, episode.number, step), _cause(error))
            raise BrokenEnvironment(says) from error
        finally:
            self._journal.end()

    def _reset(self, how: Reset) -> tuple[Any, Mapping[str, Any]]:
        seed = how.seed if how.env_seed is None else how.env_seed
        outcome = self.env.reset(seed=seed, options=None if how.options is None else dict(how.options))
        if not (isinstance(outcome, tuple) and len(outcome) == 2 and isinstance(outcome[1], Mapping)):
            raise _Breach(explain(f"returned {_described(outcome)}", "(observation, info), info a dict"))
        _check_observation(outcome[0], self._contract.parts or ())
        return outcome

    def _step(self, action: Any) -> tuple[Any, float, bool, Mapping[str, Any]]:
        if self._action_shape is not None and np.shape(action) != self._action_shape:
            raise _Breach(
                explain(f"it takes actions {self._action_shape}", f"{np.shape(action)}, as the agent gives")
            )
        outcome = self._env.step(action)  # type: ignore[union-attr]
        if not (isinstance(outcome, tuple) and len(outcome) == 5 and isinstance(outcome[4], Mapping)):
            wanted = "(observation, reward, terminated, truncated, info), info a dict"
            raise _Breach(explain(f"returned {_described(outcome)}", wanted))
        obs, reward, terminated, truncated, info = outcome
        _check_observation(obs, self._contract.parts or ())
        reward = _number("the reward", reward)
        try:
            done = bool(terminated or truncated)
        except Exception:
            shown = f"terminated={terminated!r:.40}, truncated={truncated!r:.40}"
            raise _Breach(explain(shown, "True or False")) from None
        try:
            self._episode.count(self._contract.task or TaskSpec(), action, reward, info)
        except (ValueError, TypeError) as error:
            raise _Breach(str(error)) from None
        for name, value in self._episode.metrics.items():
            if not math.isfinite(value):
                raise _Breach(explain(f"the metric {name!r} is {value}", "a finite number"))
        return obs, reward, done, info


def require_limits(env: gym.Env[Any, Any], limited: bool) -> None:
    """Raise unless episodes of `env` end, and its `reset` takes what every episode is reset with.

    Args:
        env: an environment.
        limited: whether the caller limits the steps of all episodes.

    Raises:
        TypeError: a `reset` without `seed` and `options`.
        ValueError: no time limit.
    """
    inner = innermost(env)
    parameters = inspect.signature(inner.reset).parameters
    missing = {"seed", "options"} - set(parameters)
    open_ended = any(one.kind is inspect.Parameter.VAR_KEYWORD for one in parameters.values())
    takes = f"{type(inner).__name__}.reset takes ({', '.join(parameters)})"
    require(open_ended or not missing, takes, "reset(*, seed=None, options=None)", error=TypeError)
    name = type(inner).__name__ if env.spec is None else env.spec.id
    require(
        limited or has_time_limit(env),
        f"{name} has no time limit, so that an episode might never end",
        cure="give one, by env.max_steps=N to a command, max_steps=N from Python, or where gymnasium registers it",
    )


def innermost(env: gym.Env[Any, Any]) -> gym.Env[Any, Any]:
    """Return the environment inside all wrappers; its own `unwrapped` may be an object of another API."""
    *_, inner = layers(env)
    return inner


def has_time_limit(env: gym.Env[Any, Any]) -> bool:
    """Return whether a wrapper, or the environment itself by its registration, limits the steps of an episode."""
    return any(
        isinstance(layer, gym.wrappers.TimeLimit) or (layer.spec is not None and layer.spec.max_episode_steps)
        for layer in layers(env)
    )


def sentence(make_env: MakeEnv, seed: int, call: Call, cause: str) -> str:
    """Return what is said of an episode that an environment broke.

    Args:
        make_env: made the environment.
        seed: of the episode.
        call: that did not return what it should.
        cause: what it did instead.
    """
    where = f"step {call.step}" if call.what == "step" else call.what
    return f"{env_name(make_env)}, seed {seed}, {where}: {cause}"


def factory(make_env: MakeEnv) -> EnvFactory | None:
    """Return the factory behind `make_env`, wrapped or not; None if there is none."""
    if isinstance(make_env, functools.partial):
        return next((found for one in make_env.args if callable(one) and (found := factory(one))), None)
    return make_env if isinstance(make_env, EnvFactory) else None


def env_name(make_env: MakeEnv) -> str:
    """Return what errors call the environments that `make_env` makes."""
    if (found := factory(make_env)) is not None:
        return found.id
    while isinstance(make_env, functools.partial):
        make_env = make_env.func
    name = make_env.__name__ if inspect.isroutine(make_env) or isinstance(make_env, type) else ""
    return name if name.isidentifier() else "the environment"


def _cause(error: BaseException) -> str:
    if isinstance(error, (_Breach, Misfit)):
        return str(error)
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{said(error)} ({Path(frame.filename).name}:{frame.lineno})"


def said(error: BaseException) -> str:
    """Return an error as one line: its type and its message, cut where it is long."""
    try:
        message = " ".join(str(error).split())
    except Exception:
        message = ""
    message = message if len(message) <= _LONGEST else message[: _LONGEST - 1] + "…"
    return f"{type(error).__name__}{': ' if message else ''}{message}"


def _no_env(env: Any) -> tuple[str, str]:
    return f"make_env returned a {type(env).__name__}", "a gymnasium.Env"


def _parts(env: gym.Env[Any, Any]) -> list[_Part]:
    """The arrays that observations consist of; nothing is known of an environment without a space."""
    return _arrays(getattr(env, "observation_space", None), ())


def _arrays(space: gym.Space[Any] | None, keys: tuple[str, ...]) -> list[_Part]:
    if isinstance(space, gym.spaces.Dict):
        return [part for key, inner in space.items() for part in _arrays(inner, (*keys, key))]
    if space is None or space.shape is None or space.dtype is None or isinstance(space, gym.spaces.Text):
        return []
    return [_Part(keys, space.shape, np.dtype(space.dtype))]


def _check_observation(obs: Any, parts: list[_Part] | tuple[()]) -> None:
    """Raise _Breach unless an observation is what the space says, and finite."""
    for keys, shape, dtype in parts:
        values = obs
        for key in keys:
            if not isinstance(values, Mapping) or key not in values:
                has = ", ".join(map(str, values)) if isinstance(values, Mapping) else f"a {type(values).__name__}"
                raise _Breach(f"the observation lacks {_path(keys)}; it has {has or 'nothing'}")
            values = values[key]
        if not isinstance(values, np.ndarray):
            try:
                values = np.asarray(values)
            except ValueError:  # ragged
                raise _Breach(f"{_named(keys)} is a {type(values).__name__}; expected {dtype}{list(shape)}") from None
        if values.shape != shape or not (values.dtype == dtype or np.can_cast(values.dtype, dtype, "same_kind")):
            given = f"{_named(keys)} is {values.dtype}{list(values.shape)}"
            raise _Breach(explain(given, f"{dtype}{list(shape)}, as its space says"))
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            raise _Breach(f"{_named(keys)} holds NaN or infinity")


def _number(name: str, value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise _Breach(explain(f"{name} is {value!r:.40}", "a finite number"))
    return number


def _named(keys: tuple[str, ...]) -> str:
    return f"the observation {_path(keys)}".rstrip()


def _path(keys: tuple[str, ...]) -> str:
    return repr(".".join(keys)) if keys else ""


def layers(env: gym.Env[Any, Any]) -> Iterator[gym.Env[Any, Any]]:
    """Yield an environment's wrappers, from the outermost, and the environment itself."""
    yield env
    while isinstance(env, gym.Wrapper):
        env = env.env
        yield env


def _described(outcome: Any) -> str:
    if isinstance(outcome, tuple):
        return f"({', '.join(type(part).__name__ for part in outcome)})"
    return f"a {type(outcome).__name__}"
