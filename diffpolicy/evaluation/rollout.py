"""The one loop around `env.step` for simulation: agents in environments, stepped side by side.

An episode is a function of the agent and of its reset alone: how many run side by side, and in how many processes,
changes the time it takes and nothing else. An agent keys its noise by the episode's seed, networks run in blocks of
one fixed size (`Policy.block`) on one thread, and every episode starts in an environment reset by its own seed.

An environment that breaks ends its own episode, in one sentence (`Episode.error`), and no other. A process that it
takes with it is replaced: the episodes that ran beside it start again there, and come out as they would have.
"""

from __future__ import annotations

import functools
import math
import time
import traceback
from collections.abc import Callable, Collection, Generator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from typing import Any

from tqdm import tqdm

from diffpolicy.datasets.spec import stack
from diffpolicy.evaluation.contract import BrokenEnvironment, Contract, MakeEnv, Place, factory, sentence
from diffpolicy.evaluation.episode import Episode, Reset, Step
from diffpolicy.evaluation.journal import Journal
from diffpolicy.evaluation.observers import Observer
from diffpolicy.evaluation.shards import Death, choose_workers, one_thread, run_shards
from diffpolicy.evaluation.task import TaskSpec
from diffpolicy.policies.controller import Controller
from diffpolicy.util.errors import explain, require

HOPELESS = 10
"""A rollout stops where the environment breaks this many episodes, the first by number, before their first step."""

Broke = Callable[[Episode, BrokenEnvironment], None]


