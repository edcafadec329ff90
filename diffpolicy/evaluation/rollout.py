"""The one loop around `env.step` for simulation: agents in environments, stepped side by side.

An episode is a function of the agent and of its reset alone: how many run side by side, and in how many processes,
changes the time it takes and nothing else. An agent keys its noise by the episode's seed, networks run in blocks of
one fixed size (`Policy.block`) on one thread, and every episode starts in an environment reset by its own seed.
"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
from tqdm import tqdm

from diffpolicy.datasets.spec import stack
from diffpolicy.evaluation import contract
from diffpolicy.evaluation.contract import MakeEnv
from diffpolicy.evaluation.episode import Episode, Reset, Step
from diffpolicy.evaluation.observers import Observer
from diffpolicy.evaluation.shards import choose_workers, one_thread, run_shards
from diffpolicy.evaluation.task import TaskSpec
from diffpolicy.policies.controller import Controller
from diffpolicy.util.errors import require


@dataclass
class _Running:
    """An episode under way: its environment, and what was last seen there."""

    episode: Episode
    limit: float
    env: gym.Env[Any, Any]
    obs: Any
    info: Mapping[str, Any]
    observers: Sequence[Observer]


def simulate(
    agent: Controller,
    make_env: MakeEnv,
    resets: Sequence[Reset],
    observers: Sequence[Observer] = (),
    *,
    envs: int = 64,
    task: TaskSpec | None = None,
    max_steps: int | None = None,
    numbers: Sequence[int] | None = None,
) -> Generator[list[Step], None, None]:
    """Yield, for each control step, what happened in every environment in which an episode is running.

    This is the loop of `rollout`, to be stepped from outside: a program may look, draw or stop between two steps.

    Args:
        agent: acts; it is reset for every episode.
        make_env: makes one environment.
        resets: one per episode.
        observers: called for every episode that they watch.
        envs: environments side by side.
        task: what results mean; None takes what the environment declares.
        max_steps: limit of steps for resets without a limit of their own.
        numbers: `Episode.number` of each reset; None counts from 0.

    Raises:
        ValueError, TypeError: an environment that breaks the contract, such as one without a time limit.
    """
    agent.reset()
    waiting = zip(range(len(resets)) if numbers is None else numbers, resets, strict=True)
    running, clock = dict[int, _Running](), 0  # by env_id; control steps since chunks started
    with ExitStack() as opened:
        opened.enter_context(one_thread())
        made = [opened.enter_context(closing(contract.make(make_env))) for _ in range(min(envs, len(resets)))]
        contract.check_env(made[0], max_steps is not None or all(how.limit is not None for how in resets))
        task = TaskSpec.of(made[0]) if task is None else task
        while True:
            # New episodes start only where chunks start, so that all environments ask for chunks at the same steps.
            if not running or clock % agent.replan_every == 0:
                clock = 0
                free = [env_id for env_id in range(len(made)) if env_id not in running]
                fresh = dict(zip(free, waiting, strict=False))
                agent.reset(list(fresh), [how.seed for _, how in fresh.values()])
                for env_id, (number, how) in fresh.items():
                    running[env_id] = _start(number, how, made[env_id], observers, max_steps)
            if not running:
                return
            yield _advance(agent, running, task, planned=clock == 0)
            clock += 1


def _start(
    number: int, how: Reset, env: gym.Env[Any, Any], observers: Sequence[Observer], max_steps: int | None
) -> _Running:
    episode = Episode(how.seed, number)
    obs, info = contract.reset(env, how)
    limit = how.limit if how.limit is not None else max_steps
    watching = [observer for observer in observers if observer.watches(episode)]
    for observer in watching:
        observer.on_reset(episode, env, obs, info)
    return _Running(episode, math.inf if limit is None else limit, env, obs, info, watching)


def _advance(agent: Controller, running: dict[int, _Running], task: TaskSpec, planned: bool) -> list[Step]:
    """Act once in all running environments; those whose episodes have ended no longer run."""
    env_ids = sorted(running)
    began = time.perf_counter()
    actions = agent.act(stack([running[i].obs for i in env_ids]), env_ids, [running[i].info for i in env_ids])
    seconds = time.perf_counter() - began
    steps = []
    for env_id, action in zip(env_ids, actions, strict=True):
        one = running[env_id]
        obs, reward, done, info = contract.step(one.env, action)
        one.episode.count(task, reward, info)
        done = done or one.episode.steps >= one.limit
        step = Step(env_id, one.episode, one.env, one.obs, action, reward, obs, info, done, seconds, planned)
        one.obs, one.info = obs, info
        for observer in one.observers:
            observer.on_step(step)
            if done:
                observer.on_end(one.episode)
        if done:
            del running[env_id]
        steps.append(step)
    return steps


def rollout(
    agent: Controller,
    make_env: MakeEnv,
    resets: Sequence[Reset],
    observers: Sequence[Observer] = (),
    *,
    envs: int = 64,
    workers: int | None = 0,
    progress: bool = False,
    task: TaskSpec | None = None,
    max_steps: int | None = None,
) -> list[Episode]:
    """Roll out one episode per reset and return them in that order.

    Args:
        agent: acts; with a policy of a fixed `block`, episodes do not depend on `envs` and `workers`.
        make_env: makes one environment, see `adapters.make_env`.
        resets: one per episode, see `episode_resets`.
        observers: what else to keep of episodes, in `Episode.observed`.
        envs: environments side by side in each process, best a multiple of the policy's `block`.
        workers: processes, to which agent, make_env and observers are pickled; 0 is this process, None chooses.
        progress: show a progress bar.
        task: what results mean; None takes what the environment declares.
        max_steps: limit of steps, for environments that have none.

    Raises:
        ValueError: envs or workers out of range, or what cannot be pickled for the workers.
        ValueError, TypeError: an environment that breaks the contract.
        RuntimeError: a worker died.
    """
    episodes: dict[int, Episode] = {}
    settings = {"envs": envs, "workers": workers, "task": task, "max_steps": max_steps}
    bar = tqdm(total=len(resets), desc="rollout", unit="episode", disable=not progress, leave=False)
    with bar, closing(finished_episodes(agent, make_env, resets, observers, **settings)) as finished:
        for episode in finished:
            episodes[episode.number] = episode
            bar.update()
    return [episodes[number] for number in range(len(resets))]


def finished_episodes(
    agent: Controller,
    make_env: MakeEnv,
    resets: Sequence[Reset],
    observers: Sequence[Observer] = (),
    *,
    workers: int | None = 0,
    envs: int = 64,
    **settings: Any,
) -> Generator[Episode, None, None]:
    """Yield episodes as they end, in whatever order; see `rollout`."""
    says = f"envs={envs}, workers={workers}, {len(resets)} episodes"
    require(envs >= 1 and (workers or 0) >= 0 and resets, says, "envs >= 1, workers >= 0 or None, and some episodes")
    count = choose_workers(agent.device, len(resets)) if workers is None else min(workers, len(resets))
    roll = functools.partial(_roll, agent, make_env, observers, envs=envs, **settings)
    numbered = list(enumerate(resets))
    if count == 0:
        yield from roll(numbered)
    else:  # dealt out in turn, so that all have about as much to do and whatever drifts along the seeds falls on all
        agent.calls = max((yield from run_shards(roll, [numbered[k::count] for k in range(count)])))


def _roll(
    agent: Controller, make_env: MakeEnv, observers: Sequence[Observer], shard: Sequence[Any], **settings: Any
) -> Generator[Episode, None, int]:
    """Yield the finished episodes of a shard of numbered resets; return the network calls of a chunk."""
    numbers, resets = zip(*shard, strict=True)
    for steps in simulate(agent, make_env, resets, observers, numbers=numbers, **settings):
        yield from (step.episode for step in steps if step.done)
    return agent.calls
