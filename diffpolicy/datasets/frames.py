"""Images of a recording that stay on disk, read by the number of their frame."""

from __future__ import annotations

import math
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import CancelledError
from contextlib import ExitStack
from typing import final

import numpy as np
import zarr

from diffpolicy.datasets.checks import DEPTH, IMAGE_NDIM, as_images, check_camera, check_length, is_depth
from diffpolicy.datasets.packing import Packing
from diffpolicy.datasets.zarr_chunks import frames_within
from diffpolicy.datasets.zarr_layout import ENDS, ZarrArchive
from diffpolicy.util.errors import located, require
from diffpolicy.util.names import check

_PIECE_BYTES = 8 * 2**20  # what is decoded at a time; a chunk if that is larger


def never() -> bool:
    """Return False: nothing is cancelled."""
    return False


class FrameSource(ABC):
    """The images of one recording; a context manager, since its files stay open until `close`.

    A subclass reads one kind of storage. It is used by one thread at a time.
    """

    @property
    @abstractmethod
    def name(self) -> str:
        """What messages call the recording."""

    @property
    @abstractmethod
    def shapes(self) -> dict[str, tuple[int, int, int]]:
        """(H, W, C) of each camera's images, by its name."""

    @property
    def dtypes(self) -> dict[str, np.dtype]:
        """The dtype of each camera's images, by its name: uint8, or uint16 for depth."""
        return {name: np.dtype(np.uint8) for name in self.shapes}

    @property
    @abstractmethod
    def episode_ends(self) -> np.ndarray:
        """(E,) int64, the exclusive end of each episode of the recording."""

    @property
    @abstractmethod
    def unit(self) -> int:
        """The number of consecutive frames that are decoded together: reading one of them costs all."""

    @property
    @abstractmethod
    def decoding_bytes(self) -> int:
        """What decoding takes in memory beside the frames that come of it, bytes."""

    @abstractmethod
    def read(self, frames: np.ndarray, cancelled: Callable[[], bool] = never) -> dict[str, np.ndarray]:
        """Return the images of the given frames, by camera (n, H, W, C), of its dtype.

        Args:
            frames: (n,) int64 that increase.
            cancelled: asked before every piece; once it returns True, `CancelledError` is raised.

        Raises:
            ValueError: damaged images; the message names the recording, the array, and the file or the frames.
        """

    @abstractmethod
    def close(self) -> None:
        """Close the files; calling it again does nothing."""

    def __enter__(self) -> FrameSource:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def frame_bytes(self) -> int:
        """What the images of one frame take in memory, bytes."""
        return sum(math.prod(shape) * self.dtypes[name].itemsize for name, shape in self.shapes.items())


@final
class ZarrFrames(FrameSource):
    """Images in the arrays of a zarr data set.

    Args:
        path: the recording, see `ReplayBuffer.open`.
        cameras: name of a camera -> array of the recording, images (N, H, W, C): uint8, any dtype that holds whole
            numbers from 0 to 255, such as the float32 of published ones, or depth, uint16 of one channel.

    Raises:
        FileNotFoundError: nothing at `path`.
        KeyError: an array that the recording lacks.
        ValueError: an array that holds no images, or is damaged.
    """

    def __init__(self, path: str | os.PathLike[str], cameras: Mapping[str, str]) -> None:
        self._archive = ZarrArchive(path)
        self._keys = dict(cameras)
        try:
            self._ends = self._archive.read(ENDS).astype(np.int64)
            with located(self._archive.path):
                self._images = {name: self._open(key) for name, key in cameras.items()}
                self._packings = {name: self._packing(name) for name in cameras}
        except BaseException:
            self._archive.close()
            raise

    def _open(self, key: str) -> zarr.Array:
        check("key", key, self._archive.names(), KeyError)
        array = self._archive.array(f"data/{key}")
        counted = min(array.shape[0], int(self._ends[-1])) if self._archive.is_recording() else array.shape[0]
        check_length(key, (counted, *array.shape[1:]), self._ends)
        check_camera(key, array.shape, array.dtype)
        says = f"{key!r} has shape {array.shape}"
        require(array.ndim == IMAGE_NDIM, says, "(frames, height, width, channels)", "name it in observation.vectors")
        return array

    def _packing(self, name: str) -> Packing | None:
        """How a camera's files are unpacked without zarr; None where zarr has to."""
        if self._archive.folder is None or self._images[name].dtype != self.dtypes[name]:
            return None
        return Packing.of(self._images[name])

    @property
    def name(self) -> str:
        return str(self._archive.path)

    @property
    def shapes(self) -> dict[str, tuple[int, int, int]]:
        return {name: array.shape[1:] for name, array in self._images.items()}

    @property
    def dtypes(self) -> dict[str, np.dtype]:
        depth = {name: is_depth(array.shape, array.dtype) for name, array in self._images.items()}
        return {name: DEPTH if deep else np.dtype(np.uint8) for name, deep in depth.items()}

    @property
    def episode_ends(self) -> np.ndarray:
        return self._ends.copy()

    @property
    def unit(self) -> int:
        return max(array.chunks[0] for array in self._images.values())

    @property
    def decoding_bytes(self) -> int:
        arrays = self._images.values()
        pieces = (frames_within(a, _PIECE_BYTES) * math.prod(a.shape[1:]) * a.dtype.itemsize for a in arrays)
        return 2 * max(pieces)  # the chunks of a piece, and the piece

    def read(self, frames: np.ndarray, cancelled: Callable[[], bool] = never) -> dict[str, np.ndarray]:
        with located(self._archive.path):
            return {name: self._read(name, array, frames, cancelled) for name, array in self._images.items()}

    def _read(self, name: str, array: zarr.Array, frames: np.ndarray, cancelled: Callable[[], bool]) -> np.ndarray:
        key, chunk = self._keys[name], array.chunks[0]
        images = np.empty((len(frames), *array.shape[1:]), self.dtypes[name])
        packing, folder = self._packings[name], self._archive.folder
        if packing is not None and folder is not None:
            with ExitStack() as watched:
                for first, last in _pieces(frames // chunk, array.shape[0]):
                    span = int(frames[first]), int(frames[last - 1]) + 1
                    watched.enter_context(self._archive.unchanged(f"data/{key}", array, *span))
                packing.unpack(folder, f"data/{key}", array, frames, images, cancelled)
            return images
        for first, last in _pieces(frames // chunk, frames_within(array, _PIECE_BYTES) // chunk):
            if cancelled():
                raise CancelledError
            start = int(frames[first] // chunk * chunk)
            stop = min(int(frames[last - 1] // chunk + 1) * chunk, array.shape[0])
            piece = as_images(self._archive.frames(f"data/{key}", array, start, stop), key, start)
            np.take(piece, frames[first:last] - start, axis=0, out=images[first:last], mode="clip")
        return images

    def close(self) -> None:
        self._archive.close()


def _pieces(chunks: np.ndarray, longest: int) -> Iterator[tuple[int, int]]:
    """Slices of frames, given the chunk of each, over at most `longest` chunks with none between that holds none."""
    jumps = np.append(np.flatnonzero(np.diff(chunks) > 1) + 1, len(chunks))
    first = 0
    while first < len(chunks):
        jump = jumps[np.searchsorted(jumps, first, side="right")]
        last = min(int(jump), int(np.searchsorted(chunks, chunks[first] + longest)))
        yield first, last
        first = last
