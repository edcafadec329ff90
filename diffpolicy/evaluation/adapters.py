"""From the config of an environment to a function that makes it, in this process and in workers.

An id such as "module:Name-v0", a factory and a function of success are imports. They are made for whoever typed them,
and never for a file that is read: a checkpoint may come from somebody else, see `policy_env`.
"""

from __future__ import annotations

import importlib.metadata
import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import gymnasium as gym
from gymnasium.envs.registration import EnvSpec, load_env_creator

from diffpolicy import registry
from diffpolicy.checkpoint import CheckpointError
from diffpolicy.config import EnvConfig, RunConfig
from diffpolicy.config.schema import asked_for
from diffpolicy.evaluation.adapting import Adapted, Fresh
from diffpolicy.evaluation.estimated import Estimated, load_estimator
from diffpolicy.evaluation.spaces import Misfit
from diffpolicy.evaluation.task import TaskSpec
from diffpolicy.util.errors import explain, require
from diffpolicy.util.imports import import_module, import_named, is_import_path
from diffpolicy.util.names import suggest

OBS_MODE = "obs_mode"
"""The keyword argument that chooses among the observations of an environment that has several."""

Source = EnvSpec | Callable[..., gym.Env[Any, Any]] | None

_FRAMES = "rgb_array"
_BY_NAME = ("GymV21Environment-v0", "GymV26Environment-v0")  # gymnasium's own, which import what their kwargs name


@dataclass(frozen=True)
class EnvFactory:
    """Makes one environment at every call; can be pickled where its class or function can.

    Args:
        config: of the environment.
        source: its gymnasium registration, or what an installed package makes it with; None imports what the config
            names, in workers too.
        render_mode: "rgb_array" where frames are wanted.
        adapted: whether it is made to fit, see `Adapted`.
    """

    config: EnvConfig
    source: Source = None
    render_mode: str | None = None
    adapted: bool = True

    @property
    def id(self) -> str:
        """What messages call the environment."""
        return str(self.config.id or self.config.factory)

    @property
    def kwargs(self) -> dict[str, Any]:
        """Keyword arguments of the environment, its task among them."""
        task = {} if self.config.task is None else {"task": self.config.task}
        return {**self.config.kwargs, **task}

    @property
    def timeout(self) -> float | None:
        """Seconds that one making, reset or step may take."""
        return self.config.timeout

    def __call__(self) -> gym.Env[Any, Any]:
        if self.config.estimator is not None:
            load_estimator(self.config.estimator)  # first: an environment that was made has to be closed
        make = _Instances(self)
        env = Fresh(make, keep_first=not self.config.seed_globals) if self.config.fresh else make()
        if not self.adapted:
            return env
        try:
            adapted = Adapted(env, self.config)
            return adapted if self.config.estimator is None else Estimated(adapted, self.config.estimator)
        except ValueError as error:
            env.close()
            raise Misfit(f"{self.id}: {error}") from error

    def rendering(self) -> EnvFactory:
        """Return a factory of environments that render frames."""
        return replace(self, render_mode=_FRAMES)

    def bare(self) -> EnvFactory:
        """Return a factory of the environment as it is, except for its time limit."""
        return replace(self, adapted=False)

    def with_kwargs(self, kwargs: Mapping[str, Any]) -> EnvFactory:
        """Return a factory of environments with these keyword arguments instead."""
        return replace(self, config=replace(self.config, kwargs=dict(kwargs), task=None))


@dataclass(frozen=True)
class _Instances:
    """Makes the environment of a factory as it is, with its time limit."""

    factory: EnvFactory

    def __call__(self) -> gym.Env[Any, Any]:
        factory = self.factory
        config, source, kwargs = factory.config, factory.source, factory.kwargs
        if factory.render_mode is not None:
            kwargs["render_mode"] = factory.render_mode
        if source is None:
            source = _imported(config)
        try:
            if isinstance(source, EnvSpec):
                return gym.make(source, max_episode_steps=config.max_steps, disable_env_checker=True, **kwargs)
            env = source(**kwargs)
        except (ImportError, OSError):
            raise
        except Exception as error:
            kind = "" if isinstance(error, (TypeError, ValueError, gym.error.Error)) else f"{type(error).__name__}: "
            raise Misfit(explain(f"{factory.id} with {factory.kwargs}: {kind}{error}")) from error
        given = f"{factory.id} returned a {type(env).__name__}"
        api = "a gymnasium.Env: reset(seed=, options=) returns (observation, info), step five values"
        require(isinstance(env, gym.Env), given, api, "wrap it in a class that does so", TypeError)
        return env if config.max_steps is None else gym.wrappers.TimeLimit(env, config.max_steps)


def make_env(
    env: str | EnvConfig,
    kwargs: Mapping[str, Any] | None = None,
    *,
    render_mode: str | None = None,
    max_steps: int | None = None,
) -> EnvFactory:
    """Return a function that makes an environment, for `rollout` and everything that rolls out.

    Args:
        env: an id that is registered with gymnasium in this process, or that an installed package names as an entry
            point `diffpolicy.env`, or "module:id", which imports the module that registers it; or a config.
        kwargs: keyword arguments of the environment, beside those of a config.
        render_mode: "rgb_array" where frames are wanted.
        max_steps: time limit instead of the registered one.

    Raises:
        ValueError: an id that is not known here, with the close ones, or settings that are out of range.
        ImportError: a module that cannot be imported.
    """
    config = env if isinstance(env, EnvConfig) else EnvConfig(env)
    limit = config.max_steps if max_steps is None else max_steps
    config = replace(config, kwargs={**config.kwargs, **(kwargs or {})}, max_steps=limit)
    _check(config)
    return EnvFactory(config, _source(config), render_mode)


def policy_env(
    config: RunConfig,
    render_mode: str | None = None,
    *,
    given: EnvConfig | None = None,
    line: str = "diffpolicy evaluate checkpoint=…",
) -> EnvFactory:
    """Return a function that makes the environment in which to roll a policy out, observed as it observes.

    Args:
        config: of the run, which may come from somebody else's checkpoint.
        render_mode: "rgb_array" where frames are wanted.
        given: what the caller asks for, see `asked_for`, which may name modules to import. Settings of the same
            environment are put over those of the run; another environment comes with its own settings alone. None
            asks for nothing.
        line: a command, to which the message adds what allows an import that the run alone names.

    Raises:
        ValueError: no environment, one that is not known here, or an import that the caller did not ask for.
        ImportError: a module that cannot be imported.
    """
    asked = given or EnvConfig()
    env, own = combined(config.env, asked), is_same_env(config.env, asked)
    why = "" if names_env(config.env) else "this policy was trained without an environment: "
    require(names_env(env), "env.id=null", cure=f"{why}{line} env.id=…")
    env = _without_imports(env, asked, line)
    exact = config.env.estimator is not None and env.estimator is None  # the estimator was taken away
    mode = config.observation.mode if exact else config.env.kwargs.get(OBS_MODE, config.observation.mode)
    factory = make_env(env, render_mode=render_mode)
    for_estimator = env.estimator is not None and OBS_MODE in asked.kwargs
    fits = own or (OBS_MODE not in env.kwargs and _takes(factory.source, OBS_MODE))
    if mode is not None and fits and not for_estimator:
        factory = replace(factory, config=replace(env, kwargs={**env.kwargs, OBS_MODE: mode}))
    return factory


def names_env(env: EnvConfig) -> bool:
    """Return whether a config names an environment."""
    return env.id is not None or env.factory is not None


def is_same_env(env: EnvConfig, asked: EnvConfig) -> bool:
    """Return whether `asked` means the environment of `env`, or names none."""
    return not names_env(asked) or (bare_id(env.id), env.factory) == (bare_id(asked.id), asked.factory)


def combined(env: EnvConfig, asked: EnvConfig) -> EnvConfig:
    """Return the settings of `env` with what `asked` changes; those of `asked` alone for another environment."""
    if not is_same_env(env, asked):
        return asked
    changed = {name: vars(asked)[name] for name in asked_for(asked)}
    return replace(env, **{**changed, "kwargs": {**env.kwargs, **asked.kwargs}})


def bare_id(id: str | None) -> str | None:
    """Return an id without the module that registers it."""
    return None if id is None else id.rpartition(":")[2]


def declared_task(id: str | None) -> TaskSpec | None:
    """Return the task that the class of an environment declares, without making one; None if that is not known."""
    id = bare_id(id)
    source = gym.registry.get(str(id))
    entry = source.entry_point if source is not None else registry.known("env").get(str(id))
    if isinstance(entry, importlib.metadata.EntryPoint):
        entry = entry.load()
    made_by = load_env_creator(entry) if isinstance(entry, str) else entry
    if isinstance(made_by, type) and issubclass(made_by, gym.Env):
        return TaskSpec.from_metadata(made_by.metadata)
    return None


def _check(config: EnvConfig) -> None:
    both = config.id is not None and config.factory is not None
    require(not both, f"env.id={config.id} and env.factory={config.factory}", "one of them")
    require(config.max_steps is None or config.max_steps >= 1, f"env.max_steps={config.max_steps}", "at least 1")
    require(config.timeout is None or config.timeout > 0, f"env.timeout={config.timeout}", "seconds above 0")
    ends = config.image_range
    fits = ends is None or (len(ends) == 2 and all(map(math.isfinite, ends)) and ends[0] < ends[1])
    require(fits, f"env.image_range={ends}", "[lowest,highest] of the pictures, such as [0,1]")
    if is_import_path(config.success):
        import_named(str(config.success), "env.success")
    if config.estimator is not None:
        try:
            load_estimator(config.estimator)
        except CheckpointError as error:
            cure = "give its place by env.estimator=…, or null for what the environment shows"
            raise CheckpointError(explain(f"env.estimator={config.estimator}: {error}", cure=cure)) from error


def _without_imports(env: EnvConfig, asked: EnvConfig, line: str) -> EnvConfig:
    """The settings with nothing to import that was not asked for; an id that is registered here needs no import.

    Raises:
        ValueError: there is something else to import.
    """
    if env.id is not None and ":" in env.id and env.id != asked.id and _is_known(bare_id(env.id)):
        env = replace(env, id=bare_id(env.id))
    imports = {
        "id": env.id is not None and (":" in env.id or env.id in _BY_NAME),
        "kwargs": env.id in _BY_NAME,
        "factory": env.factory is not None,
        "success": is_import_path(env.success),
        "estimator": env.estimator is not None,
    }
    unasked = [name for name, wanted in imports.items() if wanted and vars(env)[name] != vars(asked)[name]]
    given = " and ".join(f"env.{name}={vars(env)[name]}" for name in unasked)
    allows = " ".join([line, *(f"env.{name}={vars(env)[name]}" for name, wanted in imports.items() if wanted)])
    runs = "which would run code" if unasked != ["estimator"] else "which would read a file"
    says = f"the checkpoint asks for {given}, {runs} that it names"
    require(not unasked, says, cure=f"if you trust it: {allows}")
    return env


def _is_known(id: str | None) -> bool:
    return id in gym.registry or id in registry.known("env")


def _source(config: EnvConfig) -> Source:
    """What makes the environment; None where workers are to import it, after it was imported here."""
    if config.factory is not None or ":" in str(config.id):
        _imported(config)
        return None
    if config.id in gym.registry:
        return gym.registry[str(config.id)]
    if config.id in registry.known("env"):
        return registry.lookup("env", str(config.id))
    known = [*gym.registry, *registry.known("env")]
    cure = "write module:id, where the module registers it; gymnasium.pprint_registry() lists what there is"
    raise ValueError(explain(f"unknown environment {config.id!r}{suggest(config.id, known)}", cure=cure))


def _imported(config: EnvConfig) -> EnvSpec | Callable[..., gym.Env[Any, Any]]:
    """What makes the environment of a factory or of an id with a module, which is imported."""
    if config.factory is not None:
        return import_named(config.factory, "env.factory")
    module, _, id = str(config.id).rpartition(":")
    import_module(module, f"env.id={config.id}")
    known = [name for name in gym.registry if name.partition("/")[0] == id.partition("/")[0]] or list(gym.registry)
    given = f"env.id={config.id}: {module} registers no environment {id!r}{suggest(id, known)}"
    require(id in gym.registry, given, cure="gymnasium.pprint_registry() lists what there is")
    return gym.registry[id]


def _takes(source: Source, name: str) -> bool:
    """Whether what makes an environment has a keyword argument of this name; False of what workers are to import."""
    entry = source.entry_point if isinstance(source, EnvSpec) else source
    if entry is None:
        return False
    made_by = load_env_creator(entry) if isinstance(entry, str) else entry
    return name in inspect.signature(made_by).parameters
