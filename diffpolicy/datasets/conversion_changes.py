"""What a conversion changes in every episode: the action, idle ends, the rate, the size of images, names."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np
from PIL import Image

from diffpolicy.config.commands import ConvertConfig
from diffpolicy.datasets.checks import check_name
from diffpolicy.datasets.importers.base import Array
from diffpolicy.util.errors import require
from diffpolicy.util.names import check

ACTION = "action"
RELATIVE_ACTION = (
    "actions look like differences from frame to frame, and every=N leaves some of them out instead of adding them "
    "up: take action=next:KEY, or every=1"
)
_MOVED = 1e-2
"""Fraction of its range in the episode by which a number has to leave its first or last value to count as motion."""

_NOISE = 0.1
"""Mean step from frame to frame, as a fraction of the range, from which a number is taken for noise."""

_ALIKE = 0.95
"""Correlation from which an action counts as what a state changes by."""


@final
@dataclass(frozen=True)
class Changes:
    """What is done to every episode, in the order of the fields.

    Args:
        next_of: arrays whose values one kept frame later, joined, are the action; empty keeps the recorded action.
        trim: whether frames at head and tail in which nothing moves are cut.
        every: one frame of so many is kept.
        resize: (height, width) of the images; None keeps them.
        names: name in the source -> name in the result; others are left out.
        arrays: what comes of it, by name in the result.
        fps: frames per second of the result; None if they are not known.
    """

    next_of: tuple[str, ...]
    trim: bool
    every: int
    resize: tuple[int, int] | None
    names: Mapping[str, str]
    arrays: Mapping[str, Array]
    fps: float | None

    @classmethod
    def of(
        cls, config: ConvertConfig, arrays: Mapping[str, Array], fps: float | None, state_keys: Sequence[str] = ()
    ) -> Changes:
        """Return the changes that the settings ask for.

        Args:
            config: the settings.
            arrays: of the recording, by name.
            fps: frames per second of the recording; None if they are not known.
            state_keys: the arrays of which to advise to take the action, if the recording has none.

        Raises:
            ValueError: settings that do not fit the arrays, or no action.
        """
        require(config.every >= 1, f"every={config.every}", "1 or more")
        check("trim", config.trim, ("none", "idle"))
        size = None
        if config.resize is not None:
            fits = len(config.resize) == 2 and min(config.resize) >= 1
            require(fits, f"resize={config.resize}", "[height,width]")
            size = (int(config.resize[0]), int(config.resize[1]))
        next_of = _next_of(config.action, arrays)
        found = dict(arrays)
        if next_of:
            found[ACTION] = _joined(next_of, arrays)
        vectors = [name for name, array in arrays.items() if not array.image and array.role == "observation"]
        cure = f"take action=next:KEY, with KEY of {', '.join(vectors)}"
        cure = f"take action=next:{'+'.join(state_keys)}" if state_keys else cure
        renamed = any(str(key).endswith(f":{ACTION}") for key in config.keys)
        require(ACTION in found or renamed, "this recording has no action", cure=cure)
        if size:
            found = {name: _resized(array, size) for name, array in found.items()}
        names = _names(config.keys, found)
        result = {new: _in_role(found[old], new) for old, new in names.items()}
        require(ACTION in result, f"keys={config.keys}", "the action among them")
        require(not result[ACTION].image, f"keys={config.keys}: the action is a camera", "numbers")
        return cls(next_of, config.trim == "idle", config.every, size, names, result, fps and fps / config.every)

    @property
    def settings(self) -> dict[str, Any]:
        """What was asked for, for the recording's attributes."""
        asked = {"next_of": list(self.next_of), "trim": self.trim, "resize": self.resize and list(self.resize)}
        renamed = {old: new for old, new in self.names.items() if old != new}
        return {name: value for name, value in {**asked, "every": self.every, "renamed": renamed}.items() if value}

    def apply(self, episode: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return the changed arrays of an episode."""
        found = dict(episode)
        if self.trim:
            seen = [old for old, new in self.names.items() if self.arrays[new].role != "other"]
            first, last = moving({name: found[name] for name in (*seen, *self.next_of) if name in found})
            found = {name: values[first:last] for name, values in found.items()}
        if self.every > 1:
            found = {name: values[:: self.every] for name, values in found.items()}
        if self.next_of:
            joined = np.concatenate([found[name].reshape(len(found[name]), -1) for name in self.next_of], axis=1)
            found[ACTION] = np.concatenate([joined[1:], joined[-1:]])
        chosen = {new: found[old] for old, new in self.names.items()}
        if self.resize:
            chosen = {name: _resize(v, self.resize) if self.arrays[name].image else v for name, v in chosen.items()}
        return {name: np.ascontiguousarray(values) for name, values in chosen.items()}


def _next_of(action: str | None, arrays: Mapping[str, Array]) -> tuple[str, ...]:
    if action is None:
        return ()
    word, _, keys = action.partition(":")
    require(word == "next" and keys, f"action={action}", "next:KEY, or next:KEY+KEY for several joined")
    parts = tuple(keys.split("+"))
    for part in parts:
        check("key", part, arrays)
        require(not arrays[part].image, f"action={action}: {part!r} is a camera", "numbers")
    return parts


def _joined(keys: tuple[str, ...], arrays: Mapping[str, Array]) -> Array:
    sizes = [int(np.prod(arrays[key].shape)) for key in keys]
    dtype = np.result_type(*(arrays[key].dtype for key in keys))
    names = [name for key in keys for name in arrays[key].names or ()]
    unit = arrays[keys[0]].unit if len({arrays[key].unit for key in keys}) == 1 else None
    return Array((sum(sizes),), dtype, "action", unit=unit, names=tuple(names) if len(names) == sum(sizes) else None)


def _names(keys: list[str], arrays: Mapping[str, Array]) -> dict[str, str]:
    """Name in the source -> name in the result, of `keys=[name, name:new_name]`; all of them without."""
    if not keys:
        return {name: name for name in arrays}
    found: dict[str, str] = {}
    for key in keys:
        old, colon, new = str(key).partition(":")
        check("key", old, arrays)
        found[old] = new if colon else old
    twice = len(set(found.values())) < len(found)
    require(not twice and all(found.values()), f"keys={keys}", "different names")
    for name in found.values():
        check_name(name)
    return found


def looks_relative(episode: Mapping[str, np.ndarray], arrays: Mapping[str, Array]) -> bool:
    """Return whether most numbers of the action go with the change of a number of the state, and not with its value.

    Args:
        episode: arrays (L, ...) by name.
        arrays: what they are.
    """
    states = [name for name, array in arrays.items() if array.role == "observation" and not array.image]
    state = [episode[name].reshape(len(episode[name]), -1) for name in states if episode[name].dtype.kind == "f"]
    if ACTION not in episode or not state or len(episode[ACTION]) < 4:
        return False
    values = np.concatenate(state, axis=1).astype(np.float64)
    action = episode[ACTION].reshape(len(values), -1).astype(np.float64)[:-1]
    action = action[:, np.ptp(action, axis=0) > 0]
    change, value = _correlation(action, np.diff(values, axis=0)), _correlation(action, values[1:])
    return bool(action.shape[1] and np.mean((change > _ALIKE) & (change > value)) > 0.5)


def _correlation(action: np.ndarray, state: np.ndarray) -> np.ndarray:
    """For each number of the action, its largest absolute correlation with a number of the state."""
    one, other = (values - values.mean(axis=0) for values in (action, state))
    norms = np.linalg.norm(one, axis=0)[:, None] * np.linalg.norm(other, axis=0)
    return np.abs(np.divide(one.T @ other, norms, out=np.zeros_like(norms), where=norms > 0)).max(axis=1, initial=0.0)


def moving(episode: Mapping[str, np.ndarray]) -> tuple[int, int]:
    """Return the frames from the last one before anything moves to the first one at rest again, half-open, not empty.

    Something moves when it has left its first value for good measure, or has not yet come to its last one: noise
    and slow drift do neither. Numbers that cross their range every few frames are noise and not looked at.
    """
    length = len(next(iter(episode.values())))
    first, last = length, -1
    for values in episode.values():
        if values.dtype.kind != "f" or length < 2:  # images and flags
            continue
        flat = values.reshape(length, -1).astype(np.float64)
        reach = np.ptp(flat, axis=0)
        noise = np.abs(np.diff(flat, axis=0)).mean(axis=0) > max(_NOISE, 4 / (length - 1)) * reach
        flat, reach = flat[:, (reach > 0) & ~noise], reach[(reach > 0) & ~noise]
        left = (np.abs(flat - flat[:1]) > _MOVED * reach).any(axis=1)
        comes = (np.abs(flat - flat[-1:]) > _MOVED * reach).any(axis=1)
        if left.any() and comes.any():
            first, last = min(first, int(np.argmax(left))), max(last, length - 1 - int(np.argmax(comes[::-1])))
    return (max(first - 1, 0), min(last + 2, length)) if first <= last else (0, length)


def _in_role(array: Array, name: str) -> Array:
    """What is called "action" is one, and what was one and is called otherwise is none any more."""
    if name == ACTION:
        return dataclasses.replace(array, role="action")
    return dataclasses.replace(array, role="other") if array.role == "action" else array


def _resized(array: Array, size: tuple[int, int]) -> Array:
    return dataclasses.replace(array, shape=(*size, array.shape[2])) if array.image else array


def _resize(images: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Images (L, H, W, C) at another size: averaged over pixels, or of depth the nearest one."""
    if images.shape[1:3] == size:
        return images
    height, width = size
    if images.dtype != np.uint8:  # an average of near and far is a depth that is nowhere
        up = (np.arange(height) * images.shape[1] // height)[:, None]
        return images[:, up, np.arange(width) * images.shape[2] // width]
    result = np.empty((len(images), height, width, images.shape[3]), np.uint8)
    for i, image in enumerate(images):
        for channels in (slice(0, 3), slice(3, None)) if images.shape[3] > 3 else (slice(None),):
            part = image[..., channels]
            squeezed = part[..., 0] if part.shape[2] == 1 else part
            scaled = np.asarray(Image.fromarray(squeezed).resize((width, height), Image.Resampling.BOX))
            result[i, ..., channels] = scaled.reshape(height, width, part.shape[2])
    return result
