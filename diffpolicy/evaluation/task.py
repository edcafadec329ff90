"""What an environment's results mean: success, metrics, frame rate, how to draw actions, and modes.

An environment declares its task in `metadata["task"]`; the keys are the fields of `TaskSpec`:

    metadata = {
        "render_fps": 20,
        "task": {
            "success_key": "success",
            "metrics": {"distance": {"key": "distance", "reducer": "min", "description": "to the goal, in m"}},
        },
    }

An environment that declares none gets defaults, see `TaskSpec.of`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, TypeVar

import gymnasium as gym

from diffpolicy.config import LAST
from diffpolicy.util import names
from diffpolicy.util.errors import explain, require

SUCCESS_KEYS = ("success", "is_success")
"""Keys of `info` that say whether the task is done, where an environment declares none."""

NO_SUCCESS = "none"
"""The success key of an environment whose success is not to be counted, whatever `info` holds."""

REWARD = "reward"
"""The key by which a metric reads the reward instead of `info`."""

SCORE = "score"
"""What training calls a task's main metric, whatever its name."""

SECOND_DIFFERENCE = "second_difference"
"""The metric that every episode has beside the task's own: how unsteady its actions are."""

ASKED = "asked"
"""The metric of episodes in which the policy may ask what to do: how many chunks it asked about."""

DEFAULT_FPS = 30.0

Declared = TypeVar("Declared", "Metric", "SeedSet")

_REDUCERS: dict[str, Callable[[float, float], float]] = {
    "max": max,
    "min": min,
    "sum": lambda so_far, value: so_far + value,
    "last": lambda so_far, value: value,
}


@dataclass(frozen=True)
class Metric:
    """A number per episode, reduced over its steps.

    Args:
        key: a key of `info`, or "reward".
        reducer: "max", "min", "sum" or "last".
        description: what it means, in a few words.
    """

    key: str
    reducer: str = "last"
    description: str = ""

    def reduce(self, so_far: float | None, reward: float, info: Mapping[str, Any]) -> float:
        """Return the value after one more step; `so_far` is None at the first."""
        if self.key != REWARD and self.key not in info:
            require(
                False, f"info lacks the metric's key {self.key!r}; it has {', '.join(map(str, info)) or 'nothing'}"
            )
        value = float(reward if self.key == REWARD else info[self.key])
        return value if so_far is None else float(_REDUCERS[self.reducer](so_far, value))


@dataclass(frozen=True)
class SeedSet:
    """Initial states that a task names, such as those of a publication.

    Args:
        first: the first of consecutive seeds.
        episodes: how many seeds there are.
        option: the option of `reset` that takes the seed; None if it is the environment's own seed.
    """

    first: int
    episodes: int
    option: str | None = None


