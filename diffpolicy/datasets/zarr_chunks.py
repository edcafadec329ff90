"""Which files the chunks of a zarr array lie in, which of them may be missing, and how they are packed."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, final

import numcodecs.registry
import numpy as np
import zarr

from diffpolicy.util.optional import optional

AGAIN = "download or copy the data set again"
"""The cure of a damaged file."""

CHUNK_BYTES = 2**20
"""What is decoded together; a frame if that is larger."""

FILE_BYTES = 8 * 2**20
"""What lies in one file of large frames, of which a chunk holds few: a file a frame is slow to write and to copy."""

_FEW = 4  # frames in a chunk


@final
@dataclass(frozen=True)
class Layout:
    """How many frames of an array lie together.

    Args:
        chunk: frames that are compressed together.
        file: frames in one file, a multiple of `chunk`.
    """

    chunk: int
    file: int

    @classmethod
    def of(cls, frame_bytes: int, most: int) -> Layout:
        """Return the layout for frames of a size.

        Args:
            frame_bytes: of one frame.
            most: frames in a file at most.
        """
        frame_bytes, most = max(1, frame_bytes), max(1, most)
        chunk = min(most, max(1, CHUNK_BYTES // frame_bytes))
        chunks = 1 if chunk >= _FEW else max(1, FILE_BYTES // (chunk * frame_bytes))
        return cls(chunk, min(most // chunk, chunks) * chunk)


def frames_within(array: zarr.Array, size: int) -> int:
    """Return as many frames as `size` bytes hold, in whole chunks, and at least one chunk."""
    chunk_bytes = array.chunks[0] * math.prod(array.shape[1:]) * array.dtype.itemsize
    return max(1, size // max(1, chunk_bytes)) * array.chunks[0]


def file_shape(array: zarr.Array) -> tuple[int, ...]:
    """Return the shape of what lies in one file."""
    # In a sharded array the files are the shards; each holds a checksummed index of its own chunks.
    return array.shards or array.chunks


def chunk_files(name: str, array: zarr.Array, start: int, stop: int) -> Iterator[tuple[int, str]]:
    """Yield the files that hold frames start to stop - 1, in order, each with its first frame."""
    shape = file_shape(array)
    grid = [-(-n // c) for n, c in zip(array.shape, shape, strict=True)]
    beside = math.prod(grid[1:])  # files of the same frames
    for index in range(start // shape[0] * beside, -(-stop // shape[0]) * beside):
        at = tuple(map(int, np.unravel_index(index, grid)))
        yield at[0] * shape[0], f"{name}/{array.metadata.encode_chunk_key(at)}"


def may_leave_out(metadata: Mapping[str, Any]) -> bool:
    """Return whether an array's own metadata give a chunk that is not there a value.

    zarr format 3 does: "fill_value" is mandatory and defined as what missing chunks hold, and its writers leave out
    chunks of that value by default. Format 2 has a fill value as well, but its writers store all chunks, so that a
    missing one is a lost one. What is written here has a checksum in every chunk and leaves none out: neither is it
    a word where zstd has checksums.
    """
    summed = any(dict(item.get("configuration") or {}).get("checksum") for item in _codecs(metadata))
    return metadata.get("zarr_format") == 3 and metadata.get("fill_value") is not None and not summed


def codec_ids(metadata: Mapping[str, Any]) -> set[str]:
    """Return the codecs in an array's metadata: `id` in format 2, `name` (nested, if sharded) in format 3."""
    return {value for item in _codecs(metadata) for key in ("id", "name") if isinstance(value := item.get(key), str)}


def _codecs(metadata: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """All mappings within the codecs of an array's metadata."""
    waiting: list[Any] = [metadata.get(key) for key in ("compressor", "filters", "codecs")]
    while waiting:
        item = waiting.pop()
        if isinstance(item, list):
            waiting.extend(item)
        elif isinstance(item, dict):
            yield item
            waiting.extend(value for value in item.values() if isinstance(value, list | dict))


def dtype_of(metadata: Mapping[str, Any]) -> np.dtype | None:
    """Return the dtype that an array's metadata name; None for other things than real numbers and booleans."""
    named = metadata.get("data_type", metadata.get("dtype"))
    try:
        found = np.dtype(named) if isinstance(named, str) else None
    except TypeError:
        return None
    return found if found is not None and found.kind in "biuf" else None


def register_image_codecs(codecs: list[str], what: str) -> None:
    """Make the codecs of the `imagecodecs` extra known to zarr, where any of them is needed.

    Args:
        codecs: names of the needed ones.
        what: is compressed with them, for the message.

    Raises:
        ImportError: the extra is not installed.
    """
    needed = [c for c in codecs if c.startswith("imagecodecs_") and c not in numcodecs.registry.codec_registry]
    if not needed:
        return
    says = f"{what} is compressed with {', '.join(needed)}, which"
    optional("imagecodecs.numcodecs", "imagecodecs", says).register_codecs()
