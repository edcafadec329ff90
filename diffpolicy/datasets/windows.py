"""Training windows over a replay buffer, and an order of training data that needs no memory.

With observation horizon T_o, prediction horizon T_p and action horizon T_a, a window is T_p consecutive
frames of one episode that begin T_o − 1 frames before "now". Its first T_o observations are the condition,
its T_p actions the target, and a policy executes `actions[T_o − 1 : T_o − 1 + T_a]`, the first of which is
the action of now. Windows may hang over an episode's ends by T_o − 1 frames before (the first frame is
repeated) and T_a − 1 after (the last frame is repeated), as in Diffusion Policy (Chi et al., 2023), so that
"now" and the executed chunk can lie anywhere in the episode. They never reach into another episode.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import final

import numpy as np
import torch
from torch import Tensor

from diffpolicy.datasets.replay_buffer import ReplayBuffer


@final
class WindowDataset:
    """All windows of a buffer of low-dimensional data, in memory, gathered in batches without a Python loop.

    An episode of length L gives L − T_p + (T_o − 1) + (T_a − 1) + 1 windows, in order of time; the windows of
    episode 0 come first.

    Args:
        buffer: the episodes.
        obs_keys: the arrays that make up an observation: each is flattened per frame, then joined in this
            order.
        action_key: the array of actions, flattened per frame.
        horizon: T_p, frames.
        obs_horizon: T_o, frames.
        action_horizon: T_a, frames; T_o − 1 + T_a ≤ T_p.
        device: where the tensors live.
        weights: (N,) of the frames; a window's, "weight" (B,) in a batch, is that of its frame "now". None for none.

    Raises:
        ValueError: horizons that do not fit, an episode too short for one window, images among the keys, or
            values too large for float32.
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
    ) -> None:
        if isinstance(obs_keys, str) or not obs_keys:
            raise ValueError(f"obs_keys must be a list of at least one name, got {obs_keys!r}")
        if min(horizon, obs_horizon, action_horizon) < 1:
            raise ValueError(
                f"horizons must be at least 1 frame, got horizon={horizon}, obs_horizon={obs_horizon}, "
                f"action_horizon={action_horizon}"
            )
        if obs_horizon - 1 + action_horizon > horizon:
            raise ValueError(
                f"the executed chunk must lie inside the window: obs_horizon − 1 + action_horizon = "
                f"{obs_horizon - 1 + action_horizon} exceeds horizon={horizon}"
            )
        self.horizon, self.obs_horizon = horizon, obs_horizon
        self._obs = torch.cat([_frames(buffer, key, device) for key in obs_keys], dim=1)
        self._action = _frames(buffer, action_key, device)
        self._weights = None if weights is None else weights.to(device)
        lengths = buffer.episode_lengths
        counts = _window_counts(buffer, horizon, obs_horizon, action_horizon)
        self._index = WindowIndex(np.cumsum(lengths) - lengths, lengths, counts, obs_horizon, device)
        self._counts = counts

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
        """The windows of the given numbers, shape (B,), int64, 0 to len − 1, in the units of the data.

        Returns:
            `obs` (B, T_o, D) and `action` (B, T_p, A), float32, on the data's device, and `weight` (B,) if there are
            weights.
        """
        frames = self._index.frames(indices, self.horizon)
        batch = {"obs": self._obs[frames[:, : self.obs_horizon]], "action": self._action[frames]}
        if self._weights is not None:
            batch["weight"] = self._weights[frames[:, self.obs_horizon - 1]]
        return batch

    def all_obs(self) -> Tensor:
        """(N, D) float32: every frame's observation once, without padding; what a normaliser is fitted on."""
        return self._obs

    def all_actions(self) -> Tensor:
        """(N, A) float32: every frame's action once, without padding; what a normaliser is fitted on."""
        return self._action


