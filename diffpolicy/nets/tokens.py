"""Any network of numbers as a network of tokens: what goes in is embedded, what comes out are logits."""

from __future__ import annotations

from typing import Any, final

from torch import Tensor, nn

from diffpolicy.nets.around import AroundNetwork
from diffpolicy.nets.base import Network


@final
class TokenNetwork(AroundNetwork, nn.Module):
    """(B, *shape) tokens -> (B, *shape, K) logits, by a network of numbers with `width` numbers for each token.

    Args:
        net: of images (B, C·width, H, W), or of trajectories (B, T, D·width), and their like.
        tokens: number of different tokens that come in.
        levels: K, number of those that go out.
        width: numbers that a token is embedded in.
        axis: of the tokens of one position in `shape` with the batch axis: 1 for images, 2 for trajectories.
    """

    def __init__(self, net: Network, tokens: int, levels: int, width: int, axis: int) -> None:
        super().__init__()
        self.net, self.axis = net, axis
        self.embedding = nn.Embedding(tokens, width)
        self.logits = nn.Linear(width, levels)

    def forward(self, x: Tensor, t: Tensor, cond: Any = None, r: Tensor | None = None) -> Tensor:
        """(B, *shape) int64, (B,), a condition -> (B, *shape, K)."""
        h = self.embedding(x).movedim(-1, self.axis + 1)
        sizes = h.shape[self.axis : self.axis + 2]
        h = self.net(h.flatten(self.axis, self.axis + 1), t, cond)
        return self.logits(h.unflatten(self.axis, sizes).movedim(self.axis + 1, -1))
