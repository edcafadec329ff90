"""A small convolutional classifier of digits, the judge of generated ones: it trains on a processor in minutes.

It takes no time and no condition, so its contract is its own: net(x) are logits, net.features(x) what they are a
linear function of.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn


class ImageClassifier(nn.Module):
    """Strided convolutions with group norms, and a hidden layer whose F outputs are the features.

    Group norm and not batch norm: what acts is an average of weights, which a model's running statistics do not fit.
    The first convolution has a bias instead: normalised, it would give a pale digit the features of a black one.

    Args:
        shape: (C, H, W) of an image, with values in [-1, 1]; H and W are halved by every convolution.
        classes: how many there are.
        widths: channels of the convolutions, of stride 2 each; the first has kernel 5, the others 3.
        groups: groups of the group norms; divides every width.
        features: F, the size of the hidden layer.

    Raises:
        ValueError: sizes that do not fit together; images of another shape at the call.
    """

    def __init__(
        self,
        shape: Sequence[int] = (1, 32, 32),
        classes: int = 10,
        widths: Sequence[int] = (32, 64, 128),
        groups: int = 8,
        features: int = 64,
    ) -> None:
        super().__init__()
        self.shape = tuple(shape)
        if len(self.shape) != 3 or min(*self.shape, classes, features, groups) < 1:
            raise ValueError(
                "shape must be (channels, height, width) of an image, and all sizes positive; given shape="
                f"{self.shape}, {classes=}, {features=}, {groups=}"
            )
        if not widths or any(width < 1 or width % groups for width in widths):
            raise ValueError(f"need at least one width, each divisible by groups={groups}; given {list(widths)}")
        if any(side % 2 ** len(widths) for side in self.shape[1:]):
            raise ValueError(
                f"{len(widths)} widths halve an image as often, so its sides must be multiples of "
                f"{2 ** len(widths)}; given shape={self.shape}"
            )
        layers: list[nn.Module] = []
        for c_in, c_out in pairwise((self.shape[0], *widths)):
            if not layers:
                layers += [nn.Conv2d(c_in, c_out, 5, stride=2, padding=2), nn.SiLU()]
            else:
                layers += [nn.Conv2d(c_in, c_out, 3, stride=2, padding=1, bias=False)]
                layers += [nn.GroupNorm(groups, c_out), nn.SiLU()]
        left = math.prod(side // 2 ** len(widths) for side in self.shape[1:])
        self.layers = nn.Sequential(*layers, nn.Flatten(), nn.Linear(left * widths[-1], features), nn.SiLU())
        self.head = nn.Linear(features, classes)
        self.layers.to(memory_format=torch.channels_last)  # how convolutions are fastest, on processors and GPUs

    def features(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, F): what the logits are a linear function of."""
        if x.shape[1:] != self.shape:
            raise ValueError(f"images have shape {tuple(x.shape)}; expected (B, {str(self.shape)[1:-1]}) in [-1, 1]")
        return self.layers(x)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> logits (B, classes)."""
        return self.head(self.features(x))
