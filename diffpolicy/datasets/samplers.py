"""The order of training data: batches by step number, so that resuming needs no stored position.

The permutations of the epochs 0, 1, 2 … follow one another in an endless sequence, and step k takes the places
k·batch_size … (k + 1)·batch_size − 1 of it. So every batch is full and nothing is dropped: a batch may start in one
epoch and end in the next, every sample comes exactly once an epoch, and `batch_size` may exceed the number of
samples. Where samples have weights, they come as often as these say instead. Several processes draw the same sequence
and take their shard of every batch.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import final

import numpy as np
import torch
from torch import Tensor

from diffpolicy.util.errors import require

_OFFSET = 1  # keeps an epoch's offset apart from its permutation


def epoch_permutation(n: int, seed: int, epoch: int) -> Tensor:
    """Return the order of n samples in an epoch, (n,) int64: a function of its arguments alone."""
    require(n >= 1 and seed >= 0 and epoch >= 0, f"n={n}, seed={seed}, epoch={epoch}", "n ≥ 1, seed ≥ 0, epoch ≥ 0")
    return torch.from_numpy(np.random.default_rng([seed, epoch]).permutation(n))


def times_drawn(weights: Tensor, offset: float) -> Tensor:
    """Return how often each of n samples comes in an epoch of n draws, (n,) int64, by systematic resampling.

    A sample of weight w comes n·w/Σw times on average over offsets, rounded down or up (Kitagawa 1996, appendix). To
    draw in proportion to weights and leave the loss alone has the same mean gradient as to multiply losses by them,
    and less noise: of a batch with weights, (Σw)²/Σw² samples count.

    Args:
        weights: (n,), at least 0 and not all 0.
        offset: in [0, 1).
    """
    ends = weights.double().cumsum(0)
    ends = (ends * (len(weights) / ends[-1]) + offset).floor()
    ends[-1] = len(weights)  # whatever was rounded
    return ends.diff(prepend=ends.new_zeros(1)).long()


def _pieces(step: int, batch_size: int, n: int) -> Iterator[tuple[int, int, int]]:
    """(epoch, start, stop) of the pieces of a step's places in the endless sequence of epochs of `n` samples."""
    require(step >= 0, f"step {step}", "steps from 0 on", error=IndexError)
    place, end = step * batch_size, (step + 1) * batch_size
    while place < end:
        epoch, start = divmod(place, n)
        stop = min(n, start + end - place)
        yield epoch, start, stop
        place += stop - start


@final
class BatchSampler:
    """The samples of each step, in an order drawn anew for every epoch.

    Args:
        n: how many samples there are.
        batch_size: of all processes together.
        seed: of the order.
        device: where the indices are wanted; an epoch's go there at once.
        weights: (n,) how often each sample comes, in proportion, see `times_drawn`; None draws each once an epoch.
    """

    def __init__(
        self,
        n: int,
        batch_size: int,
        seed: int,
        device: str | torch.device = "cpu",
        weights: Tensor | None = None,
    ) -> None:
        holds = n >= 1 and batch_size >= 1 and seed >= 0
        require(holds, f"n={n}, {batch_size=}, {seed=}", "n ≥ 1, batch_size ≥ 1, seed ≥ 0")
        if weights is not None:
            given = f"weights of shape {tuple(weights.shape)}"
            require(weights.shape == (n,), given, f"({n},), one per sample")
        self.n = n
        self.batch_size = batch_size
        self.seed = seed
        self.device = device
        self.weights = weights
        self._epoch = -1
        self._order = torch.empty(0, dtype=torch.int64)

    def __getitem__(self, step: int) -> Tensor:
        """Return the samples of the step, shape (batch_size,), int64."""
        pieces = _pieces(step, self.batch_size, self.n)
        return torch.cat([self._permutation(epoch)[start:stop] for epoch, start, stop in pieces])

    def _permutation(self, epoch: int) -> Tensor:
        # A cache, not a state: drawing the order of a large data set anew in every step would cost.
        if epoch != self._epoch:
            order = epoch_permutation(self.n, self.seed, epoch)
            if self.weights is not None:
                offset = np.random.default_rng([self.seed, epoch, _OFFSET]).random()
                drawn = torch.arange(self.n).repeat_interleave(times_drawn(self.weights.cpu(), offset))
                order = drawn[order]
            self._epoch, self._order = epoch, order.to(self.device)
        return self._order


@final
class PoolSampler:
    """The samples of each step, in an order for data that is read in runs.

    An epoch permutes the runs, deals them into pools of equally many, and permutes the samples of each pool. A pool
    is known by its key, (epoch, its number in the epoch).

    Args:
        runs: (R + 1,) int64: run i holds the samples runs[i] to runs[i + 1] - 1, at least one.
        batch_size: of all processes together.
        seed: of the order.
        pool: how many runs make a pool, at most.
    """

    def __init__(self, runs: np.ndarray, batch_size: int, seed: int, pool: int) -> None:
        holds = batch_size >= 1 and seed >= 0 and pool >= 1
        require(holds, f"{batch_size=}, {seed=}, {pool=}", "batch_size ≥ 1, seed ≥ 0, pool ≥ 1")
        self.batch_size, self.seed, self.pool = batch_size, seed, pool
        self._runs = runs
        self._n = int(runs[-1])
        # Caches, not states: a step needs the pool of the step before, or the one after it.
        self._epoch = functools.lru_cache(2)(self._draw_epoch)
        self._pool = functools.lru_cache(2)(self._draw_pool)

    def __getitem__(self, step: int) -> Tensor:
        """Return the samples of the step, shape (batch_size,), int64, on the CPU."""
        return torch.cat([samples for _, samples in self.parts(step)])

    def parts(self, step: int) -> list[tuple[tuple[int, int], Tensor]]:
        """Return the samples of the step in pieces, with the pool of each."""
        parts = []
        for epoch, start, stop in _pieces(step, self.batch_size, self._n):
            while start < stop:
                key = (epoch, int(np.searchsorted(self._epoch(epoch)[1], start, side="right")))
                first, samples = self.samples(key)
                inside = start - (first - epoch * self._n)
                parts.append((key, samples[inside : inside + stop - start]))
                start += len(parts[-1][1])
        return parts

    def samples(self, key: tuple[int, int]) -> tuple[int, Tensor]:
        """Return the place of a pool's first sample in the endless sequence, and all its samples in their order."""
        return self._pool(*key)

    def after(self, key: tuple[int, int]) -> tuple[int, int]:
        """Return the key of the pool that follows."""
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
