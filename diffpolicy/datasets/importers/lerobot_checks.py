"""What a LeRobot data set says twice, compared: order of rows, times, lengths, and statistics of every episode."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np

from diffpolicy.datasets.importers.lerobot_meta import Stats
from diffpolicy.util.errors import require

_SINGLE = np.finfo(np.float32).eps
_MEAN_OF_VIDEO, _SPREAD_OF_VIDEO = 0.02, 0.04  # of [0, 1]: what codecs at usual qualities stay well within
_MEAN_OF_PICTURES = 0.004
_LARGE, _SMALL = 300, 150  # pixels: from what side on LeRobot's statistics skip pixels, and to what side


@final
@dataclass(frozen=True)
class Order:
    """How the rows of an episode become its frames.

    Args:
        rows: which rows, in order; None takes all as they are.
        repaired: what was repaired, in words; empty if nothing was.
    """

    rows: np.ndarray | None
    repaired: str = ""


def order_of(table: Any, fps: float) -> Order:
    """Return the order of an episode's rows by their frame_index and their timestamps.

    Args:
        table: the rows, with the columns frame_index, timestamp and all that are compared.
        fps: frames per second.

    Raises:
        ValueError: frames are missing, or occur twice with other numbers, or the timestamps leave out time.
    """
    frames = column_numbers(table, "frame_index")
    times = column_numbers(table, "timestamp", np.float64) if "timestamp" in table.column_names else None
    count, rows, repaired = len(frames), None, ""
    if not np.array_equal(frames, np.arange(count)):
        if times is not None and _fits(times, fps):
            return Order(None, "frame_index is wrong and was replaced by the timestamps'")
        rows, repaired = _sorted(table, frames)
        frames = frames[rows]
        missing = np.setdiff1d(np.arange(frames[-1] + 1), frames) if 0 <= frames[-1] < 10 * count + 100 else frames
        says = f"{len(missing)} frames are missing, frame {missing[0] if len(missing) else ''} first"
        require(not len(missing), says)
        times = None if times is None else times[rows]
    if times is not None:
        repaired = "; ".join(filter(None, [repaired, _check_times(times, fps)]))
    return Order(rows, repaired)


def check_length(count: int, stated: Sequence[int]) -> str:
    """Return what is wrong with the stated lengths of an episode of which `count` frames were found.

    Raises:
        ValueError: all of them state another one.
    """
    if not stated or set(stated) == {count}:
        return ""
    says = f"{count} frames are there, and meta states {', '.join(map(str, dict.fromkeys(stated)))}"
    require(count in stated, says)
    return f"{says}; those that are there were taken"


def numbers_differ(values: np.ndarray, stats: Stats, name: str) -> str:
    """Return how numbers (L, ...) differ from their recorded statistics, in words; empty if they do not."""
    said = stats.get(name, {})
    flat = values.reshape(len(values), -1)
    flat = flat if flat.dtype in (np.float32, np.float64) else flat.astype(np.float32)
    largest = np.abs(flat).max(0).astype(np.float64)
    rounding = 4 + np.sqrt(len(flat))
    for kind, found in (("min", flat.min(0)), ("max", flat.max(0)), ("mean", flat.mean(0)), ("std", flat.std(0))):
        stated = _stated(said, kind, flat.shape[1])
        if stated is None:
            continue
        eps = 4 * _SINGLE * largest if kind in ("min", "max") else 2 * rounding * _SINGLE * largest
        if kind == "std":  # LeRobot takes it from the mean of squares, of which rounding leaves little
            off = np.abs(found.astype(np.float64) ** 2 - stated**2) > 4 * rounding * _SINGLE * largest**2 + 1e-30
        else:
            off = np.abs(found - stated) > eps + 1e-30
        if off.any():
            at = int(np.argmax(off))
            return f"{name!r} has the {kind} {found[at]:.7g} in dimension {at}, recorded were {stated[at]:.7g}"
    return ""


def rounding_differs(values: np.ndarray, stats: Stats, name: str) -> bool:
    """Return whether numbers differ from their statistics at all, computed step by step as LeRobot does."""
    said = stats.get(name, {})
    flat = values.reshape(len(values), -1)
    flat = flat.astype(np.result_type(flat.dtype, np.float32))
    mean, stated = flat.mean(0), _stated(said, "mean", flat.shape[1])
    if stated is None:
        return False
    spreads = [np.sqrt(np.maximum(0, (flat**2).mean(0) - mean**2)), flat.std(0)]  # of v3.0, and of v2.1
    std = _stated(said, "std", flat.shape[1])
    same = std is None or any(np.array_equal(spread.astype(np.float64), std) for spread in spreads)
    return not (same and np.array_equal(mean.astype(np.float64), stated))


def images_differ(images: np.ndarray, stats: Stats, name: str, exact: bool) -> str:
    """Return how images (L, H, W, C) uint8 differ from their recorded statistics, in words; empty if they do not.

    Args:
        images: of an episode.
        stats: of it.
        name: of the camera.
        exact: whether the images were stored without loss.
    """
    said = stats.get(name, {})
    mean, std = (_stated(said, kind, images.shape[3]) for kind in ("mean", "std"))
    if mean is None or std is None or images.dtype != np.uint8:
        return ""
    count = int(np.asarray(said.get("count", len(images))).reshape(-1)[0])
    count = count if 0 < count <= len(images) else len(images)
    chosen = np.round(np.linspace(0, len(images) - 1, count)).astype(int)
    step = pixel_step(images.shape)
    total, squares = np.zeros(images.shape[3]), np.zeros(images.shape[3])
    for i in chosen:
        pixels = images[i, ::step, ::step].reshape(-1, images.shape[3]).astype(np.float32) / 255
        total += np.ones(len(pixels), np.float32) @ pixels / len(pixels)  # many times faster than a mean over axis 0
        squares += np.einsum("ij,ij->j", pixels, pixels) / len(pixels)
    found = total / count
    spread = np.sqrt(np.maximum(squares / count - found**2, 0))
    most = _MEAN_OF_PICTURES if exact else _MEAN_OF_VIDEO
    if (np.abs(found - mean) > most).any() or (np.abs(spread - std) > (most if exact else _SPREAD_OF_VIDEO)).any():
        given, recorded = (", ".join(f"{value:.3f}" for value in values) for values in (found, mean))
        return f"the images {name!r} have the mean {given}, recorded were {recorded}"
    return ""


def pixel_step(shape: Sequence[int]) -> int:
    """Return the step between the pixels of images (L, H, W, C) that LeRobot's statistics look at."""
    side = max(shape[1:3])
    return side // _SMALL if side >= _LARGE else 1


