"""What networks have in common that are built around another one."""

from __future__ import annotations

from typing import Any

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
