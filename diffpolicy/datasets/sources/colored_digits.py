"""MNIST's digits in color and in two strokes, each with a text that says what it shows: "a thick red seven".

They are made of the published images; nothing is downloaded beside these.
"""

from __future__ import annotations

from typing import ClassVar, final

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from diffpolicy.datasets.images import LabeledImages
from diffpolicy.datasets.sources.mnist import SIDE, SPLITS, load_mnist
from diffpolicy.datasets.told_images import ToldImages
from diffpolicy.util.errors import require
from diffpolicy.util.names import check

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
COLORS = {"red": (230, 45, 40), "green": (45, 190, 60), "blue": (50, 90, 235), "yellow": (235, 215, 50)}
"""Name -> red, green and blue; every image has it a little lighter, darker or otherwise."""
STROKES = ("thin", "thick")
TEMPLATES = ("a {stroke} {color} {digit}", "a {digit} {color} and {stroke}", "{color} {digit} with a {stroke} line")

_FINE = 2  # places per pixel at which strokes are changed
_THINNER, _THICKER = 3, 5  # of these places, the side of the square that a stroke loses or gains
_SPREAD = 18.0  # standard deviation of each color's parts, in levels


@final
class ColoredDigits(ToldImages):
    """Digits, colors and strokes in words."""

    summary: ClassVar[str] = "MNIST's digits in four colors and two strokes, told by words; made of mnist"
    shape = (3, SIDE, SIDE)
    words: ClassVar[dict[str, tuple[str, ...]]] = {"stroke": STROKES, "color": tuple(COLORS), "digit": DIGITS}
    templates = TEMPLATES

    def images(self, split: str) -> LabeledImages:
        """Return the images of "train" or "test", whose labels are the numbers of their texts."""
        require(self.dataset.path is None, f"dataset.path={self.dataset.path}", "none: it is made of mnist/")
        return colored(load_mnist(split, self.data_root), seed=list(SPLITS).index(split))


def colored(digits: LabeledImages, seed: int) -> LabeledImages:
    """Return digits with a stroke, a color and a text for each, drawn by the seed.

    Args:
        digits: (N, 1, H, W), white on black.
        seed: of what is drawn.
    """
    draw, count = np.random.default_rng(seed), len(digits)
    stroke, color = draw.integers(len(STROKES), size=count), draw.integers(len(COLORS), size=count)
    template = draw.integers(len(TEMPLATES), size=count)
    paint = np.array(list(COLORS.values()), np.float64)[color] + _SPREAD * draw.standard_normal((count, 3))
    paint = torch.from_numpy(paint.clip(0, 255)).float()
    levels = torch.empty((count, 3, *digits.levels.shape[2:]), dtype=torch.uint8)
    thick = torch.from_numpy(stroke == STROKES.index("thick"))
    for part in torch.arange(count).split(1000):
        gray = digits.levels[part].float() / 255
        shown = torch.where(thick[part, None, None, None], with_stroke(gray, "thick"), with_stroke(gray, "thin"))
        levels[part] = (shown * paint[part, :, None, None]).round().to(torch.uint8)
    number = (stroke * len(COLORS) + color) * len(DIGITS) + digits.labels.numpy()
    return LabeledImages(levels, torch.from_numpy(number * len(TEMPLATES) + template))


def with_stroke(gray: Tensor, stroke: str) -> Tensor:
    """Return digits (B, 1, H, W) in [0, 1] with a thinner or a thicker line.

    Args:
        gray: white on black.
        stroke: one of `STROKES`.
    """
    check("stroke", stroke, STROKES)
    fine = F.interpolate(gray, scale_factor=_FINE, mode="bilinear")
    if stroke == "thick":
        changed = F.max_pool2d(fine, _THICKER, stride=1, padding=_THICKER // 2)
    else:
        changed = -F.max_pool2d(-fine, _THINNER, stride=1, padding=_THINNER // 2)
    return F.avg_pool2d(changed, _FINE)