@final
class WindowIndex:
    """Which frames a window shows, from the ends of the episodes alone: a few numbers an episode, not a window.

    Args:
        firsts: (E,) the frame at which each episode begins, wherever the frames are kept.
        lengths: (E,) its frames.
        counts: (E,) its windows, each at least one.
        obs_horizon: T_o; the first window of an episode begins T_o − 1 frames before it.
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
        """The first `count` frames of each window, (B,) -> (B, count) int64, clamped to the window's episode.

        Raises:
            IndexError: a window that does not exist.
        """
        if len(windows) and windows.device.type == "cpu":  # looking at a GPU's numbers would wait for it
            lowest, highest = int(windows.min()), int(windows.max())
            if lowest < 0 or highest >= self._n:
                raise IndexError(f"there are windows 0 to {self._n - 1}, not {lowest} to {highest}")
        windows = windows.to(self._ends.device)
        episode = torch.searchsorted(self._ends, windows, right=True)
        places = (windows - self._starts[episode] - self._before)[:, None] + torch.arange(
            count, device=windows.device
        )
        clamped = torch.minimum(places.clamp_min(0), self._last[episode][:, None])
        return self._firsts[episode][:, None] + clamped


def _frames(buffer: ReplayBuffer, key: str, device: str | torch.device) -> Tensor:
    values = buffer[key]
    if values.ndim == 4:
        raise ValueError(f"{key!r} holds images; windows are of low-dimensional data, which is flattened to floats")
    with np.errstate(over="ignore"):  # an overflow is the error below
        flat = values.reshape(len(values), -1).astype(np.float32)
    if not np.isfinite(flat).all():
        raise ValueError(f"{key!r} holds values beyond float32 (about 3.4e38); change its unit")
    return torch.from_numpy(flat).to(device)


def _window_counts(buffer: ReplayBuffer, horizon: int, obs_horizon: int, action_horizon: int) -> np.ndarray:
    """(E,) int64: the windows of each episode."""
    lengths = buffer.episode_lengths
    counts = lengths - horizon + (obs_horizon - 1) + (action_horizon - 1) + 1
    if (counts < 1).any():
        short = int(np.argmax(counts < 1))
        raise ValueError(
            f"episode {buffer.episode_numbers[short]} is too short: it has {lengths[short]} frames, and a "
            f"window of horizon={horizon}, obs_horizon={obs_horizon}, action_horizon={action_horizon} needs "
            f"{horizon - obs_horizon - action_horizon + 2}; leave the episode out or shorten the horizon"
        )
    return counts


def epoch_permutation(n: int, seed: int, epoch: int) -> Tensor:
    """The order of the samples 0 … n − 1 in an epoch, (n,) int64: a function of its arguments alone."""
    if n < 1 or seed < 0 or epoch < 0:
        raise ValueError(f"expected n ≥ 1, seed ≥ 0 and epoch ≥ 0, got n={n}, seed={seed}, epoch={epoch}")
    return torch.from_numpy(np.random.default_rng([seed, epoch]).permutation(n))


@final
class BatchSampler:
    """The batches of a training run by step number: resuming needs no stored position.

    The permutations of the epochs 0, 1, 2 … stand in one endless row, and step k takes the places
    k·batch_size … (k + 1)·batch_size − 1 of it. So every batch is full and nothing is dropped: a batch may
    begin in one epoch and end in the next, every sample comes exactly once an epoch, and `batch_size` may
    exceed `n`. Several processes draw the same row and take their share of every batch.

    Args:
        n: how many samples there are.
        batch_size: of all processes together.
        seed: of the order.
        device: where the indices are wanted; an epoch's go there at once.
    """

    def __init__(self, n: int, batch_size: int, seed: int, device: str | torch.device = "cpu") -> None:
        if n < 1 or batch_size < 1 or seed < 0:
            raise ValueError(f"expected n ≥ 1, batch_size ≥ 1, seed ≥ 0, got n={n}, {batch_size=}, {seed=}")
        self.n = n
        self.batch_size = batch_size
        self.seed = seed
        self.device = device
        self._epoch = -1
        self._order = torch.empty(0, dtype=torch.int64)

    def __getitem__(self, step: int) -> Tensor:
        """The samples of the step, shape (batch_size,), int64."""
        if step < 0:
            raise IndexError(f"steps count from 0, got {step}")
        place, end = step * self.batch_size, (step + 1) * self.batch_size
        parts = []
        while place < end:
            epoch, begin = divmod(place, self.n)
            stop = min(self.n, begin + end - place)
            parts.append(self._permutation(epoch)[begin:stop])
            place += stop - begin
        return torch.cat(parts)

    def _permutation(self, epoch: int) -> Tensor:
        # A cache, not a state: drawing the order of a large data set anew in every step would cost.
        if epoch != self._epoch:
            self._epoch, self._order = epoch, epoch_permutation(self.n, self.seed, epoch).to(self.device)
        return self._order


@final
class PoolSampler:
    """The batches of a training run by step number, as `BatchSampler`, in an order for data that is read in runs.

    An epoch permutes the runs, deals them into pools of equally many, and permutes the samples of each pool. A pool
    is known by its key, (epoch, its number in the epoch).

    Args:
        runs: (R + 1,) int64: run i holds the samples runs[i] to runs[i + 1] - 1, at least one.
        batch_size: of all processes together.
        seed: of the order.
        pool: how many runs make a pool, at most.
    """

    def __init__(self, runs: np.ndarray, batch_size: int, seed: int, pool: int) -> None:
        if batch_size < 1 or seed < 0 or pool < 1:
            raise ValueError(f"expected batch_size ≥ 1, seed ≥ 0 and pool ≥ 1, got {batch_size=}, {seed=}, {pool=}")
        self.batch_size, self.seed, self.pool = batch_size, seed, pool
        self._runs = runs
        self._n = int(runs[-1])
        # Caches, not states: a step needs the pool of the step before, or the one after it.
        self._epoch = functools.lru_cache(2)(self._draw_epoch)
        self._pool = functools.lru_cache(2)(self._draw_pool)

    def __getitem__(self, step: int) -> Tensor:
        """The samples of the step, shape (batch_size,), int64, CPU."""
        return torch.cat([samples for _, samples in self.parts(step)])

    def parts(self, step: int) -> list[tuple[tuple[int, int], Tensor]]:
        """The same in pieces, with the pool of each."""
        if step < 0:
            raise IndexError(f"steps count from 0, got {step}")
        place, end = step * self.batch_size, (step + 1) * self.batch_size
        parts = []
        while place < end:
            epoch, within = divmod(place, self._n)
            _, ends = self._epoch(epoch)
            key = (epoch, int(np.searchsorted(ends, within, side="right")))
            first, samples = self.samples(key)
            parts.append((key, samples[place - first : end - first]))
            place += len(parts[-1][1])
        return parts

    def samples(self, key: tuple[int, int]) -> tuple[int, Tensor]:
        """The place of a pool's first sample in the endless row, and all its samples in their order."""
        return self._pool(*key)

    def after(self, key: tuple[int, int]) -> tuple[int, int]:
        """The pool that follows."""
        epoch, number = key
        return (epoch, number + 1) if number + 1 < len(self._epoch(epoch)[1]) else (epoch + 1, 0)

    def _draw_epoch(self, epoch: int) -> tuple[list[np.ndarray], np.ndarray]:
        """The runs of each pool, and the place in the epoch at which it ends."""
        order = np.random.default_rng([self.seed, epoch, 0]).permutation(len(self._runs) - 1)
        pools = np.array_split(order, -(-len(order) // self.pool))
        return pools, np.cumsum([np.diff(self._runs)[runs].sum() for runs in pools])

    def _draw_pool(self, epoch: int, number: int) -> tuple[int, Tensor]:
        pools, ends = self._epoch(epoch)
        samples = np.concatenate([np.arange(self._runs[run], self._runs[run + 1]) for run in pools[number]])
        # number + 1: the epoch's own order has 0
        samples = np.random.default_rng([self.seed, epoch, number + 1]).permutation(samples)
        return epoch * self._n + int(ends[number]) - len(samples), torch.from_numpy(samples)
