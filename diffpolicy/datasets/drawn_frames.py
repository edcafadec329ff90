"""Images that are drawn from the recorded states when they are read."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import CancelledError
from typing import final

import numpy as np

from diffpolicy.datasets.frames import FrameSource, never
from diffpolicy.util.errors import require

_PIECE = 64  # frames drawn between two questions whether to go on


@final
class DrawnFrames(FrameSource):
    """Images of one camera, drawn of each frame's state: a privilege of simulation.

    They follow whatever was done to the states, where recorded images show what was there.

    Args:
        name: what messages call the recording.
        camera: the camera's name.
        draw: states (n, S) -> images (n, H, W, C) uint8, each of its state alone.
        states: (N, S), of all frames.
        episode_ends: (E,) int64, the exclusive end of each episode.

    Raises:
        ValueError: what `draw` returns are no images.
    """

    def __init__(
        self,
        name: str,
        camera: str,
        draw: Callable[[np.ndarray], np.ndarray],
        states: np.ndarray,
        episode_ends: np.ndarray,
    ) -> None:
        self._name, self._camera, self._draw = name, camera, draw
        self._states, self._ends = states, episode_ends.astype(np.int64)
        first = draw(states[:1])
        fits = first.ndim == 4 and len(first) == 1 and first.dtype == np.uint8
        require(fits, f"{name}: a drawing of shape {first.shape} and {first.dtype}", "(1, H, W, C) and uint8")
        self._shape = (first.shape[1], first.shape[2], first.shape[3])

    @property
    def name(self) -> str:
        return self._name

    @property
    def shapes(self) -> dict[str, tuple[int, int, int]]:
        return {self._camera: self._shape}

    @property
    def episode_ends(self) -> np.ndarray:
        return self._ends.copy()

    @property
    def unit(self) -> int:
        return 1

    @property
    def decoding_bytes(self) -> int:
        return _PIECE * self.frame_bytes

    def read(self, frames: np.ndarray, cancelled: Callable[[], bool] = never) -> dict[str, np.ndarray]:
        images = np.empty((len(frames), *self._shape), np.uint8)
        for first in range(0, len(frames), _PIECE):
            if cancelled():
                raise CancelledError
            images[first : first + _PIECE] = self._draw(self._states[frames[first : first + _PIECE]])
        return {self._camera: images}

    def close(self) -> None:
        """Do nothing: no file is open."""
