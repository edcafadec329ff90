"""A transformer over patches of an image: the diffusion transformer (DiT) of Peebles and Xie 2023."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffpolicy.nets.attention import Block, embedder, layer_norm, modulated, zero
from diffpolicy.nets.base import Network
from diffpolicy.nets.embeddings import time_embedding
from diffpolicy.nets.inputs import check_images
from diffpolicy.util.errors import require


class ConditionalDiT2D(Network):
    """Transformer over the patches of an image, conditioned on (time, label) by AdaLN-zero.

    Its blocks are those of the transformer over action steps. Patches know where they lie by fixed sines and cosines,
    so that images of any size that the patch divides fit.

    Args:
        channels: C of the images.
        labels: number of labels; label number `labels` is the null label.
        two_times: add features of r - t to those of t (r = None is r = t), for methods with two times.
        patch: side of the squares of pixels that are one token.
        width: numbers per token, a multiple of 4.
        layers: number of blocks.
        heads: heads of their attention; divides the width.
        expansion: hidden units of the blocks' perceptrons, in widths.
        features: size of the features of time and label.
        time_features: size of the time embedding, even.
        time: "sinusoidal" or "fourier" (learned frequencies).
        dropout: fraction of each branch's outputs that training drops, drawn by torch's global generator.

    Raises:
        ValueError: sizes that do not fit together, at construction or at the call.
    """

    def __init__(
        self,
        channels: int,
        labels: int,
        *,
        two_times: bool = False,
        patch: int = 4,
        width: int = 192,
        layers: int = 6,
        heads: int = 4,
        expansion: int = 4,
        features: int = 256,
        time_features: int = 128,
        time: str = "fourier",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        sizes = {"channels": channels, "labels": labels, "patch": patch, "width": width, "layers": layers}
        sizes |= {"heads": heads, "expansion": expansion, "features": features}
        require(min(sizes.values()) >= 1, f"sizes {sizes}", "positive ones")
        fits = width % heads == 0 and width % 4 == 0
        require(fits, f"width={width} with heads={heads}", "a multiple of 4 that the heads divide")
        require(0 <= dropout < 1, f"dropout={dropout}", "a fraction in [0, 1)")
        self.channels, self.labels, self.patch, self.width = channels, labels, patch, width
        self.token = nn.Linear(channels * patch**2, width)
        self.time = embedder(time_embedding(time, time_features), time_features, features)
        self.span = embedder(time_embedding(time, time_features), time_features, features) if two_times else None
        self.label = nn.Embedding(labels + 1, features)
        self.blocks = nn.ModuleList(Block(width, heads, expansion, features, dropout) for _ in range(layers))
        self.norm = layer_norm(width)
        self.film = zero(nn.Linear(features, 2 * width))
        self.out = zero(nn.Linear(width, channels * patch**2))

    def null(self, cond: Tensor) -> Tensor:
        """Return the labels that stand for "none", (B,)."""
        return torch.full_like(cond, self.labels)

    def forward(self, x: Tensor, t: Tensor, cond: Tensor, r: Tensor | None = None) -> Tensor:
        """(B, C, H, W), (B,), (B,) int64 -> (B, C, H, W)."""
        check_images(x, t, cond, r, self.channels, self.patch)
        features = self.time(t) + self.label(cond)
        if self.span is not None:
            features = features + self.span(torch.zeros_like(t) if r is None else r - t)
        features = F.silu(features)[:, None]
        tokens = F.pixel_unshuffle(x.to(self.token.weight.dtype), self.patch)
        rows, columns = tokens.shape[2:]
        h = self.token(tokens.flatten(2).transpose(1, 2)) + _positions(rows, columns, self.width).to(tokens)
        for block in self.blocks:
            h = block(h, features)
        scale, shift = self.film(features).chunk(2, dim=-1)
        h = self.out(modulated(self.norm(h), scale, shift))
        return F.pixel_shuffle(h.transpose(1, 2).unflatten(2, (rows, columns)), self.patch).to(x.dtype)


def _positions(rows: int, columns: int, width: int) -> Tensor:
    """Return sines and cosines of the row and of the column of every patch, (rows·columns, width)."""
    rates = 1e4 ** -(torch.arange(width // 4) / max(width // 4, 1))
    parts = []
    for count, shape in ((rows, (rows, 1)), (columns, (1, columns))):
        angles = torch.arange(count)[:, None] * rates
        waves = torch.cat([angles.sin(), angles.cos()], dim=1)
        parts.append(waves.reshape(*shape, -1).expand(rows, columns, -1))
    return torch.cat(parts, dim=-1).flatten(0, 1)
