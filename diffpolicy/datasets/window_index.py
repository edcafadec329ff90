"""Which frames a window shows."""

from __future__ import annotations

from typing import final

import numpy as np
import torch
from torch import Tensor

from diffpolicy.datasets.buffer import ReplayBuffer
from diffpolicy.util.errors import require


@final
class WindowIndex:
    """Which frames a window shows, from the ends of the episodes alone: a few numbers per episode, not per window.

    Args:
        firsts: (E,) the frame at which each episode starts, wherever the frames are kept.
        lengths: (E,) its frames.
        counts: (E,) its windows, each at least one.
        obs_horizon: T_o; the first window of an episode starts T_o − 1 frames before it.
        device: where frames are computed.
    """

    def __init__(
        self,
        firsts: np.ndarray,
        lengths: np.ndarray,
        counts: np.ndarray,
        obs_horizon: int,
        device: str | torch.device = "cpu",
    ) -> None:
        self._n = int(counts.sum())
        self._before = obs_horizon - 1
        columns = (np.cumsum(counts), np.cumsum(counts) - counts, firsts, lengths - 1)
        self._ends, self._starts, self._firsts, self._last = (
            torch.from_numpy(np.ascontiguousarray(column, np.int64)).to(device) for column in columns
        )

    def __len__(self) -> int:
        return self._n

    def frames(self, windows: Tensor, count: int) -> Tensor:
        """Return the first `count` frames of each window, (B,) -> (B, count) int64, clamped to its episode.

        Raises:
            IndexError: a window that does not exist.
        """
        if len(windows) and windows.device.type == "cpu":  # looking at a GPU's numbers would wait for it
            lowest, highest = int(windows.min()), int(windows.max())
            holds = lowest >= 0 and highest < self._n
            require(holds, f"windows {lowest} to {highest}", f"0 to {self._n - 1}", error=IndexError)
        windows = windows.to(self._ends.device)
        episode = torch.searchsorted(self._ends, windows, right=True)
        start = (windows - self._starts[episode] - self._before)[:, None]
        places = start + torch.arange(count, device=windows.device)
        clamped = torch.minimum(places.clamp_min(0), self._last[episode][:, None])
        return self._firsts[episode][:, None] + clamped


def frames_needed(horizon: int, obs_horizon: int, action_horizon: int) -> int:
    """Return the fewest frames of an episode that make a window."""
    return max(1, horizon - obs_horizon - action_horizon + 2)


def window_counts(buffer: ReplayBuffer, horizon: int, obs_horizon: int, action_horizon: int) -> np.ndarray:
    """Return the number of windows of each episode, (E,) int64.

    Raises:
        ValueError: an episode too short for one.
    """
    needed = horizon - obs_horizon - action_horizon + 2
    lengths = buffer.episode_lengths
    short = int(np.argmin(lengths))
    says = f"episode {buffer.episode_numbers[short]} has {lengths[short]} frames, too few for one window"
    sizes = f"horizon={horizon}, obs_horizon={obs_horizon}, action_horizon={action_horizon}"
    count = int((lengths < needed).sum())
    which = "it" if count == 1 else f"the {count} short ones"
    cure = f"leave {which} out by dataset.short=skip, or take a shorter policy.horizon"
    require(lengths[short] >= needed, says, f"{max(needed, 1)} for {sizes}", cure)
    return lengths - needed + 1