def _stated(said: Any, kind: str, size: int) -> np.ndarray | None:
    """Recorded statistics, if they are as many numbers as they should be."""
    try:
        stated = np.asarray(said[kind], np.float64).reshape(-1)
    except (KeyError, TypeError, ValueError):
        return None
    return stated if stated.size == size else None


def column_numbers(table: Any, name: str, dtype: type = np.int64) -> np.ndarray:
    """Return a column of single numbers, (L,), as `dtype`, whichever the file has.

    Raises:
        ValueError: missing ones, or no numbers.
    """
    column = table.column(name)
    values = column.to_numpy()
    require(values.dtype.kind in "iuf" and column.null_count == 0, f"{name} of {column.type}", "numbers")
    return values.astype(dtype)


def _fits(times: np.ndarray, fps: float) -> bool:
    return bool((np.abs(times * fps - np.arange(len(times))) <= 0.5).all())


def _sorted(table: Any, frames: np.ndarray) -> tuple[np.ndarray, str]:
    """The rows sorted by frame_index, repeated ones once, and what that repaired."""
    rows = np.argsort(frames, kind="stable")
    again = np.flatnonzero(np.diff(frames[rows]) == 0) + 1
    says = []
    if len(again):
        names = [name for name in table.column_names if name != "index"]
        compared = table.select(names)
        for place in again:
            same = compared.slice(int(rows[place - 1]), 1).equals(compared.slice(int(rows[place]), 1))
            require(same, f"frame {frames[rows[place]]} is there twice, differently")
        says.append(f"{len(again)} frames were there twice, as frame {frames[rows[again[0]]]}, and are kept once")
    if not (np.diff(frames) >= 0).all():
        says.append("its rows were out of order and were sorted by frame_index")
    return np.delete(rows, again), "; ".join(says)


def _check_times(times: np.ndarray, fps: float) -> str:
    """What is wrong with a few timestamps; raises ValueError where time is left out."""
    off = np.abs(times * fps - np.arange(len(times))) > 0.5
    if not off.any():
        return ""
    first = int(np.argmax(off))
    says = f"timestamp {times[first]:.4f} s at frame {first}, expected {first / fps:.4f} s"
    few = off.sum() <= max(1, len(off) // 20) and not off[-1] and len(off) > 2
    require(few, f"{says}, and {int(off.sum())} frames are off: frames are missing or repeated")
    return f"{int(off.sum())} timestamps are wrong ({says}) and were not used"
