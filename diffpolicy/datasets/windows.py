"""Training windows over a replay buffer.

With observation horizon T_o, prediction horizon T_p and action horizon T_a, a window is T_p consecutive frames of one
episode that start T_o − 1 frames before "now". Its first T_o observations are the condition, its T_p actions the
target, and a policy executes `actions[T_o − 1 : T_o − 1 + T_a]`, the first of which is the action of now. Windows
may hang over an episode's ends by T_o − 1 frames before (the first frame is repeated) and T_a − 1 after (the last
frame is repeated), as in Diffusion Policy (Chi et al., 2023), so that "now" and the executed chunk can lie anywhere
in the episode. They never reach into another episode.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import numpy as np
import torch
from torch import Tensor

from diffpolicy.datasets.buffer import ReplayBuffer
from diffpolicy.datasets.checks import check_horizons, check_keys, check_vector
from diffpolicy.datasets.window_index import WindowIndex, window_counts
from diffpolicy.util.errors import require


@final
class WindowDataset:
    """All windows of a buffer's vectors, in memory, gathered in batches without a Python loop.

    An episode of length L gives L − T_p + (T_o − 1) + (T_a − 1) + 1 windows, in order of time, and of the episodes.

    Args:
        buffer: the episodes.
        obs_keys: the arrays that make up an observation: each is flattened per frame, then joined in this order; none
            where images are all that is observed.
        action_key: the array of actions, flattened per frame.
        horizon: T_p, frames.
        obs_horizon: T_o, frames.
        action_horizon: T_a, frames; T_o − 1 + T_a ≤ T_p.
        device: where the tensors live.
        weights: (N,) of the frames; a window's weight is that of its frame "now". None for none.
        told: arrays that say what to do, of which a window has the frame "now".

    Raises:
        ValueError: horizons that do not fit, an episode too short for one window, images among the keys, or values
            too large for float32.
        KeyError: a key the buffer lacks.
    """

    def __init__(
        self,
        buffer: ReplayBuffer,
        obs_keys: Sequence[str],
        action_key: str,
        horizon: int,
        obs_horizon: int,
        action_horizon: int,
        device: str | torch.device = "cpu",
        weights: Tensor | None = None,
        told: Sequence[str] = (),
    ) -> None:
        check_keys("obs_keys", obs_keys)
        check_horizons(horizon, obs_horizon, action_horizon)
        self.horizon, self.obs_horizon = horizon, obs_horizon
        self._obs = joined_frames(buffer, obs_keys).to(device)
        self._action = joined_frames(buffer, [action_key]).to(device)
        self._told = {key: joined_frames(buffer, [key]).to(device) for key in told}
        self._weights = None if weights is None else weights.to(device)
        lengths = buffer.episode_lengths
        self._counts = window_counts(buffer, horizon, obs_horizon, action_horizon)
        self._index = WindowIndex(np.cumsum(lengths) - lengths, lengths, self._counts, obs_horizon, device)

    def __len__(self) -> int:
        return len(self._index)

    @property
    def window_counts(self) -> np.ndarray:
        """(E,) int64, the number of windows of each episode; a copy."""
        return self._counts.copy()

    @property
    def obs_dim(self) -> int:
        """D, the numbers in one observation."""
        return self._obs.shape[1]

    @property
    def action_dim(self) -> int:
        """A, the numbers in one action."""
        return self._action.shape[1]

    def batch(self, indices: Tensor) -> dict[str, Tensor]:
        """Return windows in the units of the data.

        Args:
            indices: (B,) int64, 0 to len − 1.

        Returns:
            `obs` (B, T_o, D) and `action` (B, T_p, A), float32, on the data's device; what is told, (B, G), by key;
            and `weight` (B,) if any.
        """
        frames = self._index.frames(indices, self.horizon)
        now = frames[:, self.obs_horizon - 1]
        batch = {"obs": self._obs[frames[:, : self.obs_horizon]], "action": self._action[frames]}
        batch |= {key: values[now] for key, values in self._told.items()}
        return batch if self._weights is None else {**batch, "weight": self._weights[now]}

    def window_weights(self) -> Tensor | None:
        """Return the weight of every window, (len,), or None where there are none."""
        if self._weights is None:
            return None
        return self._weights[self._index.frames(torch.arange(len(self)), self.obs_horizon)[:, -1]]

    def all_obs(self) -> Tensor:
        """Return every frame's observation once, (N, D) float32, without padding, to fit a normalizer on."""
        return self._obs

    def all_actions(self) -> Tensor:
        """Return every frame's action once, (N, A) float32, without padding, to fit a normalizer on."""
        return self._action


def joined_frames(buffer: ReplayBuffer, keys: Sequence[str]) -> Tensor:
    """Return arrays flattened per frame and joined, (N, D) float32; D is 0 without any."""
    return torch.cat([torch.empty(buffer.n_steps, 0), *(_flat(buffer[key], key) for key in keys)], dim=1)


def _flat(values: np.ndarray, key: str) -> Tensor:
    check_vector(key, values.shape, values.dtype)
    with np.errstate(over="ignore"):  # an overflow is the error below
        flat = values.reshape(len(values), -1).astype(np.float32)
    require(np.isfinite(flat).all(), f"{key!r} holds values beyond float32 (about 3.4e38)", cure="change its unit")
    return torch.from_numpy(flat)
