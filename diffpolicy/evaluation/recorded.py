"""What a recording says of itself: what it shows, who acted where, and what makes it again."""

from __future__ import annotations

import importlib.metadata
import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np

from diffpolicy.config import EnvConfig, plain
from diffpolicy.config.commands import RecordConfig
from diffpolicy.config.schema import effective
from diffpolicy.config.words import env_words, words
from diffpolicy.datasets.convert import SUCCESS
from diffpolicy.datasets.spec import Field, ObservationSpec
from diffpolicy.evaluation.contract import layers
from diffpolicy.evaluation.demonstrators import STATE, Demonstrator
from diffpolicy.evaluation.observers import ACTION
from diffpolicy.evaluation.task import TaskSpec
from diffpolicy.evaluation.wrappers import EXECUTED
from diffpolicy.policies.agent import Agent
from diffpolicy.util.errors import require
from diffpolicy.util.stats import Interval, wilson

SEEDS = "seeds"
"""Name of the array that holds the seed of each episode."""

BROKEN_OFF = "broken_off"
"""The attribute that counts the seeds whose episodes the environment broke off; missing where it broke none."""

_PACKAGES = ("diffpolicy", "numpy", "pymunk", "zarr")
_IMAGE_NDIM = 3  # (height, width, channels)


def attributes(config: RecordConfig, who: Demonstrator, env: gym.Env[Any, Any]) -> dict[str, Any]:
    """Return what a recording says of itself. The names are those of its file format.

    Args:
        config: its settings.
        who: acts.
        env: where.

    Raises:
        ValueError: an observation that cannot be recorded.
    """
    fps = TaskSpec.of(env).fps
    others = _packages(env) | ({"torch"} if isinstance(who.agent, Agent) else set())
    optional = {
        "starts": config.starts,
        "linger": config.steps_after_success,
        "keep": None if config.keep == "success" else config.keep,
        "tasks": None if config.instruction is None else [config.instruction],
        "roles": {EXECUTED: "other"} if config.executed else None,
        "observation": _shown(env, who.obs_key, fps),
    }
    return {
        "env": _settings(who.env),
        "expert": dict(who.facts),
        "fps": fps,
        "first_seed": config.seed,
        "noise": float(config.noise) if isinstance(config.noise, (int, float)) else config.noise,
        **{name: value for name, value in optional.items() if value},
        "versions": {name: importlib.metadata.version(name) for name in (*_PACKAGES, *sorted(others))},
    }


def _shown(env: gym.Env[Any, Any], obs_key: str, fps: float) -> dict[str, Any] | None:
    """The observation spec as plain data; None of a plain state, of which array and frame rate say all."""
    space = env.observation_space
    if not isinstance(space, gym.spaces.Dict) and obs_key == STATE:
        return None
    parts = space.spaces if isinstance(space, gym.spaces.Dict) else {obs_key: space}
    nested = sorted(name for name in parts if "/" in name)
    given = f"the environment shows {', '.join(map(repr, nested))}"
    require(not nested, given, "keys without /", "flatten them in a gymnasium.ObservationWrapper, or choose others")
    taken = sorted({ACTION, EXECUTED} & set(parts))
    given = f"the environment shows {', '.join(map(repr, taken))}"
    require(not taken, given, "another key: a recording keeps actions by that name", "leave it out by env.obs_keys")
    numbers = {name: part for name, part in parts.items() if not isinstance(part, gym.spaces.Text)}
    return ObservationSpec({name: _field(name, part, fps) for name, part in numbers.items()}).to_plain()


def _field(name: str, space: gym.Space[Any], fps: float) -> Field:
    numbers = isinstance(space, (gym.spaces.Box, gym.spaces.MultiBinary, gym.spaces.MultiDiscrete))
    given = f"the environment shows {name!r} as {space}"
    require(numbers, given, "numbers or pictures", "choose others by env.obs_keys")
    image = len(space.shape or ()) == _IMAGE_NDIM and space.dtype in (np.uint8, np.uint16)
    depth = (float(space.low.min()), float(space.high.max())) if space.dtype == np.uint16 else None
    return Field("image" if image else "vector", space.shape, None, fps, depth if image else None)


def _settings(env: EnvConfig) -> dict[str, Any]:
    """The environment's settings beside the defaults; its keyword arguments are "options" in recordings."""
    usual = effective(EnvConfig())
    given = {name: value for name, value in effective(env).items() if value != usual[name]}
    options = given.pop("kwargs", {})
    return {"id": given.pop("id", None), "options": options, **given}


def _packages(env: gym.Env[Any, Any]) -> set[str]:
    """The other packages that the layers of an environment come from, and those that these need."""
    known = importlib.metadata.packages_distributions()
    found = {name for layer in layers(env) for name in known.get(type(layer).__module__.partition(".")[0], ())}
    others = found - {*_PACKAGES, "gymnasium"}
    needed = {re.split(r"[^\w.-]", line, maxsplit=1)[0] for name in others for line in _required(name)}
    return {name for name in others | needed if _installed(name)} - {*_PACKAGES}


def _required(name: str) -> list[str]:
    return [line for line in importlib.metadata.requires(name) or () if "extra ==" not in line]


def _installed(name: str) -> bool:
    try:
        return bool(importlib.metadata.version(name))
    except importlib.metadata.PackageNotFoundError:
        return False


def success_rate(meta: Mapping[str, Sequence[int]], facts: Mapping[str, Any]) -> Interval | None:
    """Return how often who was recorded succeeds, in episodes that were not broken off; None if nothing says so.

    Args:
        meta: what is kept of each episode.
        facts: attributes of the recording, see `attributes`, with what was noted beside them.
    """
    flags = list(meta.get(SUCCESS, [1] * len(meta[SEEDS])))  # -1 where the environment does not say
    tried = int(meta[SEEDS][-1]) + 1 - facts["first_seed"] - facts.get(BROKEN_OFF, 0)
    return None if -1 in flags else wilson(int(sum(flags)), tried)


def train_line(path: str, env: EnvConfig, facts: Mapping[str, Any], texts: Sequence[str] = ()) -> str:
    """Return the command that trains on a recording.

    Args:
        path: of the recording.
        env: where it was recorded.
        facts: see `attributes`.
        texts: keys of the texts that were recorded.
    """
    shown = facts.get("observation", {STATE: {"kind": "vector"}})
    kinds = {kind: [name for name, one in shown.items() if one["kind"] == kind] for kind in ("vector", "image")}
    observed = {"vectors": kinds["vector"], **({"images": kinds["image"]} if kinds["image"] else {})}
    observed |= {"texts": list(texts)} if texts else {}
    dropout = [f"policy.condition_dropout.{key}=0.1" for key in texts]
    settings = [
        shlex.quote(f"dataset.path={path}"),
        *words(observed, "observation."),
        *dropout,
        *env_words(plain(env)),
    ]
    return " ".join(["diffpolicy train task=own", *settings, "run_dir=RUN"])
