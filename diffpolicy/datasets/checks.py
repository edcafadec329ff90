"""Checks of recorded arrays. Each raises with what was given, where, and what to do."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from diffpolicy.util.errors import explain, require

IMAGE_NDIM = 4  # (frames, height, width, channels)
DEPTH = np.dtype(np.uint16)
CHANNELS = 4
"""The most channels a camera has; a last axis longer than that, behind a first one that is not, is a width."""

VECTOR = 4096
"""The most numbers per frame that are taken for a vector; more are pictures that were flattened by mistake."""

SMALLEST_SIDE = 16
"""Pixels; (frames, a, b) whole numbers of at least so many rows and columns are taken for pictures."""


def as_array(name: str, values: Any) -> np.ndarray:
    """Return what a script recorded as an array: a tensor of any device, detached, or nested lists.

    Raises:
        ValueError: lists of different lengths.
    """
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu()
        values = (values.float() if values.dtype == torch.bfloat16 else values).numpy()
    try:
        return np.asarray(values)
    except ValueError as error:
        says = f"{name!r} is a list whose entries have different lengths"
        raise ValueError(explain(says, "one shape in all frames", "pad it, or store its parts by names")) from error


def is_picture(shape: Sequence[int], dtype: np.dtype) -> bool:
    """Return whether an array (frames, H, W) of whole numbers looks like pictures without an axis of channels."""
    return len(shape) == IMAGE_NDIM - 1 and dtype in (np.uint8, DEPTH) and min(shape[1:]) >= SMALLEST_SIDE


def is_depth(shape: Sequence[int], dtype: np.dtype) -> bool:
    """Return whether frames (..., H, W, C) are depth images, which stay uint16."""
    return dtype == DEPTH and shape[-1] == 1


def check_camera(name: str, shape: Sequence[int], dtype: np.dtype) -> None:
    """Raise ValueError unless frames are pictures of a camera, their channels last.

    Args:
        name: of the array.
        shape: (frames, H, W, C).
        dtype: uint8, uint16 for depth, or one that is read as uint8.
    """
    says = f"{name!r} has shape {_listed(shape)}"
    if is_picture(shape, dtype):
        raise ValueError(explain(says, "(frames, height, width, channels)", "give x[..., None]: one channel"))
    first = len(shape) == IMAGE_NDIM and shape[1] <= CHANNELS < min(shape[2:])
    channels_last = "pictures with their channels last, (frames, height, width, channels)"
    require(not first, says, channels_last, "give np.moveaxis(x, 1, -1)")


def _listed(shape: Sequence[int]) -> str:
    return f"({', '.join('N' if axis == 0 else str(size) for axis, size in enumerate(shape))})"


def checked_ends(ends: np.ndarray) -> np.ndarray:
    """Return the episodes' exclusive ends as (E,) int64.

    Raises:
        TypeError: no integers.
        ValueError: no episode, or an empty one.
    """
    require(ends.dtype.kind in "iu", f"episode_ends of dtype {ends.dtype}", "integers", error=TypeError)
    require(ends.ndim == 1 and len(ends), f"episode_ends of shape {ends.shape}", "(E,) with at least one episode")
    ends = ends.astype(np.int64)
    starts = np.append(0, ends[:-1])
    empty = int(np.argmax(ends <= starts))
    says = f"episode_ends say that episode {empty} starts at {starts[empty]} and ends at {ends[empty]}"
    require(ends[empty] > starts[empty], says, "ends that increase strictly from above 0")
    return ends


def check_length(name: str, shape: tuple[int, ...], ends: np.ndarray) -> None:
    """Raise ValueError unless an array has as many frames as the episodes' `ends` count."""
    says = f"{name!r} has shape {shape}"
    require(shape and math.prod(shape[1:]), says, "(frames, ...) with at least one number per frame")
    over = min(int(np.searchsorted(ends, shape[0], side="right")), len(ends) - 1)
    says = f"episode_ends overrun the data: episode {over} ends at frame {ends[over]}, but {name!r} has {shape[0]}"
    require(shape[0] >= ends[-1], says, cure="copy the recording again, or cut the ends")
    says = f"episode_ends do not cover the data: the last one is {ends[-1]}, but {name!r} has {shape[0]} frames"
    require(shape[0] <= ends[-1], says, cure="cut the array or add the missing end")


def check_name(name: str) -> None:
    """Raise ValueError unless it can be the name of an array."""
    plain = isinstance(name, str) and name and "/" not in name and not name.startswith(".")
    require(plain, f"an array called {name!r}", "a plain word")


def check_array(name: str, values: np.ndarray, ends: np.ndarray) -> None:
    """Raise TypeError or ValueError unless an array can stand in a replay buffer."""
    check_name(name)
    says = f"{name!r} has dtype {values.dtype}"
    require(values.dtype.kind in "biuf", says, "real numbers or booleans", error=TypeError)
    check_length(name, values.shape, ends)
    check_camera(name, values.shape, values.dtype)
    if values.ndim == IMAGE_NDIM:
        says = f"images {name!r} of shape {values.shape} have dtype {values.dtype}"
        fits = values.dtype == np.uint8 or is_depth(values.shape, values.dtype)
        require(fits, says, "uint8, 0 to 255, or uint16 of one channel for depth", error=TypeError)
    elif values.dtype.kind == "f" and not (finite := np.isfinite(values)).all():
        frame = int(np.argwhere(~finite)[0, 0])
        says = f"{name!r} holds NaN or infinity at {place(frame, ends)}"
        require(False, says, cure="repair the episode or leave it out")


