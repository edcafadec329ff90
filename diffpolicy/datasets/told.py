"""The texts of a recording, which say of each episode what was to be done."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from diffpolicy.datasets.buffer import ReplayBuffer
from diffpolicy.util.errors import require


def texts_of(recorded: ReplayBuffer, key: str) -> list[str]:
    """Return all texts of a recording, such as its attribute "tasks", of which `meta["task"]` has the numbers.

    Raises:
        ValueError: the recording has none.
    """
    texts, numbers = recorded.attrs.get(f"{key}s"), recorded.meta.get(key)
    given = f"observation.texts=[{key}] of a recording without {key}s"
    cure = f"take observation.texts=[], or add them: attrs[{key + 's'!r}] and, one per episode, meta[{key!r}]"
    fits = isinstance(texts, (list, tuple)) and numbers is not None and all(isinstance(one, str) for one in texts)
    require(fits, given, "texts and the number of each episode's", cure)
    whole = (numbers == numbers.astype(int)).all() and numbers.max() < len(texts)
    require(whole, f"meta[{key!r}] up to {numbers.max()} of {len(texts)} texts", "the number of each episode's text")
    return list(texts)


def heard(trained: ReplayBuffer, key: str, texts: Sequence[str]) -> list[str]:
    """Return texts with "" in place of those that none of the training episodes has."""
    numbers = set(trained.meta[key].astype(int).tolist())
    return [text if number in numbers else "" for number, text in enumerate(texts)]


def with_texts(recorded: ReplayBuffer, keys: Sequence[str]) -> ReplayBuffer:
    """Return a buffer in which the number of an episode's text stands at each of its frames; below 0 it has none."""
    if not keys:
        return recorded
    lengths = recorded.episode_lengths
    numbers = {key: np.repeat(recorded.meta[key].astype(np.int64), lengths) for key in keys}
    return recorded.with_arrays({**{name: recorded[name] for name in list(recorded.keys())}, **numbers})
