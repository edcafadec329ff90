"""What networks have in common that are built around another one."""

from __future__ import annotations

from typing import Any, final

from torch import Tensor, nn

from diffpolicy.nets.base import Fusable, Network


class AroundNetwork(Fusable):
    """A module around `net`, which has its condition and its blocks."""

    net: Network

    @property
    def has_blocks(self) -> bool:
        return isinstance(self.net, Fusable) and self.net.has_blocks

    def fuse(self) -> None:
        if isinstance(self.net, Fusable):
            self.net.fuse()

    def null(self, cond: Any) -> Any:
        """Return the condition that stands for "none"."""
        return self.net.null(cond)

    def thinned(self, cond: Any, generator: Any) -> Any:
        """Return a condition of training without what a network that reads it leaves out at random."""
        return self.net.thinned(cond, generator) if isinstance(self.net, AroundNetwork) else cond


@final
class FilmNetwork(AroundNetwork, Network):
    """A network of images for films (B, T, C, H, W): the frames are channels, side by side.

    Args:
        net: of images of T·C channels.
    """

    def __init__(self, net: Network) -> None:
        nn.Module.__init__(self)
        self.net = net

    def forward(self, x: Tensor, t: Tensor, cond: Any = None, r: Tensor | None = None) -> Tensor:
        """(B, T, C, H, W), (B,), a condition -> (B, T, C, H, W)."""
        return self.net(x.flatten(1, 2), t, cond, r).unflatten(1, x.shape[1:3])
