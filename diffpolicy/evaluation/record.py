"""Demonstrations by an environment's expert, recorded through the rollout loop."""

from __future__ import annotations

import functools
import importlib.metadata
import math
from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import Any

import gymnasium as gym
import numpy as np
from tqdm import tqdm

from diffpolicy.config.commands import RecordConfig
from diffpolicy.datasets.manifest import digest
from diffpolicy.datasets.writer import EpisodeWriter, alone
from diffpolicy.evaluation.adapters import OBS_MODE, make_env
from diffpolicy.evaluation.contract import MakeEnv
from diffpolicy.evaluation.episode import Reset
from diffpolicy.evaluation.experts import ExpertAgent
from diffpolicy.evaluation.observers import Recorder
from diffpolicy.evaluation.rollout import finished_episodes
from diffpolicy.evaluation.task import TaskSpec
from diffpolicy.evaluation.wrappers import NOISE_SEED, ActionNoise, StepsAfterSuccess
from diffpolicy.util.errors import require
from diffpolicy.util.stats import wilson

HOPELESS = 50
"""Consecutive failures after which recording stops."""

OBS_KEY = "state"
"""Name of a plain observation in a recording by an expert."""

_PACKAGES = ("diffpolicy", "numpy", "pymunk", "zarr")


def record(config: RecordConfig) -> str:
    """Record demonstrations by the expert of an environment, and return what to say about them.

    Raises:
        ValueError: settings out of range, an environment without an expert, or one that its expert cannot solve.
        FileExistsError: `config.out` is something else than a recording, or being written.
    """
    _check(config)
    env = config.env
    agent = ExpertAgent(env.id, env.kwargs)
    make = demonstration_env(make_env(env), config.noise, config.steps_after_success)
    with closing(make()) as made:  # refuses bad options before anything is written
        fps = TaskSpec.of(made).fps
    with alone(config.out):
        writer = EpisodeWriter(config.out, _attributes(config, agent, fps))
        seeds = writer.meta.get("seeds", [])
        tried, failed = (seeds[-1] + 1 - config.seed if seeds else 0), 0
        with tqdm(total=config.episodes, initial=len(seeds), desc="demonstrations", unit="episode") as bar:
            while len(seeds) < config.episodes:
                count = config.episodes - len(seeds)
                resets = [_reset(config, number) for number in range(tried, tried + count)]
                with closing(demonstrate(agent, make, resets, workers=config.workers)) as demonstrations:
                    for seed, recording in demonstrations:
                        failed = 0 if recording else failed + 1
                        given = f"the expert failed {HOPELESS} times running"
                        require(failed < HOPELESS, given, cure="this task is not for it")
                        if recording:
                            writer.add(recording, seeds=seed)
                            seeds.append(seed)
                            bar.update()
                tried += count
    tried = seeds[-1] + 1 - config.seed
    rate = wilson(len(seeds), tried)
    return (
        f"{len(seeds)} episodes of {tried} tried: the expert succeeds in {rate['mean']:.1%} "
        f"[{rate['low']:.1%}, {rate['high']:.1%}]\nSHA-256 {digest(config.out)}: {config.out}"
    )


def _check(config: RecordConfig) -> None:
    counts = (config.episodes, config.workers, 1 if config.starts is None else config.starts)
    fits = min(counts) >= 1 and min(config.seed, config.steps_after_success) >= 0 and 0 <= config.noise < math.inf
    names = ("episodes", "workers", "starts", "seed", "steps_after_success", "noise")
    given = ", ".join(f"{name}={value}" for name, value in vars(config).items() if name in names)
    require(fits, given, "episodes, workers, starts >= 1 and seed, steps_after_success, noise >= 0")
    mode = config.env.kwargs.get(OBS_MODE)
    cure = f"leave {OBS_MODE} out: a recording holds the whole state"
    require(OBS_MODE not in config.env.kwargs, f"env.kwargs.{OBS_MODE}={mode}", cure=cure)


def demonstration_env(make: MakeEnv, noise: float = 0.0, steps_after_success: int = 0) -> MakeEnv:
    """Return a function that makes the environment of demonstrations, see `record`."""
    return functools.partial(_demonstration_env, make, noise, steps_after_success)


def _demonstration_env(make: MakeEnv, noise: float, steps_after_success: int) -> gym.Env[Any, Any]:
    env = make()
    if steps_after_success:
        env = StepsAfterSuccess(env, steps_after_success)
    return ActionNoise(env, noise) if noise else env


def demonstrate(
    agent: ExpertAgent, make: MakeEnv, resets: Sequence[Reset], *, workers: int = 0, obs_key: str = OBS_KEY
) -> Iterator[tuple[int, dict[str, np.ndarray] | None]]:
    """Yield (seed, arrays of the recording) for every reset, in order; None where the expert did not succeed.

    Args:
        agent: the expert.
        make: see `demonstration_env`.
        resets: how the episodes start.
        workers: processes; fewer than two roll out in this one.
        obs_key: name of a plain observation.
    """
    ready: dict[int, tuple[int, dict[str, np.ndarray] | None]] = {}
    following = 0
    observers = [Recorder(obs_key)]
    count = min(workers, len(resets)) if workers > 1 else 0
    with closing(finished_episodes(agent, make, resets, observers, envs=1, workers=count)) as finished:
        for episode in finished:
            recording = episode.observed[Recorder.name] if episode.success_at_end else None
            ready[episode.number] = (episode.seed, recording)
            while following in ready:
                yield ready.pop(following)
                following += 1


def _reset(config: RecordConfig, number: int) -> Reset:
    start = number % config.starts if config.starts else number
    seed = config.seed + number
    return Reset(seed, config.seed + start, {NOISE_SEED: seed} if config.noise else None)


def _attributes(config: RecordConfig, agent: ExpertAgent, fps: float) -> dict[str, Any]:
    """What a recording says of itself. The names are those of its file format."""
    optional = {"starts": config.starts, "linger": config.steps_after_success}
    return {
        "env": {"id": config.env.id, "options": dict(config.env.kwargs)},
        "expert": agent.settings,
        "fps": fps,
        "first_seed": config.seed,
        "noise": config.noise,
        **{name: value for name, value in optional.items() if value},
        "versions": {name: importlib.metadata.version(name) for name in _PACKAGES},
    }
