"""What an environment shows and takes: observations by key, actions, and whether the declared bounds hold."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np

from diffpolicy.evaluation.check_env.findings import Findings
from diffpolicy.evaluation.check_env.stepping import Episode
from diffpolicy.evaluation.check_env.traces import leaves
from diffpolicy.evaluation.spaces import LEFT_OUT, is_image, upright

_NUMBERS = (gym.spaces.Box, gym.spaces.Discrete, gym.spaces.MultiBinary, gym.spaces.MultiDiscrete)
_RANGES = ((0.0, 1.0), (-1.0, 1.0), (0.0, 255.0))  # in which pictures of floating-point numbers are usually given


def check_spaces(seen: Episode) -> Findings:
    """Return what the spaces of an environment say, and how the observations of an episode fit them."""
    found = Findings("observations and actions")
    values, declared = dict(leaves(seen.obs)), dict(leaves(seen.observation_space))
    found.values["observation"] = {}
    for key, space in declared.items():
        _judge_part(found, seen, key, space, values[key])
    odd = [key for key, space in declared.items() if not isinstance(space, _NUMBERS)]
    if odd:
        found.settings["obs_keys"] = [key for key in declared if key not in odd and LEFT_OUT not in key.split(".")]
        found.notes.append(f"{', '.join(odd)}: no numbers, so that no policy observes it; env.obs_keys leaves it out")
    for key in values.keys() - declared.keys():
        found.notes.append(f"the observation has {key!r}, which its space does not declare: it is left out")
    _judge_actions(found, seen.action_space)
    return found


def _judge_part(found: Findings, seen: Episode, key: str, space: gym.Space[Any], value: Any) -> None:
    name = repr(key) if key else "observation"
    if not isinstance(space, gym.spaces.Box):
        found.facts.append(f"{name}: {space}")
        found.values["observation"][key] = {"space": str(space)}
        return
    value = np.asarray(value)
    low, high = float(seen.lows[key].min(initial=np.inf)), float(seen.highs[key].max(initial=-np.inf))
    picture = is_image(space)
    what = "camera" if picture and space.dtype.kind == "u" else "vector"
    turned = f", shown as {upright(value.shape)}" if picture and upright(value.shape) != value.shape else ""
    found.facts.append(f"{name}: {what} {value.shape} {value.dtype}{turned}, seen {low:.4g} to {high:.4g}")
    part = {"kind": what, "shape": [*value.shape], "dtype": str(value.dtype), "seen": [low, high]}
    found.values["observation"][key] = part
    if value.dtype != space.dtype:
        found.notes.append(f"{name} is {value.dtype}, and its space declares {space.dtype}")
    if (seen.lows[key] < space.low.ravel()).any() or (seen.highs[key] > space.high.ravel()).any():
        found.notes.append(f"{name} leaves its declared bounds, which nothing here relies on")
    if picture and what == "vector":
        _suggest_range(found, name, value.dtype, low, high)


def _suggest_range(found: Findings, name: str, dtype: np.dtype, low: float, high: float) -> None:
    bounds = next(((a, b) for a, b in _RANGES if a <= low and high <= b), (low, high))
    found.settings["image_range"] = [*bounds]
    found.notes.append(
        f"{name} looks like a picture in {dtype}; env.image_range=[{bounds[0]:g},{bounds[1]:g}] makes "
        "it a camera, if these are its black and white"
    )


def _judge_actions(found: Findings, space: gym.Space[Any]) -> None:
    if not isinstance(space, gym.spaces.Box) or len(space.shape) != 1:
        found.facts.append(f"action: {space}")
        found.broken.append(f"actions are {space}, and policies give vectors of numbers, a Box of one axis")
        return
    bounded = np.isfinite(space.low).all() and np.isfinite(space.high).all()
    says = f"{space.low.min():g} to {space.high.max():g}" if bounded else "without bounds"
    found.facts.append(f"action: {space.shape} {space.dtype}, {says}")
    found.values["action"] = {"shape": [*space.shape], "dtype": str(space.dtype), "bounded": bool(bounded)}
