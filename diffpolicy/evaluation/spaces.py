"""Spaces of any environment as the plain ones that policies read: vectors, images, and actions that are vectors."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from diffpolicy.util import names
from diffpolicy.util.errors import explain, require

IMAGE_KEY = "image"
"""Key of a picture that is all that an environment shows."""

LEFT_OUT = "achieved_goal"
"""Key of a dict observation that is not observed unless asked for: where the task stands, which is no goal."""

_CHANNELS = (1, 3, 4)
_SMALLEST = 8  # pixels along a side, from which on an array of three axes is taken for a picture

_READABLE = (spaces.Box, spaces.Discrete, spaces.MultiBinary, spaces.MultiDiscrete, spaces.Text)

Read = Callable[[Any], np.ndarray]


class Misfit(ValueError):
    """An environment that shows, takes or says something else than it declares."""


@final
@dataclass(frozen=True)
class Part:
    """One array of an observation.

    Args:
        key: under which it is shown, such as "pixels.top".
        path: the keys and numbers that lead to it.
        space: of what is shown.
        read: makes what is shown of what the environment gives, always in memory of its own.
    """

    key: str
    path: tuple[Any, ...]
    space: spaces.Box | spaces.Text
    read: Read


def observation(
    space: gym.Space[Any], keys: Sequence[str] = (), image_range: Sequence[float] | None = None
) -> tuple[spaces.Box | spaces.Dict, Callable[[Any], Any]]:
    """Return the space that is shown instead of an observation space, and what reads observations so.

    One array of numbers stays one: a vector of float32. All else becomes a flat dict of float32 vectors, uint8 images
    (uint16 for depth) and texts, by keys such as "pixels.top".

    Args:
        space: of the environment.
        keys: of the parts to keep, in this order, or what their keys begin with; empty keeps all but `LEFT_OUT`.
        image_range: (low, high) of pictures that are neither uint8 nor uint16.

    Raises:
        ValueError: keys that there are not, parts that are no numbers, or pictures without a range.
    """
    plain = not isinstance(space, (spaces.Dict, spaces.Tuple))
    require(not isinstance(space, spaces.Text), f"observations are {space} alone", "numbers or images too")
    require(not (plain and keys), f"env.obs_keys={list(keys)} where observations are {space}", "a dict observation")
    leaves = dict(_leaves(space))
    chosen = _chosen(leaves, keys)
    parts = [_part(path, leaves[path], image_range) for path in chosen]
    pictured = any(is_image(leaves[path]) and leaves[path].dtype not in (np.uint8, np.uint16) for path in chosen)
    given = f"env.image_range={list(image_range or ())}, and no pictures in {', '.join(one.key for one in parts)}"
    require(image_range is None or pictured, given, "pictures of floating-point numbers", "leave it out")
    if plain and len(parts[0].space.shape) == 1:
        return parts[0].space, parts[0].read
    if plain:
        (part,) = parts
        return spaces.Dict({IMAGE_KEY: part.space}), lambda obs: {IMAGE_KEY: part.read(obs)}
    return spaces.Dict({part.key: part.space for part in parts}), _Reader(parts)


def action(space: gym.Space[Any]) -> Read:
    """Return what clips actions (A,) to an action space and casts them to its dtype.

    Raises:
        Misfit: the space does not take vectors of numbers.
    """
    says = f"it takes actions {space}"
    cure = "wrap it in a gymnasium.ActionWrapper that takes vectors"
    require(isinstance(space, spaces.Box) and len(space.shape) == 1, says, "a Box of shape (A,)", cure, Misfit)
    shape, dtype, low, high = space.shape, space.dtype, space.low, space.high
    whole, bounded = dtype.kind in "iu", bool(np.isfinite(low).any() or np.isfinite(high).any())

    def clipped(values: Any) -> np.ndarray:
        values = np.asarray(values)
        if values.shape != shape:
            raise Misfit(explain(f"it takes actions {shape}", f"{values.shape}, as the agent gives"))
        if whole:
            return np.clip(np.rint(values), low, high).astype(dtype)
        values = values.astype(dtype)
        return np.minimum(np.maximum(values, low), high) if bounded else values

    return clipped


@final
class _Reader:
    """Reads a nested observation as a flat dict, whose arrays the environment does not change later."""

    def __init__(self, parts: Sequence[Part]) -> None:
        self._parts = parts
        self._nested = any(len(part.path) > 1 for part in parts)
        self._flat = [(part.key, part.path[0], part.read) for part in parts]

    def __call__(self, obs: Any) -> dict[str, np.ndarray]:
        try:
            if self._nested:
                return {part.key: part.read(_at(obs, part.path)) for part in self._parts}
            return {key: read(obs[name]) for key, name, read in self._flat}
        except (LookupError, TypeError):
            for part in self._parts:
                _require_at(obs, part)
            raise


def _at(obs: Any, path: Sequence[Any]) -> Any:
    for name in path:
        obs = obs[name]
    return obs


def _require_at(obs: Any, part: Part) -> None:
    """Raise Misfit if an observation has no such part."""
    for name in part.path:
        try:
            obs = obs[name]
        except (LookupError, TypeError):
            has = (
                f"it has {', '.join(map(str, obs))}" if isinstance(obs, Mapping) else f"it is a {type(obs).__name__}"
            )
            raise Misfit(f"the observation lacks {part.key!r}; {has}") from None


def _leaves(space: gym.Space[Any], path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], gym.Space[Any]]]:
    """The parts of a space that have no parts, in its own order."""
    if isinstance(space, spaces.Dict):
        inner: Any = space.items()
    elif isinstance(space, spaces.Tuple):
        inner = enumerate(space)
    else:
        yield path, space
        return
    for name, part in inner:
        yield from _leaves(part, (*path, name))


def _chosen(leaves: Mapping[tuple[Any, ...], gym.Space[Any]], keys: Sequence[str]) -> list[tuple[Any, ...]]:
    """The paths to keep."""
    by_key = {_key(path): path for path in leaves}
    if not keys:
        kept = [path for path in leaves if LEFT_OUT not in path]
        require(kept, f"the environment shows {', '.join(by_key) or 'nothing'}", cure="choose with env.obs_keys=[…]")
        for path in kept:
            usable = isinstance(leaves[path], _READABLE)
            others = [key for key, one in by_key.items() if isinstance(leaves[one], _READABLE)]
            given = f"the environment shows {_key(path) or 'observations'} as {leaves[path]}"
            cure = f"choose from the others with env.obs_keys=[{','.join(others)}]" if others else None
            require(usable, given, "numbers, images or texts", cure)
        return kept
    chosen: list[tuple[Any, ...]] = []
    for key in keys:
        below = [path for one, path in by_key.items() if one == key or one.startswith(f"{key}.")]
        if not below:
            names.check("observation in env.obs_keys", key, by_key)
        for path in below:
            require(
                isinstance(leaves[path], _READABLE),
                f"env.obs_keys: {_key(path)} is {leaves[path]}",
                "numbers or a text",
            )
        chosen += [path for path in below if path not in chosen]
    return chosen


def _key(path: Sequence[Any]) -> str:
    return ".".join(map(str, path))  # a name that arrays of a recording can have


def is_image(space: gym.Space[Any]) -> bool:
    """Return whether a space holds pictures: uint8 or uint16 of three axes, or other numbers of their shape."""
    if not isinstance(space, spaces.Box) or len(space.shape) not in (2, 3):
        return False
    if space.dtype in (np.uint8, np.uint16):
        return len(space.shape) == 3 or min(space.shape) >= _SMALLEST
    height, width, _ = upright(space.shape) if len(space.shape) == 3 else (0, 0, 0)
    channels = set(space.shape[::2]) & set(_CHANNELS) if len(space.shape) == 3 else set()
    return bool(channels) and min(height, width) >= _SMALLEST


def upright(shape: Sequence[int]) -> tuple[int, int, int]:
    """Return (H, W, C) of a picture of this shape: (H, W), (H, W, C), or (C, H, W) with 1, 3 or 4 channels."""
    if len(shape) == 2:
        return shape[0], shape[1], 1
    first, middle, last = shape
    return (middle, last, first) if first in _CHANNELS and last not in _CHANNELS else (first, middle, last)


def _part(path: tuple[Any, ...], space: gym.Space[Any], image_range: Sequence[float] | None) -> Part:
    key = _key(path)
    if isinstance(space, spaces.Text):
        return Part(key, path, space, _text)
    if not is_image(space):
        return Part(key, path, *_vector(space))
    shape, size = space.shape or (), upright(space.shape or ())
    dtype = np.dtype(space.dtype)
    turned = len(shape) == 3 and tuple(shape) != size
    if dtype in (np.uint8, np.uint16):
        shown = space if tuple(shape) == size else spaces.Box(0, np.iinfo(dtype).max, size, dtype)
        return Part(key, path, shown, _image(size, turned))  # type: ignore[arg-type]
    given = f"the environment shows {key or 'observations'} as pictures of {dtype}"
    require(image_range is not None, given, "their range", "give it with env.image_range=[0,1], for example")
    low, high = map(float, image_range or ())
    return Part(key, path, spaces.Box(0, 255, size, np.uint8), _scaled(_image(size, turned), low, high, key))


def _vector(space: gym.Space[Any]) -> tuple[spaces.Box, Read]:
    """Numbers as one vector of float32. Bounds that a space declares are not to be relied on, and are left out."""
    size = int(np.prod(space.shape or ()))
    if isinstance(space, spaces.Box) and space.shape == (size,):
        shown = space if space.dtype == np.float32 else spaces.Box(-np.inf, np.inf, (size,), np.float32)
        return shown, _numbers
    shape = tuple(space.shape or ())

    def flattened(values: Any) -> np.ndarray:
        numbers = _numbers(values)
        return numbers.reshape(size) if numbers.shape == shape else numbers

    return spaces.Box(-np.inf, np.inf, (size,), np.float32), flattened


def _text(value: Any) -> np.ndarray:
    if not isinstance(value, str):
        raise Misfit(f"a text of the observation is a {type(value).__name__}")
    return np.array(value)


def _numbers(values: Any) -> np.ndarray:
    return np.array(values, np.float32)


def _image(size: tuple[int, int, int], turned: bool) -> Read:
    if turned:
        return lambda values: np.array(np.moveaxis(values, 0, -1), order="C")
    return np.array if size[2] != 1 else _one_channel


def _one_channel(values: Any) -> np.ndarray:
    image = np.array(values)
    return image[..., None] if image.ndim == 2 else image


def _scaled(read: Read, low: float, high: float, key: str) -> Read:
    """Images whose values from `low` to `high` become 0 to 255; others are refused, except for their rounding."""
    scale = 255.0 / (high - low)

    def scaled(values: Any) -> np.ndarray:
        levels = np.rint((read(values) - low) * scale)
        if not (levels.min() >= 0 and levels.max() <= 255):  # which is so of NaN, too
            given = f"the image {(key or IMAGE_KEY)!r} holds {np.min(values):g} to {np.max(values):g}"
            raise Misfit(explain(given, f"env.image_range=[{low:g},{high:g}]", "give the range that it has"))
        return levels.astype(np.uint8)

    return scaled
