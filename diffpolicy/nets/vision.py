"""From the images of a camera to features: what all encoders share, and a small one that trains on a CPU.

The calling contract of an encoder, uint8 (or uint16 for depth) in and float32 out:

    encoder(images, places=None) -> features         (B, T_o, H, W, C) -> (B, T_o·F), F = encoder.features
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from itertools import pairwise
from typing import final

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional

from diffpolicy.nets.base import Fusable
from diffpolicy.nets.temporal import NormMish, fuse_norms
from diffpolicy.util.errors import explain, require


class SpatialSoftmax(nn.Module):
    """Keypoints: for each of K learned maps the expected position under its softmax (Finn et al. 2016, section 5).

    (N, C, H, W) -> (N, 2·K), x and y of each in [-1, 1], left to right and top to bottom.
    """

    def __init__(self, channels: int, keypoints: int) -> None:
        super().__init__()
        self.maps = nn.Conv2d(channels, keypoints, 1)
        self.log_temperature = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        # In float32, and without matrix products, which autocast rounds: positions finer than a pixel are what this
        # layer is for, and bfloat16 has 8 bits.
        maps = self.maps(x).float() * torch.exp(-self.log_temperature)
        weights = rearrange(maps.flatten(2).softmax(-1), "n k (h w) -> n k h w", h=x.shape[2])
        across = torch.linspace(-1, 1, x.shape[3], device=x.device)
        down = torch.linspace(-1, 1, x.shape[2], device=x.device)
        points = torch.stack([(weights.sum(2) * across).sum(-1), (weights.sum(3) * down).sum(-1)], dim=-1)
        return points.flatten(1)


class ConvBlock2D(nn.Module):
    """Convolution of kernel 3, group norm and Mish: (N, C_in, H, W) -> (N, C_out, H/stride, W/stride)."""

    def __init__(self, c_in: int, c_out: int, groups: int, stride: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(c_in, c_out, 3, stride=stride, padding=1)
        self.norm = NormMish(groups, c_out)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv(x)
        # An image in channels-last memory is a sequence of its pixels.
        flat = self.norm(rearrange(h, "n c h w -> n (h w) c"))
        return rearrange(flat, "n (h w) c -> n c h w", h=h.shape[2])


class ResidualBlock2D(nn.Module):
    """Two convolution blocks and a skip around them: (N, C, H, W) -> (N, C, H, W)."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*(ConvBlock2D(channels, channels, groups, stride=1) for _ in range(2)))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.blocks(x)


