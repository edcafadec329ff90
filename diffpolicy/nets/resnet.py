"""ResNet-18 as an image encoder, as in diffusion policy (Chi et al. 2023, section 3.2).

The network is the published one (He et al. 2016, table 1) but for three changes: group norms in place of batch norms,
whose running statistics do not fit averaged weights; a spatial softmax in place of the global average pooling, so
that positions are kept; no last layer. Weights have torchvision's names (conv1, bn1, layer1.0.conv1, …,
layer2.0.downsample.0), so that published ones can be loaded; a group norm has the name of the batch norm it replaces.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor, nn
from torch.nn import functional

from diffpolicy.nets.vision import CameraEncoder, SpatialSoftmax
from diffpolicy.util.errors import require

_CHANNELS_PER_GROUP = 16  # of the group norms (Chi et al. 2023)


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(channels // _CHANNELS_PER_GROUP, channels)


@final
class BasicBlock(nn.Module):
    """Two convolutions of kernel 3 beside a shortcut, (N, C_in, H, W) -> (N, C_out, H/stride, W/stride).

    The shortcut is a convolution of kernel 1 where the sizes differ (He et al. 2016, figure 5 and option B).
    """

    def __init__(self, c_in: int, c_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(c_in, c_out, 3, stride, padding=1, bias=False)
        self.bn1 = _norm(c_out)
        self.conv2 = nn.Conv2d(c_out, c_out, 3, padding=1, bias=False)
        self.bn2 = _norm(c_out)
        same = stride == 1 and c_in == c_out
        self.downsample = None if same else nn.Sequential(nn.Conv2d(c_in, c_out, 1, stride, bias=False), _norm(c_out))

    def forward(self, x: Tensor) -> Tensor:
        y = functional.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return functional.relu(y + (x if self.downsample is None else self.downsample(x)))


@final
class ResNet18(nn.Module):
    """(N, C, H, W) -> (N, 8·width, H/32, W/32), the halves rounded up.

    Args:
        channels: C.
        width: channels of the first of four stages, each of which has twice as many as the one before; 64 in the
            published network.

    Raises:
        ValueError: a width that is no multiple of 16, the channels per group of the norms.
    """

    def __init__(self, channels: int = 3, width: int = 64) -> None:
        super().__init__()
        valid = width >= 1 and width % _CHANNELS_PER_GROUP == 0
        require(valid, f"width={width}", f"a multiple of {_CHANNELS_PER_GROUP}", "take 64 for the published network")
        self.conv1 = nn.Conv2d(channels, width, 7, stride=2, padding=3, bias=False)
        self.bn1 = _norm(width)
        self.layer1 = nn.Sequential(BasicBlock(width, width, 1), BasicBlock(width, width, 1))
        self.layer2 = nn.Sequential(BasicBlock(width, 2 * width, 2), BasicBlock(2 * width, 2 * width, 1))
        self.layer3 = nn.Sequential(BasicBlock(2 * width, 4 * width, 2), BasicBlock(4 * width, 4 * width, 1))
        self.layer4 = nn.Sequential(BasicBlock(4 * width, 8 * width, 2), BasicBlock(8 * width, 8 * width, 1))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):  # He et al. 2015, equation 14
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.bn1(self.conv1(x)))
        x = functional.max_pool2d(x, 3, stride=2, padding=1)
        return self.layer4(self.layer3(self.layer2(self.layer1(x))))


@final
class ResNetEncoder(CameraEncoder):
    """ResNet-18 and a spatial softmax, F = 2·keypoints.

    Robomimic's encoder, which diffusion policy uses, has 32 keypoints too, but a temperature that stays 1, which is
    learned here, and one more linear layer, from the 64 coordinates to 64 features. That is not needed here: the
    policy's network starts with a linear map of its condition, behind a Mish that is one to one on [-1, 1].

    Args:
        shape: (H, W, C) of an image.
        crop: px of the shorter side that the network sees, see `CameraEncoder`.
        scale: px that the shorter side is scaled to before; None leaves the camera's own.
        width: channels of the first stage, see `ResNet18`.
        keypoints: K of the spatial softmax.
        depth: (nearest, farthest) of depth images, see `CameraEncoder`.
    """

    def __init__(
        self,
        shape: Sequence[int],
        crop: int = 84,
        scale: int | None = None,
        width: int = 64,
        keypoints: int = 32,
        depth: Sequence[float] | None = None,
    ) -> None:
        super().__init__(shape, crop, scale, 32, depth)
        self.features = 2 * keypoints
        self.trunk = ResNet18(self.shape[2], width)
        self.pool = SpatialSoftmax(8 * width, keypoints)
        self.to(memory_format=torch.channels_last)  # the layout in which images arrive

    def encode(self, pixels: Tensor) -> Tensor:
        return self.pool(self.trunk(pixels))
