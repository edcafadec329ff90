"""A small convolutional classifier of digits, the judge of generated ones: it trains on a CPU in minutes.

It takes no time and no condition: net(x) are logits, net.features(x) the features that they are linear in.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from diffpolicy.util.errors import explain, require


class ImageClassifier(nn.Module):
    """Strided convolutions with group norms, and a hidden layer whose F outputs are the features.

    Group norm and not batch norm: the network that is used has averaged weights, which running statistics do not fit.
    The first convolution has a bias instead: normalized, it would give a pale digit the features of a black one.

    Args:
        shape: (C, H, W) of an image with values in [-1, 1]; every convolution halves H and W.
        classes: number of classes.
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
        sizes = f"shape={self.shape}, {classes=}, {features=}, {groups=}"
        positive = len(self.shape) == 3 and min(*self.shape, classes, features, groups) >= 1
        require(positive, sizes, "the (channels, height, width) of an image, and positive sizes")
        divided = widths and all(width >= 1 and width % groups == 0 for width in widths)
        require(divided, f"widths={list(widths)}", f"at least one, each a multiple of groups={groups}")
        multiple = 2 ** len(widths)
        halved = all(side % multiple == 0 for side in self.shape[1:])
        require(halved, f"shape={self.shape}", f"sides that are multiples of {multiple}, for {len(widths)} widths")
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
        self.layers.to(memory_format=torch.channels_last)  # the fastest layout, on CPUs and GPUs

    def features(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, F), the features that the logits are linear in."""
        if x.shape[1:] != self.shape:
            expected = f"(B, {str(self.shape)[1:-1]}) in [-1, 1]"
            raise ValueError(explain(f"images have shape {tuple(x.shape)}", expected))
        return self.layers(x.to(self.head.weight.dtype))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> logits (B, classes)."""
        return self.head(self.features(x))
