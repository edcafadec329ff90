"""The blocks of a diffusion transformer (Peebles and Xie 2023), over action steps and over patches of an image.

Time and condition reach every block by adaptive layer norm that starts at zero (AdaLN-zero): a block starts as the
identity.
"""

from __future__ import annotations

import math
from typing import TypeVar

import torch
from torch import Tensor, nn

from diffpolicy.util.errors import require

Layer = TypeVar("Layer", nn.Linear, nn.Conv2d)


class SelfAttention(nn.Module):
    """softmax(QKᵀ/√d)·V over all steps, in every head (Vaswani et al. 2017, equation 1): (B, T, W) -> (B, T, W)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return self.out(attended(q, k, v))


class CrossAttention(nn.Module):
    """x + what x reads in tokens: softmax(QKᵀ/√d)·V with Q of x and K, V of the tokens. It starts as the identity.

    (B, T, W), tokens (B, N, C), their mask (B, N) or None -> (B, T, W).
    """

    def __init__(self, width: int, token_dim: int, heads: int) -> None:
        super().__init__()
        self.heads, self.norm, self.read = heads, nn.LayerNorm(width), nn.LayerNorm(token_dim)
        self.q, self.kv = nn.Linear(width, width), nn.Linear(token_dim, 2 * width)
        self.out = zero(nn.Linear(width, width))

    def forward(self, x: Tensor, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        q = _in_heads(self.q(self.norm(x)), self.heads)
        k, v = (_in_heads(part, self.heads) for part in self.kv(self.read(tokens.to(x.dtype))).chunk(2, dim=-1))
        return x + self.out(attended(q, k, v, mask))


class Block(nn.Module):
    """Self-attention, then a perceptron for every step, each as x -> x + gate·f((1 + scale)·norm(x) + shift).

    Where there are tokens to attend to, that comes in between.

    (B, T, W), features of time and condition, (B, 1, F) or (B, T, F), tokens (B, N, C) and their mask -> (B, T, W),
    and the tokens. Gates, scales and shifts start at 0.
    """

    def __init__(
        self, width: int, heads: int, expansion: int, features: int, dropout: float, token_dim: int = 0
    ) -> None:
        super().__init__()
        self.norm = layer_norm(width)
        self.film = zero(nn.Linear(features, 6 * width))
        self.attention = SelfAttention(width, heads)
        self.cross = CrossAttention(width, token_dim, heads) if token_dim else None
        self.mlp = _perceptron(width, expansion)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, x: Tensor, features: Tensor, tokens: Tensor | None = None, mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        scale, shift, gate, *mlp = self.film(features).chunk(6, dim=-1)
        x = torch.addcmul(x, gate, self.dropout(self.attention(modulated(self.norm(x), scale, shift))))
        if self.cross is not None and tokens is not None:
            x = self.cross(x, tokens, mask)
        scale, shift, gate = mlp
        return torch.addcmul(x, gate, self.dropout(self.mlp(modulated(self.norm(x), scale, shift)))), tokens


class Stream(nn.Module):
    """One of the two streams of a `JointBlock`: its norms, its attention's layers and its perceptron."""

    def __init__(self, width: int, expansion: int, features: int) -> None:
        super().__init__()
        self.norm = layer_norm(width)
        self.film = zero(nn.Linear(features, 6 * width))
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = _perceptron(width, expansion)


class JointBlock(nn.Module):
    """Steps and tokens attend to each other and to themselves at once, each by weights of their own.

    The block of MM-DiT (Esser et al. 2024, figure 2b). Arguments and results are those of `Block`, with tokens
    (B, N, W).
    """

    def __init__(self, width: int, heads: int, expansion: int, features: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.streams = nn.ModuleList(Stream(width, expansion, features) for _ in range(2))
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, x: Tensor, features: Tensor, tokens: Tensor, mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        # Tokens of the text have no time of their own: where steps have one each, that of the first is theirs.
        told = [(x, self.streams[0].film(features)), (tokens, self.streams[1].film(features[:, :1]))]
        films = [film.chunk(6, dim=-1) for _, film in told]
        parts = [
            stream.qkv(modulated(stream.norm(h), *film[:2])).unflatten(-1, (3, self.heads, -1))
            for stream, (h, _), film in zip(self.streams, told, films, strict=True)
        ]
        q, k, v = torch.cat(parts, dim=1).permute(2, 0, 3, 1, 4)
        steps = x.shape[1]
        if mask is not None:
            mask = torch.cat([mask.new_ones(len(x), steps), mask], dim=1)
        read, result = attended(q, k, v, mask), []
        for stream, (h, _), film, out in zip(
            self.streams, told, films, (read[:, :steps], read[:, steps:]), strict=True
        ):
            h = torch.addcmul(h, film[2], self.dropout(stream.out(out)))
            result.append(torch.addcmul(h, film[5], self.dropout(stream.mlp(modulated(stream.norm(h), *film[3:5])))))
        return result[0], result[1]


def blocks(
    layers: int, width: int, heads: int, expansion: int, features: int, dropout: float, token_dim: int, joint: bool
) -> tuple[nn.ModuleList, nn.Module | None]:
    """Return the blocks of a transformer, and what makes tokens (B, N, token_dim) ready for them, if anything does.

    Args:
        layers: how many.
        width: of the steps.
        heads: of their attention.
        expansion: of their perceptrons.
        features: of time and condition.
        dropout: of their branches.
        token_dim: numbers per token that they attend to; 0 for none.
        joint: whether tokens attend, too.

    Raises:
        ValueError: joint attention without tokens.
    """
    sizes = (width, heads, expansion, features, dropout)
    if not joint:
        return nn.ModuleList(Block(*sizes, token_dim) for _ in range(layers)), None
    require(token_dim, "net.joint=true without tokens", "texts to attend to", "take text.attend=true, or joint=false")
    entry = nn.Sequential(nn.LayerNorm(token_dim), nn.Linear(token_dim, width))
    return nn.ModuleList(JointBlock(*sizes) for _ in range(layers)), entry


def attended(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """Return softmax(QKᵀ/√d)·V, (B, T, heads·d), over the N whose mask is true.

    Args:
        q: (B, heads, T, d).
        k: (B, heads, N, d).
        v: (B, heads, N, d).
        mask: (B, N), or None where all count.
    """
    # Written out: torch's fused attention has no forward-mode derivative, and over the few steps of a chunk it is
    # hardly faster in float32 and several times slower in bfloat16 on a CPU.
    scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])
    if mask is not None:
        scores = scores.masked_fill(~mask[:, None, None], -math.inf)
    return (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)


def _in_heads(x: Tensor, heads: int) -> Tensor:
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def _perceptron(width: int, expansion: int) -> nn.Sequential:
    inner = expansion * width
    return nn.Sequential(nn.Linear(width, inner), nn.GELU(approximate="tanh"), nn.Linear(inner, width))


def layer_norm(width: int) -> nn.LayerNorm:
    """Return a norm without scale and shift, which come from the features."""
    return nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)


def modulated(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """Return (1 + scale)·x + shift."""
    return torch.addcmul(shift, x, 1 + scale)


def embedder(first: nn.Module, size: int, features: int) -> nn.Sequential:
    """Return `first`, of `size` numbers, with a perceptron on top: `features` numbers."""
    return nn.Sequential(first, nn.Linear(size, features), nn.SiLU(), nn.Linear(features, features))


def zero(layer: Layer) -> Layer:
    """Return `layer`, linear or a convolution, with weights and bias 0."""
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer
