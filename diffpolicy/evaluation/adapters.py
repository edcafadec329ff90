"""From the id of an environment to a function that makes it, in this process and in workers.

Which environments there are is decided by what is installed and imported here, never by a file that is read: a
gymnasium id such as "module:Name-v0" would import a module, and a checkpoint may come from somebody else.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import gymnasium as gym
from gymnasium.envs.registration import EnvSpec, load_env_creator

from diffpolicy import registry
from diffpolicy.config import EnvConfig, RunConfig
from diffpolicy.evaluation.task import TaskSpec
from diffpolicy.util.errors import explain, require
from diffpolicy.util.names import suggest

OBS_MODE = "obs_mode"
"""The option that chooses among the observations of an environment that has several."""

_FRAMES = "rgb_array"


@dataclass(frozen=True)
class EnvFactory:
    """Makes one environment at every call; can be pickled where its class or function can.

    Args:
        id: of the environment.
        source: its gymnasium registration, or what an installed package makes it with.
        kwargs: keyword arguments of the environment.
        render_mode: "rgb_array" where frames are wanted.
        max_steps: time limit instead of the registered one.
        timeout: seconds that a make, a reset or a step may take, which rollouts see to; None is without limit.
    """

    id: str
    source: EnvSpec | Callable[..., gym.Env[Any, Any]]
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    render_mode: str | None = None
    max_steps: int | None = None
    timeout: float | None = None

    def __call__(self) -> gym.Env[Any, Any]:
        kwargs = {**self.kwargs, **({} if self.render_mode is None else {"render_mode": self.render_mode})}
        try:
            if isinstance(self.source, EnvSpec):
                return gym.make(self.source, max_episode_steps=self.max_steps, **kwargs)
            env = self.source(**kwargs)
        except TypeError as error:
            raise ValueError(explain(f"{self.id} with {dict(self.kwargs)}: {error}")) from error
        return env if self.max_steps is None else gym.wrappers.TimeLimit(env, self.max_steps)

    def rendering(self) -> EnvFactory:
        """Return a factory of environments that render frames."""
        return replace(self, render_mode=_FRAMES)


def make_env(
    env: str | EnvConfig,
    kwargs: Mapping[str, Any] | None = None,
    *,
    render_mode: str | None = None,
    max_steps: int | None = None,
) -> EnvFactory:
    """Return a function that makes an environment, for `rollout` and everything that rolls out.

    Args:
        env: an id that is registered with gymnasium in this process (import the package that does so), or that an
            installed package names as an entry point `diffpolicy.env`; or a config.
        kwargs: keyword arguments of the environment, beside those of a config.
        render_mode: "rgb_array" where frames are wanted.
        max_steps: time limit instead of the registered one.

    Raises:
        ValueError: an id that is not known here, with the close ones.
    """
    config = env if isinstance(env, EnvConfig) else EnvConfig(env)
    limit = config.max_steps if max_steps is None else max_steps
    task = {} if config.task is None else {"task": config.task}
    given = {**config.kwargs, **task, **(kwargs or {})}
    return EnvFactory(str(config.id), _source(config.id), given, render_mode, limit, config.timeout)


def policy_env(config: RunConfig, render_mode: str | None = None) -> EnvFactory:
    """Return a function that makes the environment of a training run, observed as the policy observes it.

    Raises:
        ValueError: the run has no environment, or one that is not known here.
    """
    require(config.env.id is not None, "env.id=null", cure="this policy was trained without an environment")
    mode = config.observation.mode
    return make_env(config.env, {} if mode is None else {OBS_MODE: mode}, render_mode=render_mode)


def declared_task(id: str) -> TaskSpec | None:
    """Return the task that the class of an environment declares, without making one; None if that is not known."""
    source = gym.registry.get(id)
    entry = source.entry_point if source is not None else registry.known("env").get(id)
    if isinstance(entry, importlib.metadata.EntryPoint):
        entry = entry.load()
    made_by = load_env_creator(entry) if isinstance(entry, str) else entry
    if isinstance(made_by, type) and issubclass(made_by, gym.Env):
        return TaskSpec.from_metadata(made_by.metadata)
    return None


def _source(id: str | None) -> EnvSpec | Callable[..., gym.Env[Any, Any]]:
    if id in gym.registry:
        return gym.registry[id]
    installed = registry.known("env")
    if id in installed:
        return registry.lookup("env", str(id))
    known = [*gym.registry, *installed]
    cure = "import the package that registers it first; gymnasium.pprint_registry() lists what there is"
    raise ValueError(explain(f"unknown environment {id!r}{suggest(id, known)}", cure=cure))
