"""The choice of episodes for training and validation."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

import numpy as np

from diffpolicy.util.errors import explain, require
from diffpolicy.util.names import check

SHORT = ("refuse", "skip")
"""What can be done about episodes that are too short for one window."""

_RANGE = re.compile(r"\s*(\d+)(?:\s*-\s*(\d+))?\s*")
Wanted = int | str | os.PathLike[str] | Sequence[int | str] | None


def select_episodes(
    n_episodes: int, episodes: Wanted = None, seed: int = 42, validation: float = 0.05
) -> tuple[np.ndarray, np.ndarray]:
    """Return a seeded choice of training and validation episodes, which never overlap.

    All come from one permutation of the seed: training episodes from its front, validation episodes from its back.
    So a smaller training set is part of a larger one, and the validation episodes are the same for every size of the
    training set that leaves room for them.

    Args:
        n_episodes: how many there are.
        episodes: how many to train on; None takes all but the validation ones. With a number, validation takes from
            the rest, hence fewer when the rest is small, and none when there is no rest. A list of numbers, or the
            path of a file of numbers, names the ones that there are to choose from, see `episode_numbers`.
        seed: of the permutation.
        validation: fraction of the episodes held out, in [0, 1); at least one episode when above 0.

    Returns:
        train: (n,) int64, sorted.
        validation: (m,) int64, sorted; empty for `validation=0`.

    Raises:
        ValueError: numbers out of range, or nothing left to train on.
        FileNotFoundError: no file of numbers.
    """
    require(n_episodes >= 1, f"n_episodes={n_episodes}", "at least 1")
    if episodes is not None and not isinstance(episodes, (int, np.integer)):
        return select_among(episode_numbers(episodes, n_episodes), None, seed, validation)
    return select_among(np.arange(n_episodes), episodes, seed, validation)


def select_among(
    candidates: np.ndarray, count: int | None, seed: int, validation: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return training and validation episodes among some; see `select_episodes`.

    Args:
        candidates: (n,) int64, sorted numbers of episodes, at least one.
        count: how many to train on, or None.
        seed: of the permutation.
        validation: fraction of the candidates held out.
    """
    n = len(candidates)
    given = f"dataset.validation={validation}"
    require(0 <= validation < 1, given, "a fraction in [0, 1), such as 0.05 for one in twenty")
    known = count is None or 1 <= count <= n
    require(known, f"dataset.episodes={count}: training on {count} episodes", f"1 to {n}, which there are")
    held_out = max(1, round(validation * n)) if validation > 0 else 0
    if count is None:
        count = n - held_out
        says = f"holding out {held_out} of {n} episodes leaves none to train on"
        require(count >= 1, says, cure="take dataset.validation=0")
    held_out = min(held_out, n - count)
    order = candidates[np.random.default_rng(seed).permutation(n)]
    return np.sort(order[:count]), np.sort(order[n - held_out :])


def episode_numbers(wanted: str | os.PathLike[str] | Sequence[int | str], n_episodes: int) -> np.ndarray:
    """Return the numbers of wanted episodes, (n,) int64, sorted, each once.

    Args:
        wanted: numbers, and ranges such as "8-20" with both ends; or a path of a file of these, one a line, where
            what follows a # is left out; or both as one text, separated by commas.
        n_episodes: how many there are.

    Raises:
        ValueError: none, one that does not exist, or something else than numbers.
        FileNotFoundError: no such file.
    """
    given, parts = f"dataset.episodes={wanted}", wanted
    if isinstance(wanted, (str, os.PathLike)):
        parts = str(wanted).split(",")
        if not all(is_numbered(part) for part in parts):
            parts = _lines(Path(wanted).expanduser())
    require(isinstance(parts, Iterable), given, "how many, or numbers and ranges such as [0,8-20]")
    found = sorted(numbered(parts, range(n_episodes), given))
    require(found, given, "at least one number")
    return np.array(found, np.int64)


def is_numbered(part: int | str) -> bool:
    """Return whether something is a number or a range such as "8-20"."""
    return _RANGE.fullmatch(str(part)) is not None


def numbered(parts: Iterable[int | str], there: Collection[int], given: str) -> set[int]:
    """Return the numbers that are named one by one or by ranges, of those that are there.

    Args:
        parts: numbers, and ranges such as "8-20" with both ends.
        there: the numbers that exist, at least one. A range may span others, and not end beyond all.
        given: the setting, for messages.

    Raises:
        ValueError: one that does not exist, or something else than numbers.
    """
    found, few = set(), f"numbers from {min(there)} to {max(there)}"
    for part in parts:
        if (match := _RANGE.fullmatch(str(part))) is None:
            raise ValueError(explain(f"{given}: {part!r}", "numbers and ranges such as 8-20"))
        first, last = int(match[1]), int(match[2] or match[1])
        require(first <= last, f"{given}: the range {part} is empty", "the smaller number first")
        known = first in there if match[2] is None else min(there) <= first and last <= max(there)
        require(known, f"{given}: there is no episode {part}", few)
        found |= {number for number in there if first <= number <= last}
    return found


def choose_episodes(
    lengths: np.ndarray, episodes: Wanted, seed: int, validation: float, needed: int, short: str
) -> tuple[np.ndarray, np.ndarray, int]:
    """Return training and validation episodes, and how many were left out as too short; see `select_episodes`.

    Args:
        lengths: (E,) frames of all episodes.
        episodes: how many, or which.
        seed: of the permutation.
        validation: fraction held out.
        needed: frames that make a window.
        short: one of `SHORT`; what is refused is refused where windows are cut, and only if it is chosen.

    Raises:
        ValueError: as `select_episodes`; an unknown `short`; no episode that is long enough.
    """
    check("dataset.short", short, SHORT)
    count, candidates = None, np.arange(len(lengths))
    if episodes is None or isinstance(episodes, (int, np.integer)):
        count = episodes
    else:
        candidates = episode_numbers(episodes, len(lengths))
    kept = candidates[lengths[candidates] >= needed] if short == "skip" else candidates
    says = f"none of {len(candidates)} episodes has {needed} frames, which one window needs"
    require(len(kept), says, cure="take a shorter policy.horizon")
    return *select_among(kept, count, seed, validation), len(candidates) - len(kept)


def _lines(path: Path) -> list[str]:
    says = f"dataset.episodes={path}"
    wanted = "a number, a list of numbers, or a file of numbers, one a line"
    require(path.is_file(), says, wanted, error=FileNotFoundError)
    try:
        lines = path.read_text().splitlines()
    except UnicodeDecodeError:
        raise ValueError(explain(f"{says} is no text", wanted)) from None
    texts = (line.partition("#")[0].strip() for line in lines)
    return [text for text in texts if text]
