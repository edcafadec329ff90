"""Training windows whose images stay on disk."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from torch import Tensor

from diffpolicy.datasets.buffer import ReplayBuffer
from diffpolicy.datasets.frames import FrameSource, never
from diffpolicy.datasets.window_index import WindowIndex
from diffpolicy.datasets.windows import WindowDataset
from diffpolicy.util.errors import require

_NUMBERS = ("obs", "action", "weight")  # what a batch holds beside its images


@final
class ImageWindows:
    """All windows of a recording, with the images of their observed frames left on disk.

    A context manager, since the recording stays open until `close`.

    Args:
        buffer: the vectors of the recording, or of some of its episodes in their order (`ReplayBuffer.subset`).
        frames: the images of the recording, which are closed with the windows.
        obs_keys: the arrays of `buffer` that make up the vector observation, see `WindowDataset`; may be empty.
        action_key: the array of actions.
        horizon: T_p, frames.
        obs_horizon: T_o, frames.
        action_horizon: T_a, frames.
        weights: (N,) of the frames, see `WindowDataset`.
        told: arrays that say what to do, see `WindowDataset`.

    Raises:
        KeyError: a key that the buffer lacks.
        ValueError: horizons or arrays that make no windows, or a buffer whose episodes are not the recording's.
    """

    def __init__(
        self,
        buffer: ReplayBuffer,
        frames: FrameSource,
        obs_keys: Sequence[str],
        action_key: str,
        horizon: int,
        obs_horizon: int,
        action_horizon: int,
        weights: Tensor | None = None,
        told: Sequence[str] = (),
    ) -> None:
        self.frames = frames
        clash = not frames.shapes or any(name in (*_NUMBERS, *told) for name in frames.shapes)
        says = f"cameras {list(frames.shapes)}"
        require(not clash, says, f"at least one, and none called {' or '.join(_NUMBERS)}, as a batch's numbers are")
        horizons = (horizon, obs_horizon, action_horizon)
        self._numbers = WindowDataset(buffer, obs_keys, action_key, *horizons, weights=weights, told=told)
        firsts = _first_frames(buffer, frames)
        self._index = WindowIndex(firsts, buffer.episode_lengths, self._numbers.window_counts, obs_horizon)

    def __enter__(self) -> ImageWindows:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the recording."""
        self.frames.close()

    def __len__(self) -> int:
        return len(self._index)

    @property
    def obs_horizon(self) -> int:
        """T_o, frames."""
        return self._numbers.obs_horizon

    @property
    def obs_dim(self) -> int:
        """D, the numbers in one observation beside its images."""
        return self._numbers.obs_dim

    @property
    def action_dim(self) -> int:
        """A, the numbers in one action."""
        return self._numbers.action_dim

    def all_obs(self) -> Tensor:
        """Return every frame's vector observation once, (N, D) float32, to fit a normalizer on."""
        return self._numbers.all_obs()

    def all_actions(self) -> Tensor:
        """Return every frame's action once, (N, A) float32, to fit a normalizer on."""
        return self._numbers.all_actions()

    def numbers(self, indices: Tensor) -> dict[str, Tensor]:
        """Return a batch without the images."""
        return self._numbers.batch(indices)

    def batch(self, indices: Tensor) -> dict[str, Tensor]:
        """Return windows, their images read from disk now.

        Args:
            indices: (B,) int64, 0 to len - 1.

        Returns:
            `obs` (B, T_o, D) and `action` (B, T_p, A), float32, in the units of the data, and under the name of each
            camera its images (B, T_o, H, W, C), uint8, or uint16 for depth.

        Raises:
            ValueError: damaged images; says where.
        """
        shown = self.observed(indices)
        return {**self.numbers(indices), **self.read(np.unique(shown.numpy())).gather(shown)}

    def observed(self, indices: Tensor) -> Tensor:
        """Return the numbers of the frames that windows observe, (B,) -> (B, T_o) int64."""
        return self._index.frames(indices, self.obs_horizon)

    def runs(self, frames: int) -> np.ndarray:
        """Return the windows' division into runs that are read together.

        Args:
            frames: of a run, at least; rounded up to whole units of the recording.

        Returns:
            (R + 1,) int64: windows runs[i] to runs[i + 1] - 1 start in run i.
        """
        run = -(-frames // self.frames.unit) * self.frames.unit
        first = self._index.frames(torch.arange(len(self)), 1)[:, 0].numpy()
        return np.append(np.flatnonzero(np.diff(first // run, prepend=-1)), len(self))

    def read(self, frames: np.ndarray, cancelled: Callable[[], bool] = never) -> Frames:
        """Return the images of the given frames in memory, see `FrameSource.read`."""
        images = self.frames.read(frames, cancelled)
        return Frames(frames, {name: torch.from_numpy(values) for name, values in images.items()})


@final
@dataclass(frozen=True)
class Frames:
    """Images in memory.

    Args:
        numbers: (n,) int64, the frames' numbers, increasing.
        images: camera -> (n, H, W, C), uint8, or uint16 for depth.
    """

    numbers: np.ndarray
    images: dict[str, Tensor]

    def gather(self, wanted: Tensor) -> dict[str, Tensor]:
        """Return copies of the frames numbered `wanted`, (B, T_o) -> (B, T_o, H, W, C); all of them are here."""
        places = np.searchsorted(self.numbers, wanted.numpy())
        # numpy copies whole frames, torch bytes, which takes twice as long.
        return {key: torch.from_numpy(np.take(images.numpy(), places, axis=0)) for key, images in self.images.items()}


def _first_frames(buffer: ReplayBuffer, frames: FrameSource) -> np.ndarray:
    """(E,) the frame at which each of the buffer's episodes starts in the recording."""
    ends = frames.episode_ends
    lengths, numbers = np.diff(ends, prepend=0), buffer.episode_numbers
    in_order = numbers[-1] < len(ends) and bool((np.diff(numbers) > 0).all())
    fits = in_order and np.array_equal(lengths[numbers], buffer.episode_lengths)
    says = (
        f"{buffer!r} does not hold episodes of {frames.name} ({len(ends)} episodes, {ends[-1]} steps) in their order"
    )
    require(fits, says, cure="choose episodes with ReplayBuffer.subset, in increasing order")
    return (ends - lengths)[numbers]
