"""A look at an environment before anything is rolled out, which must not hang where rollouts would not."""

from __future__ import annotations

import functools
from collections.abc import Callable, Generator
from contextlib import closing
from typing import Any, NoReturn, TypeVar

import gymnasium as gym

from diffpolicy.evaluation.contract import BrokenEnvironment, MakeEnv, env_name, factory
from diffpolicy.evaluation.journal import Journal
from diffpolicy.evaluation.shards import Death, run_shards

Found = TypeVar("Found")


def look(make_env: MakeEnv, at: Callable[[gym.Env[Any, Any]], Found]) -> Found:
    """Return what `at` finds in an environment: here, or in a process that can be killed if there is a timeout.

    Args:
        make_env: makes the environment; a timeout is that of its `EnvFactory`.
        at: a function of a module; what it returns can be pickled.

    Raises:
        BrokenEnvironment: the environment was not made in time, or its process died.
        Exception: what `make_env` or `at` raised.
    """
    made_by = factory(make_env)
    if made_by is None or made_by.timeout is None:
        with closing(make_env()) as env:
            return at(env)
    work, mourn = functools.partial(_look, make_env, at), functools.partial(_mourn, make_env)
    with closing(run_shards(work, [0], mourn, made_by.timeout)) as found:
        return next(found)[1]


def _look(
    make_env: MakeEnv, at: Callable[[gym.Env[Any, Any]], Found], shard: int, journal: Journal
) -> Generator[Found, None, None]:
    journal.begin("make", shard, 0)
    env = make_env()
    journal.end()
    with closing(env):
        yield at(env)


def _mourn(make_env: MakeEnv, shard: int, death: Death) -> NoReturn:
    raise BrokenEnvironment(f"{env_name(make_env)}, make: {death.says}")
