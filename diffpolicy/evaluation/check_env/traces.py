"""Episodes of the same actions, and how far two of them are apart."""

from __future__ import annotations

import functools
import random
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, final

import gymnasium as gym
import numpy as np

from diffpolicy.evaluation.adapting import GlobalGenerators
from diffpolicy.evaluation.contract import Contract, MakeEnv, Place
from diffpolicy.evaluation.episode import Episode, Reset
from diffpolicy.evaluation.journal import Journal
from diffpolicy.evaluation.task import TaskSpec

SEEDED = 12345
"""What the process-wide generators are seeded with where they are to be in one state."""


@dataclass(frozen=True)
class Trace:
    """An episode in numbers.

    Args:
        rows: for the reset and for every step, all numbers of the observation, then reward, whether the episode
            ended, and success (0 where nothing says so), in float64.
    """

    rows: tuple[np.ndarray, ...]

    @property
    def steps(self) -> int:
        """Steps taken."""
        return len(self.rows) - 1


@dataclass(frozen=True)
class Difference:
    """How far two episodes are apart.

    Args:
        largest: difference of any number; infinite where one is not a number, or the episodes differ in shape.
        at_start: the same at the reset alone.
        first: step at which they first differ, 0 being the reset; None if they are the same bit for bit.
        steps: compared.
    """

    largest: float
    at_start: float
    first: int | None
    steps: int

    def __bool__(self) -> bool:
        return self.first is not None

    def __str__(self) -> str:
        if not self:
            return "bitwise the same"
        apart = f"{self.largest:.1e} apart" if np.isfinite(self.largest) else "different in kind"
        start = "at the start" if self.first == 0 else f"same start, differs from step {self.first} on"
        return f"{apart} within {self.steps} steps ({start})"


def difference(one: Trace, other: Trace) -> Difference:
    """Return how far two traces are apart; one that ends earlier differs there."""
    apart = [_apart(a, b) for a, b in zip(one.rows, other.rows, strict=False)]
    if one.steps != other.steps:
        apart.append((np.inf, True))
    first = next((step for step, (_, differs) in enumerate(apart) if differs), None)
    return Difference(max(size for size, _ in apart), apart[0][0], first, min(one.steps, other.steps))


def _apart(a: np.ndarray, b: np.ndarray) -> tuple[float, bool]:
    """The largest difference, and whether there is one; two NaN are the same."""
    if a.shape != b.shape:
        return np.inf, True
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    if same.all():
        return 0.0, False
    size = np.abs(a[~same] - b[~same])
    return float(np.where(np.isnan(size), np.inf, size).max()), True


@final
class Instance:
    """One instance of an environment, made at once, and kept to what rollouts ask of it.

    Args:
        make: makes the environment.
        journal: where its calls are noted.
    """

    def __init__(self, make: MakeEnv, journal: Journal) -> None:
        self._journal = journal
        self.env = self._noted("make", make)
        made = functools.partial(_made, make, self.env)
        self._place = Place(made, Contract(limited=True), journal)  # what lacks a limit is said, not refused
        self._taken = False  # by the place, which closes it from then on

    def reset(self, seed: int) -> tuple[Any, Mapping[str, Any]]:
        """Start an episode and return its first observation and `info`.

        Raises:
            BrokenEnvironment, TypeError: what the environment does or returns is not what rollouts ask.
        """
        self._taken = True
        return self._place.start(Episode(seed), Reset(seed))

    def step(self, action: Any) -> tuple[Any, float, bool, Mapping[str, Any]]:
        """Step and return observation, reward, whether the episode has ended, and `info`.

        Raises:
            BrokenEnvironment: what the environment does or returns is not what rollouts ask.
        """
        return self._place.step(action)

    def render(self) -> Any:
        """Return a frame."""
        return self._noted("step", self.env.render)

    def close(self) -> None:
        """Close the environment."""
        if self._taken:
            self._place.close()
            return
        try:
            self._noted("close", self.env.close)
        except Exception as error:  # no more than a warning, as of a place
            warnings.warn(f"closing it: {type(error).__name__}: {error}", RuntimeWarning, stacklevel=2)

    def _noted(self, what: str, call: Callable[[], Any]) -> Any:
        self._journal.begin(what, 0, 0)
        try:
            return call()
        finally:
            self._journal.end()


def _made(make: MakeEnv, env: gym.Env[Any, Any]) -> gym.Env[Any, Any]:
    """An instance that `make` has made; by its name errors call it."""
    return env


def run(
    env: Instance,
    seed: int,
    actions: Sequence[Any],
    *,
    seeded: int | None = None,
    between: Callable[[int], object] | None = None,
) -> Trace:
    """Run an episode and return its trace.

    Args:
        env: the environment.
        seed: of its reset.
        actions: at most so many steps are taken.
        seeded: with what the process-wide generators are seeded before the reset; None leaves them.
        between: called with the number of each step before it is taken.
    """
    task = TaskSpec.of(env.env)
    if seeded is not None:
        seed_globals(seeded)
    obs, info = env.reset(seed)
    rows = [_row(obs, 0.0, False, _success(task, info))]
    for number, action in enumerate(actions):
        if between is not None:
            between(number)
        obs, reward, done, info = env.step(action)
        rows.append(_row(obs, reward, done, _success(task, info)))
        if done:
            break
    return Trace(tuple(rows))


@final
class Neighbor:
    """Steps another instance, with another seed, whenever it is called with the number of a step.

    Args:
        env: the other instance.
        seed: of its reset.
        actions: by number; an episode that ends begins anew.
    """

    def __init__(self, env: Instance, seed: int, actions: Sequence[Any]) -> None:
        self.env, self.seed, self.actions, self.over = env, seed, actions, True

    def __call__(self, number: int) -> None:
        if self.over:
            self.env.reset(self.seed)
        self.over = self.env.step(self.actions[number])[2]


def seed_globals(seed: int) -> None:
    """Seed the generators of `random` and `numpy.random`, which belong to the whole process."""
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002  what environments draw from


@contextmanager
def kept_globals() -> Iterator[None]:
    """Give the process-wide generators back as they were; until then they are in a state that nobody chose."""
    with GlobalGenerators():
        random.seed()
        np.random.seed()  # noqa: NPY002
        yield


def leaves(obs: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the parts of an observation, or of a space, by nested key: ("pixels.top", array); "" if it is but one."""
    if isinstance(obs, gym.spaces.Tuple):
        obs = obs.spaces
    if isinstance(obs, (Mapping, gym.spaces.Dict)):
        parts = [(str(key), obs[key]) for key in obs]
    elif isinstance(obs, (tuple, list)) and any(np.ndim(part) or isinstance(part, Mapping) for part in obs):
        parts = [(str(number), part) for number, part in enumerate(obs)]
    else:
        yield prefix, obs
        return
    for key, part in parts:
        yield from leaves(part, f"{prefix}.{key}" if prefix else key)


def numbers(value: Any) -> np.ndarray:
    """Return a leaf of an observation as float64, whatever it is made of."""
    if isinstance(value, str):
        value = list(value.encode())
    return np.asarray(value, np.float64).ravel()


def _row(obs: Any, reward: float, done: bool, success: float) -> np.ndarray:
    parts = [numbers(value) for _, value in sorted(leaves(obs), key=lambda part: part[0])]
    return np.concatenate([*parts, [reward, done, success]])


def _success(task: TaskSpec, info: Mapping[str, Any]) -> float:
    try:
        return float(task.succeeded(info) or 0)
    except (ValueError, TypeError):  # said where keys are checked
        return 0.0
