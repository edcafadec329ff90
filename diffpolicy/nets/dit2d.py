"""A transformer over patches of an image: the diffusion transformer (DiT) of Peebles and Xie 2023."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffpolicy.nets.attention import blocks, embedder, layer_norm, modulated, zero
from diffpolicy.nets.base import Network
from diffpolicy.nets.embeddings import time_embedding
from diffpolicy.nets.inputs import check_images
from diffpolicy.nets.subject import no_subject, read_subject, subject_layer
from diffpolicy.util.condition import Condition
from diffpolicy.util.errors import require


class ConditionalDiT2D(Network):
    """Transformer over the patches of an image, conditioned on (time, label or text) by AdaLN-zero.

    Its blocks are those of the transformer over action steps. Patches know where they lie by fixed sines and cosines,
    so that images of any size that the patch divides fit.

    Args:
        channels: C of the images.
        labels: number of labels; label number `labels` is the null label. 0 takes a condition.
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
        cond_dim: see `subject_layer`.
        token_dim: see `subject_layer`; every block attends to the tokens.
        joint: let tokens and patches attend to each other (MM-DiT) in place of the patches to the tokens alone.

    Raises:
        ValueError: sizes that do not fit together, at construction or at the call.
    """

    def __init__(
        self,
        channels: int,
        labels: int = 0,
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
        cond_dim: int = 0,
        token_dim: int = 0,
        joint: bool = False,
    ) -> None:
        super().__init__()
        sizes = {"channels": channels, "patch": patch, "width": width, "layers": layers}
        sizes |= {"heads": heads, "expansion": expansion, "features": features}
        require(min(sizes.values()) >= 1, f"sizes {sizes}", "positive ones")
        fits = width % heads == 0 and width % 4 == 0
        require(fits, f"width={width} with heads={heads}", "a multiple of 4 that the heads divide")
        require(0 <= dropout < 1, f"dropout={dropout}", "a fraction in [0, 1)")
        self.channels, self.patch, self.width = channels, patch, width
        self.token = nn.Linear(channels * patch**2, width)
        self.time = embedder(time_embedding(time, time_features), time_features, features)
        self.span = embedder(time_embedding(time, time_features), time_features, features) if two_times else None
        self.token_dim, self.label = token_dim, subject_layer(labels, cond_dim, token_dim, features)
        self.blocks, self.entry = blocks(layers, width, heads, expansion, features, dropout, token_dim, joint)
        self.norm = layer_norm(width)
        self.film = zero(nn.Linear(features, 2 * width))
        self.out = zero(nn.Linear(width, channels * patch**2))

    def null(self, cond: Tensor) -> Tensor:
        """Return the labels that stand for "none", (B,)."""
        return no_subject(self.label, cond)

    def forward(self, x: Tensor, t: Tensor, cond: Tensor | Condition, r: Tensor | None = None) -> Tensor:
        """(B, C, H, W), (B,), labels (B,) or a condition -> (B, C, H, W)."""
        check_images(x, t, r, self.channels, self.patch)
        subject, told, mask = read_subject(self.label, cond, len(x), self.token_dim)
        features = self.time(t) + subject
        if self.span is not None:
            features = features + self.span(torch.zeros_like(t) if r is None else r - t)
        features = F.silu(features)[:, None]
        tokens = F.pixel_unshuffle(x.to(self.token.weight.dtype), self.patch)
        rows, columns = tokens.shape[2:]
        h = self.token(tokens.flatten(2).transpose(1, 2)) + _positions(rows, columns, self.width).to(tokens)
        told = told if self.entry is None else self.entry(told.to(h.dtype))
        for block in self.blocks:
            h, told = block(h, features, told, mask)
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
