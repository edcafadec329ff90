"""The 2D U-Net of the 6.S184 notes' lab three for images with a label, and our own blocks for it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffpolicy.nets.attention import CrossAttention, embedder, zero
from diffpolicy.nets.base import Network
from diffpolicy.nets.embeddings import time_embedding
from diffpolicy.nets.inputs import check_images
from diffpolicy.nets.subject import no_subject, read_subject, subject_layer
from diffpolicy.util import names
from diffpolicy.util.condition import Condition
from diffpolicy.util.errors import require

GROUPS = 8


def conv(c_in: int, c_out: int, stride: int = 1) -> nn.Conv2d:
    """Return a 3×3 convolution that keeps the size of an image, or halves it with stride 2."""
    return nn.Conv2d(c_in, c_out, kernel_size=3, stride=stride, padding=1)


def _adapter(features: int, channels: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(features, features), nn.SiLU(), nn.Linear(features, channels))


class NotesBlock(nn.Module):
    """The notes' residual layer: (SiLU, batch norm, convolution) twice; between them, time and label are added.

    Each goes through an adapter of its own and is added to every pixel.

    (B, C, H, W), time and label features (B, F) each -> (B, C, H, W).
    """

    def __init__(self, channels: int, features: int) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.SiLU(), nn.BatchNorm2d(channels), conv(channels, channels))
        self.time, self.label = _adapter(features, channels), _adapter(features, channels)
        self.second = nn.Sequential(nn.SiLU(), nn.BatchNorm2d(channels), conv(channels, channels))

    def forward(self, x: Tensor, time: Tensor, label: Tensor) -> Tensor:
        shift = self.time(time) + self.label(label)
        return x + self.second(self.first(x) + shift[:, :, None, None])


class AdaptiveBlock(nn.Module):
    """(group norm, SiLU, convolution) twice; time and label scale and shift the output of the second norm.

    This is FiLM (AdaGN in Dhariwal and Nichol 2021, section 3). The last convolution starts at 0, so that the block
    starts as the identity.

    (B, C, H, W), time and label features (B, F) each -> (B, C, H, W).
    """

    def __init__(self, channels: int, features: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.GroupNorm(GROUPS, channels, affine=affine) for affine in (True, False))
        self.first, self.second = conv(channels, channels), zero(conv(channels, channels))
        self.film = nn.Linear(features, 2 * channels)

    def forward(self, x: Tensor, time: Tensor, label: Tensor) -> Tensor:
        scale, shift = self.film(F.silu(time + label))[:, :, None, None].chunk(2, dim=1)
        h = self.first(F.silu(self.norms[0](x)))
        return x + self.second(F.silu(torch.addcmul(shift, self.norms[1](h), 1 + scale)))


class Stage(nn.Module):
    """Residual layers at one resolution, all given the same time and label."""

    def __init__(self, block: type[nn.Module], layers: int, channels: int, features: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(block(channels, features) for _ in range(layers))

    def forward(self, x: Tensor, time: Tensor, label: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x, time, label)
        return x


BLOCKS = {"notes": NotesBlock, "adaptive": AdaptiveBlock}


class ConditionalUnet2D(Network):
    """U-Net over images with skips that are added, conditioned on (time, label or text).

    Encoder stages run residual layers and halve the resolution; decoder stages add the output of their encoder stage,
    double the resolution and run residual layers.

    Args:
        channels: C of the images.
        labels: number of labels; label number `labels` is the null label. 0 takes a condition.
        two_times: add features of r - t to those of t (r = None is r = t), for methods with two times.
        widths: channels per resolution, each half as fine as the one before.
        layers: residual layers of a stage.
        features: size of the embeddings of time (even) and of the label.
        time: "fourier" (learned frequencies) or "sinusoidal".
        block: "notes", the notes' own, or "adaptive".
        patch: side of the squares of pixels that the first convolution sees as one; 1 is the notes' own.
        skips: add the encoder's outputs in the decoder; without them all goes through the coarsest resolution. The
            weights are the same.
        cond_dim: see `subject_layer`.
        token_dim: see `subject_layer`; the coarsest pixels attend to the tokens.
        heads: of that attention; divides the last width.

    Raises:
        ValueError: sizes or names that do not fit together, at construction or at the call.
    """

    def __init__(
        self,
        channels: int,
        labels: int = 0,
        *,
        two_times: bool = False,
        widths: Sequence[int] = (32, 64, 128),
        layers: int = 2,
        features: int = 40,
        time: str = "fourier",
        block: str = "notes",
        patch: int = 1,
        skips: bool = True,
        cond_dim: int = 0,
        token_dim: int = 0,
        heads: int = 4,
    ) -> None:
        super().__init__()
        sizes = f"sizes {channels=}, widths={list(widths)}, {layers=}, {features=}, {patch=}"
        require(min(channels, layers, features, patch, *widths, len(widths)) >= 1, sizes, "positive ones")
        fits = not token_dim or widths[-1] % heads == 0
        require(fits, f"widths={list(widths)} with heads={heads}", "heads that divide the last")
        names.check("block", block, BLOCKS)
        self.channels, self.patch, self.skips = channels, patch, skips
        self.stride = patch * 2 ** (len(widths) - 1)
        kind, pixels = BLOCKS[block], channels * patch**2
        divided = block == "notes" or all(width % GROUPS == 0 for width in widths)
        require(divided, f"widths={list(widths)}", f"multiples of {GROUPS}, the groups of the norms")
        if block == "notes":
            self.time: nn.Module = time_embedding(time, features)
            self.stem: nn.Module = nn.Sequential(conv(pixels, widths[0]), nn.BatchNorm2d(widths[0]), nn.SiLU())
            self.out: nn.Module = conv(widths[0], pixels)
        else:
            self.time = nn.Sequential(time_embedding(time, features), _adapter(features, features))
            self.stem = conv(pixels, widths[0])
            self.out = nn.Sequential(nn.GroupNorm(GROUPS, widths[0]), nn.SiLU(), conv(widths[0], pixels))
        self.span = embedder(time_embedding(time, features), features, features) if two_times else None
        self.token_dim, self.label = token_dim, subject_layer(labels, cond_dim, token_dim, features)
        steps = list(pairwise(widths))
        self.down = nn.ModuleList(Stage(kind, layers, fine, features) for fine, _ in steps)
        self.downsample = nn.ModuleList(conv(fine, coarse, stride=2) for fine, coarse in steps)
        self.middle = Stage(kind, layers, widths[-1], features)
        self.attend = CrossAttention(widths[-1], token_dim, heads) if token_dim else None
        self.upsample = nn.ModuleList(
            nn.Sequential(nn.Upsample(scale_factor=2, mode="bilinear"), conv(coarse, fine))
            for fine, coarse in reversed(steps)
        )
        self.up = nn.ModuleList(Stage(kind, layers, fine, features) for fine, _ in reversed(steps))
        # channels last is the fastest layout, on CPUs and GPUs, but the norms have no forward-mode derivative in it
        self.layout = torch.contiguous_format if two_times else torch.channels_last
        self.to(memory_format=self.layout)

    def null(self, cond: Tensor) -> Tensor:
        """Return the labels that stand for "none", (B,)."""
        return no_subject(self.label, cond)

    def forward(self, x: Tensor, t: Tensor, cond: Tensor | Condition, r: Tensor | None = None) -> Tensor:
        """(B, C, H, W), (B,), labels (B,) or a condition -> (B, C, H, W)."""
        check_images(x, t, r, self.channels, self.stride)
        time, (label, tokens, mask) = self.time(t), read_subject(self.label, cond, len(x), self.token_dim)
        if self.span is not None:
            time = time + self.span(torch.zeros_like(t) if r is None else r - t)
        h = x.to(self.label.weight.dtype)
        h = F.pixel_unshuffle(h, self.patch) if self.patch > 1 else h
        h = self.stem(h.contiguous(memory_format=self.layout))
        skips: list[Tensor] = []
        for stage, halve in zip(self.down, self.downsample, strict=True):
            h = halve(stage(h, time, label))
            skips.append(h)
        h = self.middle(h, time, label)
        if self.attend is not None:
            read = self.attend(h.flatten(2).transpose(1, 2), tokens, mask)
            h = read.transpose(1, 2).unflatten(2, h.shape[2:]).contiguous(memory_format=self.layout)
        for stage, double in zip(self.up, self.upsample, strict=True):
            skip = skips.pop()
            h = stage(double(h + skip if self.skips else h), time, label)
        h = self.out(h)
        return (F.pixel_shuffle(h, self.patch) if self.patch > 1 else h).to(x.dtype)
