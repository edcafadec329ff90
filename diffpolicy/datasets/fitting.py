"""The normalizer, fitted on the training episodes, and what a person should know of their numbers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import torch
from torch import Tensor

from diffpolicy.config import RunConfig
from diffpolicy.datasets.buffer import ReplayBuffer
from diffpolicy.datasets.normalizer import Normalizer, floor_of, inner_quantiles, modes_of
from diffpolicy.datasets.representations import Representations
from diffpolicy.datasets.windows import WindowDataset, joined_frames
from diffpolicy.util.errors import explain

FAR = 10
"""A value counts as a spike that lies further beyond the quantiles than this many times their distance."""

MOST_ACTIONS = 1 << 22
"""How many actions a normalizer is fitted on at most where they are relative, and every window has others."""

_MOST_LINES, _MOST_NAMES = 5, 12
_FEW = 3  # frames; more, or more than one in a thousand, are no spike but what is seldom done


def fit(config: RunConfig, seen: ReplayBuffer, represented: Representations) -> tuple[Normalizer, list[str]]:
    """Return the normalizer of training episodes, and lines about what it did to them.

    Args:
        config: of a run: its sections `observation`, `dataset` and `policy`.
        seen: the training episodes, augmentations included.
        represented: what is made of them before.

    Raises:
        ValueError: rotations or angles that are none, or modes for something that the data lack.
    """
    keys, data = config.observation.vectors, config.dataset
    arrays = {"obs": keys, "action": [data.action_key]}
    frames = {group: joined_frames(seen, names) for group, names in arrays.items()}
    _check(frames, seen, represented)
    if represented.moves:
        fitted = _of_windows(config, seen, represented)
    else:
        fitted = {name: one[:, 0] for name, one in represented.apply(_as_windows(frames)).items()}
    goals = {key: joined_frames(seen, [key]) for key in config.observation.goals}
    normalizer = Normalizer.fit({**fitted, **goals}, data.normalize)
    notes = list(_constants(fitted, normalizer, represented))
    for group in frames:
        notes += _spikes(group, arrays[group], seen, represented, data.normalize)
    more = len(notes) - _MOST_LINES
    return normalizer, [*notes[:_MOST_LINES], f"and {more} more of these"] if more > 0 else notes


def _as_windows(frames: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: one[:, None] for name, one in frames.items()}


def _of_windows(config: RunConfig, seen: ReplayBuffer, represented: Representations) -> dict[str, Tensor]:
    """All observations, and the actions of all windows, or of windows spread evenly where there are too many."""
    p = config.policy
    windows = WindowDataset(
        seen, config.observation.vectors, config.dataset.action_key, p.horizon, p.obs_horizon, p.action_horizon
    )
    count = min(len(windows), max(1, MOST_ACTIONS // p.horizon))
    chosen = torch.linspace(0, len(windows) - 1, count, dtype=torch.float64).round().long()
    batches = (windows.batch(part) for part in chosen.split(4096))
    actions = torch.cat([represented.actions(batch["action"], batch["obs"]).flatten(0, 1) for batch in batches])
    return {"obs": represented.observations(windows.all_obs()[:, None])[:, 0], "action": actions}


def _check(frames: dict[str, Tensor], seen: ReplayBuffer, represented: Representations) -> None:
    for group, x in frames.items():
        if found := represented.wrong(group, x):
            frame, says, expected = found
            raise ValueError(explain(f"dataset.representations.{says}: {_place(seen, frame)} is not that", expected))


def _constants(fitted: Iterable[str], normalizer: Normalizer, represented: Representations) -> Iterator[str]:
    for group in fitted:
        labels = represented.labels(group)
        found = [labels[i] for i in normalizer.constant(group).nonzero()[:, 0].tolist()]
        if found:
            back = ", and comes back exactly so" if group == "action" else ""
            more = f", and {len(found) - _MOST_NAMES} more" if len(found) > _MOST_NAMES else ""
            yield f"constant in all training episodes{back}: {', '.join(found[:_MOST_NAMES])}{more}"


def _spikes(
    group: str, keys: list[str], seen: ReplayBuffer, represented: Representations, modes: dict[str, str]
) -> Iterator[str]:
    """A line for each dimension of an array whose extreme lies far beyond its quantiles, and squeezes the rest."""
    labels = represented.labels(group)
    mode = dict(zip(labels, modes_of(group, len(labels), modes), strict=True))
    for key in keys:
        x = joined_frames(seen, [key])
        low, high = inner_quantiles(x)
        width, floor, beyond = high - low, floor_of(low, high), torch.maximum(x - high, low - x)
        far = beyond > FAR * torch.maximum(width, floor)
        frames, counts = beyond.argmax(0), far.sum(0)
        for i in range(x.shape[1]):
            label, tight = f"{key}[{i}]", width[i] < floor[i]
            few = 1 <= counts[i] <= (_FEW if tight else max(_FEW, len(x) // 1000))
            if not few or (mode.get(label, modes.get(group, "limits")) == "quantiles" and not tight):
                continue
            frame = int(frames[i])
            inner = f"98% of its frames lie within {low[i]:.6g} and {high[i]:.6g}"
            given = f"{label} is {x[frame, i]:.6g} at {_place(seen, frame)}, while {inner}: it squeezes the rest"
            cure = f"take dataset.normalize.{group}=quantiles" if not tight else "leave the episode out"
            yield explain(given, cure=cure)


def _place(seen: ReplayBuffer, frame: int) -> str:
    """Where a frame of a buffer is, in words."""
    ends = seen.episode_ends
    episode = int(np.searchsorted(ends, frame, side="right"))
    first = int(ends[episode - 1]) if episode else 0
    return f"frame {frame - first} of episode {seen.episode_numbers[episode]}"