@dataclass(frozen=True)
class TaskSpec:
    """What the results of an environment mean.

    Args:
        success_key: key of `info` that is true once the task is done; None takes the first of `SUCCESS_KEYS` that is
            there, and an environment without any has no success; "none" looks for none.
        success_description: what counts as a success, in a few words.
        metrics: name -> metric; the first is the main one, the larger the better, which plots show.
        fps: control steps per second.
        extent: (left, right, bottom, top) of a frame in the units of actions that are 2-D positions; None where
            actions cannot be drawn over a frame.
        action_plane: the two numbers of an action that are its x and y in units of `extent`; empty takes the two of
            actions that have no more.
        mode_key: key of `info` that names the mode in which the task was done.
        modes: all modes, for tasks that can be done in several. The environment then has `mode_of(states)`.
        paths: name of what moves -> the two columns of `info["state"]` that are its x and y, in units of `extent`.
        seed_sets: name -> named initial states.
        display_options: options of the environment that change what is shown, and nothing of what happens.
        clips_actions: whether the environment takes actions of any numbers and clips them itself.
        follows: which number of the observation's vector follows each number of the action, where actions are places
            to go to; such an action holds the robot where it is. Empty where they are not.
    """

    success_key: str | None = None
    success_description: str = "episodes in which the task was done at some step"
    metrics: Mapping[str, Metric] = field(default_factory=lambda: {"return": Metric(REWARD, "sum", "sum of rewards")})
    fps: float = DEFAULT_FPS
    extent: Sequence[float] | None = None
    action_plane: Sequence[int] = ()
    mode_key: str | None = None
    modes: Sequence[str] = ()
    paths: Mapping[str, Sequence[int]] = field(default_factory=dict)
    seed_sets: Mapping[str, SeedSet] = field(default_factory=dict)
    display_options: Sequence[str] = ()
    clips_actions: bool = False
    follows: Sequence[int] = ()

    @classmethod
    def of(cls, env: gym.Env[Any, Any]) -> TaskSpec:
        """Return the task that an environment declares in its metadata.

        Without a declaration the success key is None and the only metric is "return", the sum of rewards.

        Raises:
            ValueError: a declaration with unknown or malformed entries.
        """
        return cls.from_metadata(env.metadata)

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, Any] | None) -> TaskSpec:
        """Return the task of an environment's `metadata`, which may be None; see `of`."""
        metadata = metadata or {}
        declared = dict(metadata.get("task") or {})
        for name in declared:
            names.check('entry of metadata["task"]', name, [one.name for one in fields(cls)])
        if "metrics" in declared:
            declared["metrics"] = {name: _metric(name, one) for name, one in declared["metrics"].items()}
            require(declared["metrics"], "no metrics", "at least one, or none declared")
            _check_names(list(declared["metrics"]))
        if "seed_sets" in declared:
            sets = declared["seed_sets"].items()
            declared["seed_sets"] = {name: _made(SeedSet, f"seed set {name!r}", one) for name, one in sets}
        return cls(**{"fps": float(metadata.get("render_fps") or DEFAULT_FPS), **declared})

    @property
    def main(self) -> str:
        """The name of the main metric."""
        return next(iter(self.metrics))

    def plane(self, action_dim: int) -> Sequence[int]:
        """Return which numbers of an action (A,) are its place in a frame; empty if none are."""
        return self.action_plane or ((0, 1) if action_dim == 2 else ())

    def succeeded(self, info: Mapping[str, Any]) -> bool | None:
        """Return whether the task is done after a step; None if `info` does not say.

        Raises:
            ValueError: `info` lacks the declared key.
        """
        key = self.success_key or next((key for key in SUCCESS_KEYS if key in info), None)
        if key is None or key == NO_SUCCESS:
            return None
        if key not in info:
            require(False, f"info lacks the success key {key!r}; it has {', '.join(map(str, info)) or 'nothing'}")
        return bool(info[key])

    def plain_metrics(self) -> dict[str, Any]:
        """Return the metrics, success among them, as plain data: what evaluation.json says of its columns."""
        success = {"key": self.success_key, "reducer": "any", "description": self.success_description}
        at_end = {**success, "reducer": "last", "description": "episodes in which the task was done at the last step"}
        metrics = {name: asdict(metric) for name, metric in self.metrics.items()}
        unsteady = {
            "key": None,
            "reducer": "mean",
            "description": "of the actions in time: mean length, in their units",
        }
        asked = {"key": None, "reducer": "sum", "description": "chunks about which the policy asked what to do"}
        return {**metrics, SECOND_DIFFERENCE: unsteady, ASKED: asked, "success": success, "success_at_end": at_end}


def _check_names(metrics: Sequence[str]) -> None:
    for name, says in ((SECOND_DIFFERENCE, "which every episode has"), (ASKED, "which counts what a policy asks")):
        require(name not in metrics, f"a metric {name!r}, {says}", cure="name it otherwise")
    says = f"a metric {LAST!r}, which training.choose takes for the last checkpoint"
    require(LAST not in metrics, says, cure="name it otherwise")
    says = f"the metric {SCORE!r} is not the first of {', '.join(metrics)}"
    require(SCORE not in metrics[1:], says, "the main metric, if any has this name", "name it otherwise")


def _metric(name: str, declared: Mapping[str, Any]) -> Metric:
    metric = _made(Metric, f"metric {name!r}", declared)
    names.check(f"reducer of the metric {name!r}", metric.reducer, _REDUCERS)
    return metric


def _made(kind: type[Declared], name: str, declared: Mapping[str, Any]) -> Declared:
    try:
        return kind(**declared)
    except TypeError:
        known = ", ".join(one.name for one in fields(kind))
        raise ValueError(explain(f"{name} is declared as {dict(declared)}", known)) from None