def place(frame: int, ends: np.ndarray) -> str:
    """Return where a frame is, in words."""
    episode = int(np.searchsorted(ends, frame, side="right"))
    inside = frame - (ends[episode - 1] if episode else 0)
    return f"frame {frame} (frame {inside} of episode {episode})"


def check_meta(name: str, values: np.ndarray, episodes: int) -> None:
    """Raise ValueError or TypeError unless an array holds a number of each episode."""
    says = f"meta {name!r} of shape {values.shape} and dtype {values.dtype}"
    require(values.shape == (episodes,), says, f"({episodes},), a number of each episode")
    require(values.dtype.kind in "biuf", says, "real numbers or booleans", error=TypeError)


def check_episode(
    number: int, episode: Mapping[str, np.ndarray], first: Mapping[str, tuple[int, ...]] | None = None
) -> None:
    """Raise ValueError unless an episode's arrays are equally long and of the first episode's frames.

    Args:
        number: of the episode, for the message.
        episode: name -> array (L, ...).
        first: name -> shape of a frame of episode 0; None where this is it.
    """
    says = f"episode {number} holds the arrays {sorted(episode)}"
    same = first is None or episode.keys() == first.keys()
    require(episode and same, says, "at least one" if first is None else str(sorted(first)))
    flat = next((name for name, values in episode.items() if values.ndim == 0), None)
    require(flat is None, f"episode {number}: {flat!r} is a single number", "time on axis 0")
    check_lengths(f"episode {number}", {name: len(values) for name, values in episode.items()})
    for name, values in episode.items():
        shape = values.shape[1:] if first is None else first[name]
        says = f"episode {number}: a frame of {name!r} has shape {values.shape[1:]}"
        require(values.shape[1:] == shape, says, f"{shape}, as in episode 0")
        check_camera(name, values.shape, values.dtype)


def check_lengths(what: str, sizes: Mapping[str, int]) -> None:
    """Raise ValueError unless all arrays of an episode are equally long and not empty.

    Args:
        what: the episode, in words.
        sizes: name -> frames.
    """
    shortest, longest = min(sizes.values(), default=0), max(sizes.values(), default=0)
    cure = None
    if longest == shortest + 1 > 1:
        longer = sorted(name for name, size in sizes.items() if size == longest)
        frames = (
            f"its last frame, {longer[0]}[:-1]," if len(longer) == 1 else f"the last frame of {', '.join(longer)},"
        )
        cure = f"leave out {frames} which no action follows"
    says = f"{what} has arrays of lengths {dict(sizes)}"
    require(shortest == longest > 0, says, "equally long ones, not empty", cure)


def check_horizons(horizon: int, obs_horizon: int, action_horizon: int) -> None:
    """Raise ValueError unless the executed actions lie inside a window."""
    says = f"horizon={horizon}, obs_horizon={obs_horizon}, action_horizon={action_horizon}"
    require(min(horizon, obs_horizon, action_horizon) >= 1, says, "at least 1 frame each")
    executed = obs_horizon - 1 + action_horizon
    require(executed <= horizon, says, f"obs_horizon - 1 + action_horizon, which is {executed}, at most horizon")


def check_keys(name: str, keys: Sequence[str]) -> None:
    """Raise ValueError unless `keys` are a list of names."""
    require(not isinstance(keys, str), f"{name}={keys!r}", "a list of names")


def check_vector(name: str, shape: Sequence[int], dtype: np.dtype) -> None:
    """Raise ValueError for pictures that are named among the vectors.

    Args:
        name: of the array.
        shape: (frames, ...).
        dtype: of its numbers.
    """
    require(len(shape) != IMAGE_NDIM, f"{name!r} holds images", "vectors", "name it in observation.images")
    check_camera(name, shape, dtype)
    size = math.prod(shape[1:])
    pictures = "store pictures as (frames, H, W, C) uint8, or depth as uint16, and name them in observation.images"
    says = f"{name!r} has {size} numbers per frame"
    require(size <= VECTOR, says, f"at most {VECTOR} of what is named in observation.vectors", pictures)


def as_images(frames: np.ndarray, name: str, first: int) -> np.ndarray:
    """Return frames (n, H, W, C) of any dtype as uint8; depth, see `is_depth`, as it is.

    Args:
        frames: whole numbers from 0 to 255.
        name: of the array, for the message.
        first: number of the first frame, for the message.

    Raises:
        ValueError: values that uint8 does not hold, which are no images.
    """
    if frames.dtype == np.uint8 or is_depth(frames.shape, frames.dtype):
        return frames
    with np.errstate(invalid="ignore"):  # NaN is caught by the comparison below
        images = frames.astype(np.uint8)
    if not np.array_equal(images, frames):
        frame = first + int(np.argwhere(images != frames)[0, 0])
        says = f"{name!r} has four dimensions and is read as images, but frame {frame} holds other values"
        require(False, says, "whole numbers from 0 to 255", "store other arrays with fewer dimensions")
    return images
