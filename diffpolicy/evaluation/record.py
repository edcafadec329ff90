"""Demonstrations by an expert or a policy, recorded through the rollout loop."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any, final

import gymnasium as gym
import numpy as np
from tqdm import tqdm

from diffpolicy.config.commands import RecordConfig
from diffpolicy.datasets.convert import SUCCESS, TASK
from diffpolicy.datasets.manifest import digest
from diffpolicy.datasets.writer import EpisodeWriter, alone
from diffpolicy.evaluation.contract import MakeEnv
from diffpolicy.evaluation.demonstrators import STATE, Demonstrator, find_demonstrator
from diffpolicy.evaluation.episode import Episode, Reset
from diffpolicy.evaluation.observers import Recorder
from diffpolicy.evaluation.recorded import BROKEN_OFF, SEEDS, attributes, success_rate, train_line
from diffpolicy.evaluation.rollout import finished_episodes
from diffpolicy.evaluation.wrappers import NOISE_SEED, ActionNoise, StepsAfterSuccess
from diffpolicy.policies.controller import Controller
from diffpolicy.util import names
from diffpolicy.util.errors import explain, require

HOPELESS = 50
"""Consecutive failures after which recording stops."""

BROKEN = 10
"""Consecutive episodes that the environment broke off after which recording stops."""

_AHEAD = 2  # episodes that a process may be ahead of the slowest one: they wait in memory, pictures included
_RAREST = 0.05  # rate of success at which the next seeds are dealt out, at least


def record(config: RecordConfig) -> str:
    """Record demonstrations, or go on with recording them, and return what to say about them.

    Raises:
        ValueError: settings out of range; no such environment or expert, or one that does not fit the other; an
            expert that cannot solve the environment, or raises. Finished episodes stay.
        FileExistsError: `config.out` is something else than this recording, or being written.
    """
    _check(config)
    who = find_demonstrator(config.expert, config.env)
    with closing(who.make_env()) as env:  # refuses bad settings before anything is written
        noise = _noise(config.noise, env.action_space)
        facts = attributes(config, who, env)
    noisy = bool(np.any(noise)) or config.executed
    make = demonstration_env(who.make_env, noise if noisy else None, config.steps_after_success)
    with alone(config.out):
        recording = _Recording(config, EpisodeWriter(config.out, facts), who, noisy)
        recording.fill(make)
    says = [*recording.says(), f"SHA-256 {digest(config.out)}: {config.out}"]
    return "\n".join([*says, "", "train on it:", f"  {train_line(config.out, who.env, facts, recording.texts)}"])


def _check(config: RecordConfig) -> None:
    counts = (config.episodes, config.workers, 1 if config.starts is None else config.starts)
    fits = min(counts) >= 1 and min(config.seed, config.steps_after_success) >= 0
    given = ", ".join(
        f"{name}={vars(config)[name]}" for name in ("episodes", "seed", "starts", "steps_after_success", "workers")
    )
    require(fits, given, "episodes, workers, starts >= 1 and seed, steps_after_success >= 0")
    names.check("keep", config.keep, ("success", "all"))


def _noise(given: Any, space: gym.Space[Any]) -> float | np.ndarray:
    """The noise in action units, one number or one for each dimension."""
    says = f"noise={given}"
    wanted = f"a number >= 0, one for each of the action's {space.shape}, or a part of its range, as in 5%"
    try:
        if isinstance(given, str) and given.endswith("%"):
            part, noise = float(given[:-1]) / 100, (space.high - space.low) / 2
            endless = np.flatnonzero(~np.isfinite(noise)).tolist()
            require(
                not endless, f"{says}, and the action has no bounds in dimensions {endless}", "noise in its units"
            )
            noise = part * noise
        else:
            noise = np.array(given, np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(str(error) if str(error).startswith(says) else explain(says, wanted)) from None
    fits = noise.shape in ((), space.shape) and np.isfinite(noise).all() and (noise >= 0).all()
    require(fits, says, wanted)
    return noise if noise.ndim else float(noise)


def demonstration_env(
    make: MakeEnv, noise: float | np.ndarray | None = None, steps_after_success: int = 0
) -> MakeEnv:
    """Return a function that makes the environment of demonstrations, see `record`.

    Args:
        make: makes the environment.
        noise: see `ActionNoise`, which None leaves out.
        steps_after_success: see `StepsAfterSuccess`.
    """
    return functools.partial(_demonstration_env, make, noise, steps_after_success)


def _demonstration_env(
    make: MakeEnv, noise: float | np.ndarray | None, steps_after_success: int
) -> gym.Env[Any, Any]:
    env = make()
    if steps_after_success:
        env = StepsAfterSuccess(env, steps_after_success)
    return env if noise is None else ActionNoise(env, noise)


def demonstrate(
    agent: Controller,
    make: MakeEnv,
    resets: Sequence[Reset],
    *,
    workers: int = 0,
    obs_key: str = STATE,
    executed: bool = False,
) -> Iterator[Episode]:
    """Yield an episode for every reset, in order, with the arrays of its recording in `observed["recording"]`.

    Args:
        agent: the expert.
        make: see `demonstration_env`.
        resets: how the episodes start.
        workers: processes; fewer than two roll out in this one.
        obs_key: name of a plain observation.
        executed: see `Recorder`.
    """
    ready: dict[int, Episode] = {}
    following = 0
    observers = [Recorder(obs_key, executed=executed)]
    count = min(workers, len(resets)) if workers > 1 else 0
    with closing(finished_episodes(agent, make, resets, observers, envs=1, workers=count, ahead=_AHEAD)) as finished:
        for episode in finished:
            ready[episode.number] = episode
            while following in ready:
                yield ready.pop(following)
                following += 1


@final
@dataclass
class _Recording:
    """A recording that is being filled.

    Args:
        config: its settings.
        writer: writes it.
        who: acts.
        noisy: whether actions are carried out by an `ActionNoise`.
        tried: seeds so far, in order; those of a run before are counted up to its last episode.
        failed: consecutive seeds without an episode to keep.
        broke: consecutive seeds whose episodes the environment broke off.
        broken: a sentence for each such episode.
    """

    config: RecordConfig
    writer: EpisodeWriter
    who: Demonstrator
    noisy: bool
    tried: int = 0
    failed: int = 0
    broke: int = 0
    broken: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.seeds:
            self.tried = self.seeds[-1] + 1 - self.config.seed

    @property
    def seeds(self) -> list[int]:
        """The seeds of the episodes that are kept."""
        return self.writer.meta.get(SEEDS, [])

    @property
    def texts(self) -> list[str]:
        """Keys of the texts that say what was to be done."""
        return [key for key in self.writer.meta if f"{key}s" in self.writer.noted]

    def fill(self, make: MakeEnv) -> None:
        """Add episodes until there are as many as the settings ask for."""
        config, who = self.config, self.who
        there = len(self.seeds)
        with tqdm(total=config.episodes, initial=there, desc="demonstrations", unit="episode") as bar:
            while there < config.episodes:
                rate = max(there / self.tried if self.tried else 1.0, _RAREST)
                count = math.ceil((config.episodes - there) / rate)
                resets = [self._reset(number) for number in range(self.tried, self.tried + count)]
                how = {"workers": config.workers, "obs_key": who.obs_key, "executed": config.executed}
                with closing(demonstrate(who.agent, make, resets, **how)) as episodes:
                    for episode in episodes:
                        if self._add(episode):
                            there += 1
                            bar.update()
                        if there == config.episodes:
                            break

    def _reset(self, number: int) -> Reset:
        first, starts = self.config.seed, self.config.starts
        start = number % starts if starts else number
        return Reset(first + number, first + start, {NOISE_SEED: first + number} if self.noisy else None)

    def _add(self, episode: Episode) -> bool:
        """Add an episode if it is to be kept, and return whether it is."""
        config = self.config
        self.tried += 1
        if episode.error is not None:
            self.broken.append(episode.error)
            self.writer.note({**self.writer.noted, BROKEN_OFF: self.writer.noted.get(BROKEN_OFF, 0) + 1})
            self.broke += 1
            given = f"the environment broke off {BROKEN} episodes running; the last: {episode.error}"
            require(self.broke < BROKEN, given, cure="diffpolicy check-env says what it is like")
            return False
        self.broke = 0
        if config.keep == "success":
            given = f"{self.who.make_env.id} does not say whether an episode succeeded"
            require(episode.success is not None, given, cure="name what says so by env.success=KEY, or take keep=all")
        if config.keep == "success" and not episode.success_at_end:
            self.failed += 1
            last = f"seed {episode.seed}: not done at its end, step {episode.steps}"
            given = f"{self.who.who} failed {HOPELESS} times running ({last})"
            require(self.failed < HOPELESS, given, cure="this task is not for it; look at what it does by keep=all")
            return False
        self.failed = 0
        done = -1 if episode.success is None else int(bool(episode.success_at_end))
        flag = {SUCCESS: done} if config.keep == "all" else {}
        arrays, numbers = self._told(episode.observed[Recorder.name])
        self.writer.add(arrays, **{SEEDS: episode.seed}, **flag, **numbers)
        return True

    def _told(self, recorded: dict[str, np.ndarray]) -> tuple[dict[str, np.ndarray], dict[str, int]]:
        """The arrays of an episode that are numbers, and of each text its number among those of the recording."""
        texts = {name: values for name, values in recorded.items() if values.dtype.kind == "U"}
        given = f"instruction={self.config.instruction!r} where the environment says {TASK!r} itself"
        require(self.config.instruction is None or TASK not in texts, given, cure="leave it out")
        numbers: dict[str, int] = {} if self.config.instruction is None else {TASK: 0}
        for name, values in texts.items():
            given = f"the text {name!r} changes within an episode"
            require((values == values[0]).all(), given, "one text per episode", "leave it out by env.obs_keys")
            every = list(self.writer.noted.get(f"{name}s", []))
            text = str(values[0])
            if text not in every:
                self.writer.note({**self.writer.noted, f"{name}s": [*every, text]})
                every.append(text)
            numbers[name] = every.index(text)
        return {name: values for name, values in recorded.items() if name not in texts}, numbers

    def says(self) -> list[str]:
        """Return what to say of it."""
        kept, tried = len(self.seeds), self.seeds[-1] + 1 - self.config.seed
        lines, noted = [f"{kept} episodes of {tried} tried"], self.writer.noted
        rate = success_rate(self.writer.meta, {"first_seed": self.config.seed, **noted})
        if rate is None:
            lines[0] += f": {self.who.make_env.id} does not say which succeeded"
        else:
            lines[0] += f": {self.who.who} succeeds in {rate['mean']:.1%} [{rate['low']:.1%}, {rate['high']:.1%}]"
        if broken := noted.get(BROKEN_OFF, 0):
            few = "1 episode was" if broken == 1 else f"{broken} episodes were"
            which = "the first" if broken == len(self.broken) else "one of them"
            example = f"; {which}: {self.broken[0]}" if self.broken else ""
            lines.append(f"{few} left out because the environment broke off{example}")
        return lines
