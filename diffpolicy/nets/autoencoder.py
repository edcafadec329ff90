"""A convolutional autoencoder of images: pixels to a coarser grid of a few numbers, and back."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffpolicy.nets.attention import SelfAttention, zero
from diffpolicy.nets.unet2d import GROUPS, conv
from diffpolicy.util.errors import explain, require


class ResidualBlock(nn.Module):
    """x + (group norm, SiLU, convolution) twice; the last convolution starts at 0: (B, C, H, W) -> (B, C, H, W)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.GroupNorm(GROUPS, channels) for _ in range(2))
        self.first, self.second = conv(channels, channels), zero(conv(channels, channels))

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(F.silu(self.norms[0](x)))
        return x + self.second(F.silu(self.norms[1](h)))


class AttentionBlock(nn.Module):
    """x + self-attention over all positions, which starts at 0: (B, C, H, W) -> (B, C, H, W)."""

    def __init__(self, channels: int, heads: int = 1) -> None:
        super().__init__()
        self.norm, self.attention = nn.GroupNorm(GROUPS, channels), SelfAttention(channels, heads)
        zero(self.attention.out)

    def forward(self, x: Tensor) -> Tensor:
        h = self.attention(self.norm(x).flatten(2).transpose(1, 2))
        return x + h.transpose(1, 2).unflatten(2, x.shape[2:])


class ImageAutoencoder(nn.Module):
    """Encoder and decoder of a variational autoencoder (Kingma and Welling 2014) for images.

    Every width but the last halves the sides of the image; attention works where it is smallest.

    Args:
        channels: C of the images.
        latent: numbers per position of the latent grid.
        widths: channels per resolution, each half as fine as the one before.

    Raises:
        ValueError: sizes that do not fit together, at construction or at the call.
    """

    def __init__(self, channels: int, latent: int = 4, widths: Sequence[int] = (32, 64, 64)) -> None:
        super().__init__()
        given = f"{channels=}, {latent=}, widths={list(widths)}"
        fits = widths and min(channels, latent, *widths) >= 1 and all(width % GROUPS == 0 for width in widths)
        require(fits, given, f"positive numbers, and widths that are multiples of {GROUPS}")
        self.channels, self.latent, self.factor = channels, latent, 2 ** (len(widths) - 1)
        steps, middle = list(pairwise(widths)), widths[-1]
        self.encoder = nn.Sequential(
            conv(channels, widths[0]),
            *(part for fine, coarse in steps for part in (ResidualBlock(fine), conv(fine, coarse, stride=2))),
            ResidualBlock(middle),
            AttentionBlock(middle),
            ResidualBlock(middle),
            nn.GroupNorm(GROUPS, middle),
            nn.SiLU(),
            nn.Conv2d(middle, 2 * latent, kernel_size=1),
        )
        self.decoder = nn.Sequential(
            nn.Conv2d(latent, middle, kernel_size=1),
            ResidualBlock(middle),
            AttentionBlock(middle),
            ResidualBlock(middle),
            *(
                part
                for fine, coarse in reversed(steps)
                for part in (nn.Upsample(scale_factor=2), conv(coarse, fine), ResidualBlock(fine))
            ),
            nn.GroupNorm(GROUPS, widths[0]),
            nn.SiLU(),
            conv(widths[0], channels),
        )

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and log variance of the latents of images (B, C, H, W), each (B, latent, H/f, W/f)."""
        if x.ndim != 4 or x.shape[1] != self.channels or any(side % self.factor for side in x.shape[2:]):
            expected = f"(B, {self.channels}, H, W) with H and W multiples of {self.factor}"
            raise ValueError(explain(f"images of shape {tuple(x.shape)}", expected))
        mean, log_variance = self.encoder(x).chunk(2, dim=1)
        return mean, log_variance.clamp(-20, 10)

    def decode(self, z: Tensor) -> Tensor:
        """Return the images (B, C, H, W) of latents (B, latent, H/f, W/f)."""
        if z.ndim != 4 or z.shape[1] != self.latent:
            raise ValueError(explain(f"latents of shape {tuple(z.shape)}", f"(B, {self.latent}, h, w)"))
        return self.decoder(z)

    def forward(self, x: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return reconstruction, mean and log variance, with latents mean + exp(log variance/2)·noise."""
        mean, log_variance = self.encode(x)
        return self.decode(mean + torch.exp(log_variance / 2) * noise), mean, log_variance
