"""Checks of recorded arrays. Each raises with what was given, where, and what to do."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from diffpolicy.util.errors import require

IMAGE_NDIM = 4  # (frames, height, width, channels)


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


def check_array(name: str, values: np.ndarray, ends: np.ndarray) -> None:
    """Raise TypeError or ValueError unless an array can stand in a replay buffer."""
    plain = isinstance(name, str) and name and "/" not in name and not name.startswith(".")
    require(plain, f"an array called {name!r}", "a plain word")
    says = f"{name!r} has dtype {values.dtype}"
    require(values.dtype.kind in "biuf", says, "real numbers or booleans", error=TypeError)
    check_length(name, values.shape, ends)
    if values.ndim == IMAGE_NDIM:
        says = f"images {name!r} of shape {values.shape} have dtype {values.dtype}"
        require(values.dtype == np.uint8, says, "uint8, 0 to 255", error=TypeError)
    elif values.dtype.kind == "f" and not (finite := np.isfinite(values)).all():
        frame = int(np.argwhere(~finite)[0, 0])
        says = f"{name!r} holds NaN or infinity at {place(frame, ends)}"
        require(False, says, cure="repair the episode or leave it out")


def place(frame: int, ends: np.ndarray) -> str:
    """Return where a frame is, in words."""
    episode = int(np.searchsorted(ends, frame, side="right"))
    inside = frame - (ends[episode - 1] if episode else 0)
    return f"frame {frame} (frame {inside} of episode {episode})"


def check_episode(number: int, episode: Mapping[str, np.ndarray], first: Mapping[str, np.ndarray]) -> None:
    """Raise ValueError unless an episode's arrays are equally long and of the first episode's frames.

    Args:
        number: of the episode, for the message.
        episode: name -> array (L, ...).
        first: the arrays of episode 0.
    """
    says = f"episode {number} holds the arrays {sorted(episode)}"
    require(episode and episode.keys() == first.keys(), says, str(sorted(first)))
    flat = next((name for name, values in episode.items() if values.ndim == 0), None)
    require(flat is None, f"episode {number}: {flat!r} is a single number", "time on axis 0")
    sizes = {name: len(values) for name, values in episode.items()}
    says = f"episode {number} has arrays of lengths {sizes}"
    require(len(set(sizes.values())) == 1 and all(sizes.values()), says, "equally long ones, not empty")
    for name, values in episode.items():
        says = f"episode {number}: a frame of {name!r} has shape {values.shape[1:]}"
        require(values.shape[1:] == first[name].shape[1:], says, f"{first[name].shape[1:]}, as in episode 0")


def check_horizons(horizon: int, obs_horizon: int, action_horizon: int) -> None:
    """Raise ValueError unless the executed actions lie inside a window."""
    says = f"horizon={horizon}, obs_horizon={obs_horizon}, action_horizon={action_horizon}"
    require(min(horizon, obs_horizon, action_horizon) >= 1, says, "at least 1 frame each")
    executed = obs_horizon - 1 + action_horizon
    require(executed <= horizon, says, f"obs_horizon - 1 + action_horizon, which is {executed}, at most horizon")


def check_keys(name: str, keys: Sequence[str]) -> None:
    """Raise ValueError unless `keys` are a list of at least one name."""
    require(not isinstance(keys, str) and keys, f"{name}={keys!r}", "a list of at least one name")


def as_images(frames: np.ndarray, name: str, first: int) -> np.ndarray:
    """Return frames (n, H, W, C) of any dtype as uint8.

    Args:
        frames: whole numbers from 0 to 255.
        name: of the array, for the message.
        first: number of the first frame, for the message.

    Raises:
        ValueError: values that uint8 does not hold, which are no images.
    """
    if frames.dtype == np.uint8:
        return frames
    with np.errstate(invalid="ignore"):  # NaN is caught by the comparison below
        images = frames.astype(np.uint8)
    if not np.array_equal(images, frames):
        frame = first + int(np.argwhere(images != frames)[0, 0])
        says = f"{name!r} has four dimensions and is read as images, but frame {frame} holds other values"
        require(False, says, "whole numbers from 0 to 255", "store other arrays with fewer dimensions")
    return images
