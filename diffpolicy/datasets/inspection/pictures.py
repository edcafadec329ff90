"""What is measured of a camera: pictures that do not change, black ones, empty ones, and thumbnails."""

from __future__ import annotations

import io
from typing import NamedTuple, final

import numpy as np
from PIL import Image

from diffpolicy.datasets.importers import Array
from diffpolicy.datasets.inspection.numbers import Place

BLACK = 10
"""Gray level up to which a picture is black: a covered camera and lossy codecs leave a few levels of noise."""

_THUMBNAIL = 160  # px, the longer side


class Thumbnail(NamedTuple):
    """A small PNG of one frame."""

    place: Place
    png: bytes


class Frozen(NamedTuple):
    """Pictures of an episode that equal the one before while something moved."""

    episode: int
    first: int
    frozen: int
    moving: int


@final
class Pictures:
    """What is measured of one camera.

    Args:
        name: of its array.
        array: what the recording says of it.
    """

    def __init__(self, name: str, array: Array) -> None:
        self.name, self.array = name, array
        self.count = 0
        self.black: list[Place] = []
        self.flat: list[Place] = []
        self.frozen: list[Frozen] = []
        self.thumbnails: list[Thumbnail] = []
        self.low, self.high = np.inf, -np.inf

    def add(self, images: np.ndarray, episode: int, moved: np.ndarray, shown: bool) -> None:
        """Add the pictures of an episode.

        Args:
            images: (L, H, W, C).
            episode: its number.
            moved: (L - 1,) whether anything but pictures changed from a frame to the next.
            shown: whether to keep thumbnails of its first, middle and last frame.
        """
        self.count += len(images)
        black = BLACK if images.dtype == np.uint8 else 0
        for frame, image in enumerate(images):  # one at a time: a comparison of all would be as large as they are
            low, high = int(image.min()), int(image.max())
            self.low, self.high = min(self.low, low), max(self.high, high)
            if high <= black:
                self.black.append(Place(episode, frame))
            elif _one_color(image):
                self.flat.append(Place(episode, frame))
        same = np.array([np.array_equal(images[i], images[i + 1]) for i in np.flatnonzero(moved)], bool)
        if moved.any():
            first = int(np.flatnonzero(moved)[np.argmax(same)]) + 1 if same.any() else 0
            self.frozen.append(Frozen(episode, first, int(same.sum()), len(same)))
        if shown:
            for frame in sorted({0, len(images) // 2, len(images) - 1}):
                self.thumbnails.append(Thumbnail(Place(episode, frame), _png(images[frame])))


def _one_color(image: np.ndarray) -> bool:
    color = image[0, 0]
    return bool((image[0] == color).all() and (image == color).all())


def _png(image: np.ndarray) -> bytes:
    """A small PNG of an image (H, W, C): three channels in color, the first one of others in gray."""
    shown = image[..., :3] if image.shape[2] >= 3 else image[..., 0]
    if shown.dtype != np.uint8:
        low, high = int(shown.min()), int(shown.max())
        shown = ((shown.astype(np.float32) - low) * (255 / max(high - low, 1))).astype(np.uint8)
    picture = Image.fromarray(np.ascontiguousarray(shown))
    picture.thumbnail((_THUMBNAIL, _THUMBNAIL))
    stream = io.BytesIO()
    picture.save(stream, "png")
    return stream.getvalue()