class CameraEncoder(ABC, nn.Module):
    """The contract stated at the top of this file: crops and scales images for `encode`, which a subclass defines.

    Each sample is cropped at a place of its own, the same for its T_o frames, so that only what moved moves between
    them: training gives random places, without places the crop is central (Chi et al. 2023: 84 of 96 px). The crop is
    scaled, so that cameras of any resolution cost alike and lose no more than the edge. Pixels are scaled to [-1, 1],
    for pretrained weights too: group norm divides another scale out again, and the mean of ImageNet's pixels is
    within 0.2 of 0. Depth is scaled to [0, 1] by its range, clamped, and then like pixels.

    Args:
        shape: (H, W, C) of an image.
        crop: px of the shorter side that the network sees; of the longer side it sees the same fraction.
        scale: px that the shorter side is scaled to before, at least `crop`; None leaves the camera's own.
        stride: px from one place that the spatial softmax weighs to the next; smaller than the crop.
        depth: (nearest, farthest) of depth images, in their unit; None for other images.

    Raises:
        ValueError: sizes that do not fit together; images of another shape at the call.
        TypeError: images that are not uint8, or of depth not uint16.
    """

    features: int  # F, numbers per image
    trunk: nn.Module  # all but the last layer, the spatial softmax: the part that can be pretrained and frozen

    def __init__(
        self,
        shape: Sequence[int],
        crop: int,
        scale: int | None,
        stride: int,
        depth: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        self.shape = tuple(shape)
        self.depth = None if depth is None else (float(depth[0]), float(depth[1]))
        positive = len(self.shape) == 3 and min(self.shape) >= 1
        require(positive, f"shape={self.shape}", "the (height, width, channels) of an image")
        shorter = min(self.shape[:2])
        whole = shorter if scale is None else scale
        size = f"an image of {self.shape[0]} × {self.shape[1]} px"
        require(1 <= crop <= whole, f"crop={crop}, scale={scale} for {size}", f"1 <= crop <= {whole}")
        require(crop > stride, f"crop={crop} leaves the spatial softmax one place", f"more than {stride} px")
        self.window = tuple(round(side * crop / whole) for side in self.shape[:2])  # cut out of the image
        self.size = tuple(round(side * crop / shorter) for side in self.shape[:2])  # as the network sees it
        require(min(self.window) >= 1, f"crop={crop}, scale={scale}", f"a crop that leaves a pixel of {size}")

    @abstractmethod
    def encode(self, pixels: Tensor) -> Tensor:
        """Return the features of pixels (N, C, *size) in [-1, 1]: (N, F) float32."""

    @final
    def forward(self, images: Tensor, places: Tensor | None = None) -> Tensor:
        """Return the features of images, (B, T_o·F).

        Args:
            images: (B, T_o, H, W, C) uint8, or uint16 for depth.
            places: (B, 2) in [0, 1), where to crop, from the top left to the bottom right; None crops the center.
        """
        wanted = torch.uint8 if self.depth is None else torch.uint16
        if images.dtype != wanted:
            says = (
                "uint8, 0 to 255: they are normalized in here" if self.depth is None else "uint16, depth in its unit"
            )
            raise TypeError(explain(f"images of {images.dtype}", says))
        if images.ndim != 5 or images.shape[2:] != self.shape:
            expected = f"(B, T_o, {str(self.shape)[1:-1]})"
            raise ValueError(explain(f"images have shape {tuple(images.shape)}", expected))
        # channels-last in memory already
        pixels = rearrange(self._cropped(images, places), "b t h w c -> (b t) c h w")
        x = self._scaled(pixels)
        if self.window != self.size:
            x = functional.interpolate(x, self.size, mode="bilinear", antialias=True)
        return rearrange(self.encode(x), "(b t) f -> b (t f)", t=images.shape[1])

    def _scaled(self, pixels: Tensor) -> Tensor:
        """Return pixels in [-1, 1], as the weights' dtype."""
        dtype = next(self.parameters()).dtype
        if self.depth is None:
            return pixels.to(dtype) / 127.5 - 1
        nearest, farthest = self.depth
        return (((pixels.float() - nearest) / (farthest - nearest)).clamp(0, 1) * 2 - 1).to(dtype)

    def _cropped(self, images: Tensor, places: Tensor | None) -> Tensor:
        spare = [side - kept for side, kept in zip(self.shape, self.window, strict=False)]
        if places is None:
            top, left = (room // 2 for room in spare)
            return images[:, :, top : top + self.window[0], left : left + self.window[1]]
        rows = torch.arange(len(images), device=images.device)[:, None]
        down, across = (  # (B, window) each
            (places[:, axis] * (room + 1)).long()[:, None].to(images.device)
            + torch.arange(self.window[axis], device=images.device)
            for axis, room in enumerate(spare)
        )
        lines = images.transpose(1, 2)[rows, down]  # (B, height, T_o, W, C): whole lines first, which are long copies
        return lines.transpose(1, 3)[rows, across].permute(0, 2, 3, 1, 4).contiguous()


@final
class ImageEncoder(CameraEncoder, Fusable):
    """A small encoder that trains on a CPU: strided convolutions and a spatial softmax, F = 2·keypoints.

    Args:
        shape: (H, W, C) of an image.
        crop: px of the shorter side that the network sees, see `CameraEncoder`.
        scale: px that the shorter side is scaled to before; None leaves the camera's own.
        widths: channels of the convolutions, of kernel 3 and stride 2 each.
        blocks: residual blocks at the last resolution; each lets a pixel see 4 further of that resolution.
        groups: groups of the group norms; divides every width.
        keypoints: K of the spatial softmax.
        depth: (nearest, farthest) of depth images, see `CameraEncoder`.
    """

    def __init__(
        self,
        shape: Sequence[int],
        crop: int = 84,
        scale: int | None = None,
        widths: Sequence[int] = (32, 64, 96),
        blocks: int = 1,
        groups: int = 8,
        keypoints: int = 32,
        depth: Sequence[float] | None = None,
    ) -> None:
        divided = widths and all(width % groups == 0 for width in widths)
        require(divided, f"widths={list(widths)}", f"at least one, each a multiple of groups={groups}")
        super().__init__(shape, crop, scale, 2 ** len(widths), depth)
        self.features = 2 * keypoints
        layers: list[nn.Module] = []
        for c_in, c_out in pairwise((self.shape[2], *widths)):
            layers.append(ConvBlock2D(c_in, c_out, groups, stride=2))
        layers += [ResidualBlock2D(widths[-1], groups) for _ in range(blocks)]
        self.layers = nn.Sequential(*layers, SpatialSoftmax(widths[-1], keypoints))
        # The layout in which images arrive, and in which convolutions are fast on CPUs.
        self.layers.to(memory_format=torch.channels_last)

    @property
    def trunk(self) -> nn.Module:
        return self.layers[:-1]

    def encode(self, pixels: Tensor) -> Tensor:
        return self.layers(pixels)

    def fuse(self) -> None:
        """Run the group norms with Mish as compiled passes: the same numbers up to rounding."""
        fuse_norms(self)
