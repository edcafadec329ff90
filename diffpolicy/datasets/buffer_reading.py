"""From an opened data set to the arrays of a replay buffer."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from diffpolicy.datasets.checks import (
    DEPTH,
    IMAGE_NDIM,
    as_images,
    check_camera,
    check_length,
    checked_ends,
    is_depth,
    is_picture,
)
from diffpolicy.datasets.zarr_layout import ENDS, ZarrArchive
from diffpolicy.util.errors import require
from diffpolicy.util.names import check


def read_arrays(archive: ZarrArchive, keys: Sequence[str] | None) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Return arrays by name, and the exclusive ends of the episodes; raises as `ReplayBuffer.open`.

    Args:
        archive: the data set.
        keys: the arrays to read; None reads all but the images.
    """
    known = archive.names()
    for key in keys or ():
        check("key", key, known, KeyError)
    ends = checked_ends(archive.read(ENDS))  # before the data, since reading images takes a while
    shapes = {name: archive.shape(f"data/{name}") for name in (known if keys is None else keys)}
    if keys is None:
        shapes = {name: shape for name, shape in shapes.items() if not _shows(archive, name, shape)}
    require(shapes, "nothing to read but images", f"keys that name some, of {known}")
    return {name: _read(archive, name, shape, ends) for name, shape in shapes.items()}, ends


def _read(archive: ZarrArchive, name: str, shape: tuple[int, ...], ends: np.ndarray) -> np.ndarray:
    # A recording that was cut off may hold frames of an episode that does not count yet.
    counted = min(shape[0], int(ends[-1])) if shape and archive.is_recording() else None
    check_length(name, (counted, *shape[1:]) if counted else shape, ends)
    if len(shape) != IMAGE_NDIM:
        return archive.read(f"data/{name}")[:counted]
    dtype = archive.array(f"data/{name}").dtype
    check_camera(name, shape, dtype)
    images, done = np.empty(shape, DEPTH if is_depth(shape, dtype) else np.uint8), 0
    for slab in archive.slabs(f"data/{name}"):
        images[done : done + len(slab)] = as_images(slab, name, done)
        done += len(slab)
    return images[:counted]


def _shows(archive: ZarrArchive, name: str, shape: tuple[int, ...]) -> bool:
    """Whether an array holds pictures, with or without an axis of channels."""
    return len(shape) == IMAGE_NDIM or is_picture(shape, archive.dtype(f"data/{name}"))