@dataclass
class _Running:
    """An episode under way: its environment, and what was last seen there."""

    episode: Episode
    limit: float
    place: Place
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
    broke: Broke | None = None,
    journal: Journal | None = None,
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
        broke: called where an environment breaks an episode off, while the others run on; None raises the error.
        journal: where the calls of environments are noted.

    Raises:
        ValueError: an environment without a time limit.
        TypeError: not a gymnasium environment, or one whose `reset` lacks `seed` or `options`.
        BrokenEnvironment: an environment broke, and there is no `broke`.
    """
    agent.reset()
    broke = _raise if broke is None else broke
    journal = Journal() if journal is None else journal
    waiting = zip(range(len(resets)) if numbers is None else numbers, resets, strict=True)
    running, clock = dict[int, _Running](), 0  # by env_id; control steps since chunks started
    contract = Contract(max_steps is not None or all(how.limit is not None for how in resets), task)
    with ExitStack() as opened:
        opened.enter_context(one_thread())
        places = [opened.enter_context(closing(Place(make_env, contract, journal))) for _ in resets[:envs]]
        while True:
            # New episodes start only where chunks start, so that all environments ask for chunks at the same steps.
            if not running or clock % agent.replan_every == 0:
                clock = 0
                free = [env_id for env_id in range(len(places)) if env_id not in running]
                fresh = dict(zip(free, waiting, strict=False))
                if fresh:
                    agent.reset(list(fresh), [how.seed for _, how in fresh.values()])
                for env_id, (number, how) in fresh.items():
                    episode = Episode(how.seed, number)
                    try:
                        running[env_id] = _start(episode, how, places[env_id], observers, max_steps)
                    except BrokenEnvironment as error:
                        broke(episode, error)
                        yield []
                if not running and not fresh:
                    return
            if running:
                yield _advance(agent, running, planned=clock == 0, broke=broke)
                clock += 1


def _raise(episode: Episode, error: BrokenEnvironment) -> None:
    raise error


def _start(
    episode: Episode, how: Reset, place: Place, observers: Sequence[Observer], max_steps: int | None
) -> _Running:
    obs, info = place.start(episode, how)
    limit = how.limit if how.limit is not None else max_steps
    watching = [observer for observer in observers if observer.watches(episode)]
    for observer in watching:
        observer.on_reset(episode, place.env, obs, info)
    return _Running(episode, math.inf if limit is None else limit, place, obs, info, watching)


def _advance(agent: Controller, running: dict[int, _Running], planned: bool, broke: Broke) -> list[Step]:
    """Act once in all running environments; those whose episodes have ended no longer run."""
    env_ids = sorted(running)
    began = time.perf_counter()
    actions = agent.act(stack([running[i].obs for i in env_ids]), env_ids, [running[i].info for i in env_ids])
    seconds = time.perf_counter() - began
    steps = []
    for env_id, action in zip(env_ids, actions, strict=True):
        one = running[env_id]
        try:
            obs, reward, done, info = one.place.step(action)
        except BrokenEnvironment as error:
            del running[env_id]
            broke(one.episode, error)
            continue
        done = done or one.episode.steps >= one.limit
        spread = agent.spread.get(env_id) if planned else None
        what = (one.obs, action, reward, obs, info, done, seconds, planned, spread)
        step = Step(env_id, one.episode, one.place.env, *what)
        one.obs, one.info = obs, info
        one.episode.asked = agent.asked.get(env_id)
        if done:
            one.place.end()
            del running[env_id]
        for observer in one.observers:
            observer.on_step(step)
            if done:
                observer.on_end(one.episode)
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
    timeout: float | None = None,
) -> list[Episode]:
    """Roll out one episode per reset and return them in that order.

    An episode that the environment broke off is among them, with `Episode.error` in place of results.

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
        timeout: seconds that a make, a reset or a step may take. The environments then run in another process even
            with `workers=0`. None takes that of `make_env`, if it has one.

    Raises:
        ValueError: envs or workers out of range, what cannot be pickled for the workers, or no time limit.
        TypeError: not a gymnasium environment, or one whose `reset` lacks `seed` or `options`.
        BrokenEnvironment: the environment broke off every episode, or the first `HOPELESS` before their first step.
        RuntimeError: a worker died, and no environment did it.
    """
    episodes: dict[int, Episode] = {}
    settings = {"envs": envs, "workers": workers, "task": task, "max_steps": max_steps, "timeout": timeout}
    bar = tqdm(total=len(resets), desc="rollout", unit="episode", disable=not progress, leave=False)
    with bar, closing(finished_episodes(agent, make_env, resets, observers, **settings)) as finished:
        for episode in finished:
            episodes[episode.number] = episode
            first = [episodes.get(number) for number in range(HOPELESS)]
            if episode.error is not None and all(one and one.error and not one.steps for one in first):
                require_whole([one for one in first if one])
            bar.update()
    ordered = [episodes[number] for number in range(len(resets))]
    require_whole(ordered)
    return ordered


def require_whole(episodes: Sequence[Episode]) -> None:
    """Raise BrokenEnvironment, with the first sentence, if the environment broke all of these episodes off."""
    if episodes and all(episode.error is not None for episode in episodes):
        so = f"; so it went with all {len(episodes)} episodes" if len(episodes) > 1 else ""
        error = BrokenEnvironment(f"{episodes[0].error}{so}")
        if episodes[0].trace:
            error.add_note(episodes[0].trace)
        raise error


def finished_episodes(
    agent: Controller,
    make_env: MakeEnv,
    resets: Sequence[Reset],
    observers: Sequence[Observer] = (),
    *,
    workers: int | None = 0,
    envs: int = 64,
    timeout: float | None = None,
    ahead: int | None = None,
    **settings: Any,
) -> Generator[Episode, None, None]:
    """Yield episodes as they end, in whatever order; see `rollout`, and `run_shards` on `ahead`."""
    says = f"envs={envs}, workers={workers}, {len(resets)} episodes"
    require(envs >= 1 and (workers or 0) >= 0 and resets, says, "envs >= 1, workers >= 0 or None, and some episodes")
    if timeout is None and (made_by := factory(make_env)) is not None:
        timeout = made_by.timeout
    require(timeout is None or timeout > 0, f"timeout={timeout}", "seconds above 0, or None")
    count = choose_workers(agent.device, len(resets)) if workers is None else min(workers, len(resets))
    count = max(count, 0 if timeout is None else 1)
    roll = functools.partial(_roll, agent, make_env, observers, envs=envs, **settings)
    numbered = list(enumerate(resets))
    if count == 0:
        yield from (episode for episode, _ in roll(numbered))
        return
    # Dealt out in turn, so that all have about as much to do and whatever drifts along the seeds falls on all.
    shards = [numbered[k::count] for k in range(count)]
    calls, over = [0] * count, set[int]()
    mourn = functools.partial(_mourn, make_env, over)
    for worker, (episode, found) in run_shards(roll, shards, mourn, timeout, ahead):
        over.add(episode.number)
        calls[worker] = found or calls[worker]
        yield episode
    agent.calls = max(calls)


Numbered = Sequence[tuple[int, Reset]]


def _roll(
    agent: Controller,
    make_env: MakeEnv,
    observers: Sequence[Observer],
    shard: Numbered,
    journal: Journal | None = None,
    **settings: Any,
) -> Generator[tuple[Episode, int], None, None]:
    """Yield the finished episodes of a shard of numbered resets, each with the network calls of the last chunk."""
    numbers, resets = zip(*shard, strict=True)
    broken: list[Episode] = []

    def broke(episode: Episode, error: BrokenEnvironment) -> None:
        episode.fail(str(error), "".join(traceback.format_exception(error.__cause__)))
        broken.append(episode)

    watched = {"numbers": numbers, "broke": broke, "journal": journal}
    for steps in simulate(agent, make_env, resets, observers, **watched, **settings):
        ended = [*broken, *(step.episode for step in steps if step.done)]
        broken.clear()
        yield from ((episode, agent.calls) for episode in ended)


def _mourn(
    make_env: MakeEnv, over: Collection[int], shard: Numbered, death: Death
) -> tuple[list[tuple[Episode, int]], Numbered]:
    """Return the episode whose environment took its process with it, and what is left of the shard.

    Raises:
        RuntimeError: no environment did it.
    """
    left = [(number, how) for number, how in shard if number not in over]
    call = death.call
    if call is not None and (call.number in over or (call.what == "close" and len(left) < len(shard))):
        return [], left
    guilty = None if call is None else next((how for number, how in left if number == call.number), None)
    if call is None or guilty is None:
        cure = "take workers=0 to see why, and start workers of a script below `if __name__ == '__main__':`"
        raise RuntimeError(explain(f"a worker died: {death.says}", cure=cure))
    episode = Episode(guilty.seed, call.number, steps=max(call.step - 1, 0))
    episode.fail(sentence(make_env, guilty.seed, call, death.says))
    return [(episode, 0)], [(number, how) for number, how in left if number != call.number]
