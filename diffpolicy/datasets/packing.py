"""The chunk files of arrays as `zarr_writing` makes them, packed and unpacked without zarr's buffers in between.

zarr reads and writes the same files (a test compares both), and takes five times as long for camera frames.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from typing import BinaryIO, final

import google_crc32c
import numpy as np
import zarr
from numcodecs.zstd import compress, decompress
from zarr.codecs import BytesCodec, Endian, ShardingCodec, ZstdCodec

from diffpolicy.datasets.zarr_chunks import AGAIN, Layout, chunk_files, file_shape
from diffpolicy.util.errors import explain, require

_ENTRY, _SUM = 16, 4  # bytes of a chunk's offset and length in a shard's index, and of the index's checksum
_THREADS = 2
_ABSENT = 2**64 - 1  # as offset and length: the chunk holds the fill value


@final
@dataclass(frozen=True)
class Packing:
    """How the frames of an array become files, and files frames.

    Args:
        layout: how many frames lie together.
        shape: of a frame.
        dtype: of the numbers, little-endian.
        level: of zstd.
    """

    layout: Layout
    shape: tuple[int, ...]
    dtype: np.dtype
    level: int

    @classmethod
    def of(cls, array: zarr.Array) -> Packing | None:
        """Return the packing of an array, or None if it is packed in another way than `zarr_writing` does."""
        codecs = array.metadata.codecs if array.metadata.zarr_format == 3 else ()
        if len(codecs) == 1 and isinstance(shard := codecs[0], ShardingCodec):
            codecs = (
                shard.codecs if shard == ShardingCodec(chunk_shape=shard.chunk_shape, codecs=shard.codecs) else ()
            )
        match codecs:
            case [BytesCodec(endian=order), ZstdCodec(checksum=True, level=level)] if order in (None, Endian.little):
                whole = array.chunks[1:] == array.shape[1:] == file_shape(array)[1:]
                layout, dtype = Layout(array.chunks[0], file_shape(array)[0]), array.dtype.newbyteorder("<")
                return cls(layout, array.shape[1:], dtype, level) if whole and array.fill_value == 0 else None
        return None

    def pack(self, frames: np.ndarray) -> bytes:
        """Return the file of up to `layout.file` frames (n, ...); what is missing of its last chunk is zero."""
        size = self.layout.chunk
        chunks = [self._compressed(frames[first : first + size]) for first in range(0, len(frames), size)]
        if self.layout.file == size:
            return chunks[0]
        index = np.full((self.layout.file // size, 2), _ABSENT, "<u8")
        index[: len(chunks), 1] = [len(chunk) for chunk in chunks]
        index[: len(chunks), 0] = np.cumsum([0, *index[: len(chunks) - 1, 1]])
        entries = index.tobytes()
        return b"".join([*chunks, entries, google_crc32c.value(entries).to_bytes(_SUM, "little")])

    def _compressed(self, frames: np.ndarray) -> bytes:
        if len(frames) < self.layout.chunk:
            missing = np.zeros((self.layout.chunk - len(frames), *self.shape), self.dtype)
            frames = np.concatenate([frames, missing])
        return compress(np.ascontiguousarray(frames, self.dtype), self.level, True)

    def unpack(
        self,
        folder: str | os.PathLike[str],
        name: str,
        array: zarr.Array,
        wanted: np.ndarray,
        out: np.ndarray,
        cancelled: Callable[[], bool] | None = None,
    ) -> None:
        """Put frames of an array into `out`.

        Args:
            folder: of the data set.
            name: of the array.
            array: whose packing this is.
            wanted: (n,) numbers of frames, increasing.
            out: (n, ...) of the array's dtype.
            cancelled: asked before every chunk; once it returns True, `CancelledError` is raised. None goes on.

        Raises:
            ValueError: a file that is missing or damaged, with its name and its frames.
        """

        def read(group: tuple[int, slice]) -> None:
            file, part = group
            ((_, path),) = chunk_files(name, array, file * self.layout.file, file * self.layout.file + 1)
            try:
                self._unpack_file(os.path.join(folder, path), file, wanted[part], out[part], cancelled)
            except (ValueError, RuntimeError, OSError) as error:  # numcodecs raises the second
                says = (
                    f"{path} is damaged: frames {wanted[part][0]} to {wanted[part][-1]} cannot be decoded ({error})"
                )
                raise ValueError(explain(says, cure=AGAIN)) from error

        with ThreadPoolExecutor(_THREADS, "unpack") as pool:
            for _ in pool.map(read, _groups(wanted // self.layout.file)):
                pass

    def _unpack_file(
        self, path: str, file: int, wanted: np.ndarray, out: np.ndarray, cancelled: Callable[[], bool] | None
    ) -> None:
        size = self.layout.chunk
        with open(path, "rb") as stream:
            entries = self._entries(stream)
            for chunk, mine in _groups(wanted // size):
                if cancelled is not None and cancelled():
                    raise CancelledError
                content = self._content(stream, *entries[chunk - file * len(entries)])
                if size == 1 and _size(content) == out[mine].nbytes:  # straight to where it belongs
                    decompress(content, out[mine])
                    continue
                frames = np.frombuffer(decompress(content), self.dtype).reshape(size, *self.shape)
                np.take(frames, wanted[mine] - chunk * size, axis=0, out=out[mine], mode="clip")

    def _entries(self, stream: BinaryIO) -> list[tuple[int, int]]:
        """The offset and length of each chunk in a file."""
        size, count = os.fstat(stream.fileno()).st_size, self.layout.file // self.layout.chunk
        if count == 1:
            return [(0, size)]
        stream.seek(max(0, size - count * _ENTRY - _SUM))
        index, stated = stream.read(count * _ENTRY), stream.read(_SUM)
        right = len(stated) == _SUM and google_crc32c.value(index) == int.from_bytes(stated, "little")
        require(right, "the index of its chunks is not what its checksum says")
        return [(int(at), int(length)) for at, length in np.frombuffer(index, "<u8").reshape(-1, 2)]

    def _content(self, stream: BinaryIO, offset: int, length: int) -> bytes:
        """A chunk, compressed."""
        if (offset, length) == (_ABSENT, _ABSENT):
            return self._compressed(np.zeros((0, *self.shape), self.dtype))
        stream.seek(offset)
        return stream.read(length)


def _size(content: bytes) -> int:
    """The size of what zstd compressed, from the header of its frame (RFC 8878, 3.1.1.1); -1 if it is not there."""
    kind = content[4] if len(content) > 4 else 0
    alone, length = kind >> 5 & 1, (kind >> 5 & 1, 2, 4, 8)[kind >> 6]
    start = 6 - alone + (0, 1, 2, 4)[kind & 3]
    return int.from_bytes(content[start : start + length], "little") + (256 if length == 2 else 0) if length else -1


def _groups(numbers: np.ndarray) -> Iterator[tuple[int, slice]]:
    """Each of the numbers, which increase, once, with the places where it stands."""
    places = np.append(np.flatnonzero(np.diff(numbers, prepend=-1)), len(numbers)).tolist()
    for first, last in pairwise(places):
        yield int(numbers[first]), slice(first, last)
