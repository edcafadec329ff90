"""Films of MNIST's digits that move, each with a text that says what it shows: "a slow three moving left"."""

from __future__ import annotations

from typing import ClassVar, final

import numpy as np
import torch
from torch.nn import functional as F

from diffpolicy.datasets.images import LabeledImages
from diffpolicy.datasets.sources.colored_digits import DIGITS
from diffpolicy.datasets.sources.mnist import SIDE, SPLITS, load_mnist
from diffpolicy.datasets.told_images import ToldImages
from diffpolicy.util.errors import require

FRAMES, SMALL = 8, 18  # of a film; side of a digit, px
FILMS = {"train": 20_000, "test": 4_000}  # of the first digits of each
DIRECTIONS = {"left": (0, -1), "right": (0, 1), "up": (-1, 0), "down": (1, 0)}
"""Name -> steps down and to the right."""
SPEEDS = {"slow": 1, "fast": 2}
"""Name -> px per frame."""
TEMPLATES = ("a {speed} {digit} moving {direction}", "a {digit} moving {direction} {speed}")


@final
class MovingDigits(ToldImages):
    """Digits, directions and speeds in words."""

    summary: ClassVar[str] = "films of MNIST's digits moving, told by words; made of mnist"
    shape = (FRAMES, 1, SIDE, SIDE)
    words: ClassVar[dict[str, tuple[str, ...]]] = {
        "speed": tuple(SPEEDS),
        "direction": tuple(DIRECTIONS),
        "digit": DIGITS,
    }
    templates = TEMPLATES

    def images(self, split: str) -> LabeledImages:
        """Return the films of "train" or "test", whose labels are the numbers of their texts."""
        require(self.dataset.path is None, f"dataset.path={self.dataset.path}", "none: it is made of mnist/")
        digits, count = load_mnist(split, self.data_root), FILMS[split]
        return moving(LabeledImages(digits.levels[:count], digits.labels[:count]), list(SPLITS).index(split))


def moving(digits: LabeledImages, seed: int) -> LabeledImages:
    """Return films of digits, with a direction, a speed and a text for each, drawn by the seed.

    Args:
        digits: (N, 1, H, W), white on black.
        seed: of what is drawn.
    """
    draw, count, free = np.random.default_rng(seed), len(digits), SIDE - SMALL
    speed, way = draw.integers(len(SPEEDS), size=count), draw.integers(len(DIRECTIONS), size=count)
    template = draw.integers(len(TEMPLATES), size=count)
    steps = np.array(list(DIRECTIONS.values()))[way] * np.array(list(SPEEDS.values()))[speed][:, None]
    path = steps * (FRAMES - 1)  # of the whole film
    low, high = np.maximum(-path, 0), free - np.maximum(path, 0)  # of its first place, so that all lie within
    start = draw.integers(low, high + 1)
    small = F.interpolate(digits.levels.float(), size=(SMALL, SMALL), mode="bilinear", antialias=True)
    small = small.round().to(torch.uint8)
    levels = torch.zeros((count, FRAMES, 1, SIDE, SIDE), dtype=torch.uint8)
    for number in range(count):
        for frame in range(FRAMES):
            y, x = start[number] + frame * steps[number]
            levels[number, frame, :, y : y + SMALL, x : x + SMALL] = small[number]
    number = torch.from_numpy((speed * len(DIRECTIONS) + way) * len(DIGITS)) + digits.labels
    return LabeledImages(levels, number * len(TEMPLATES) + torch.from_numpy(template))
