"""What a network is conditioned on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Condition(NamedTuple):
    """A vector per sample and, where there are any, tokens.

    A named tuple, so that compilers and data-parallel wrappers see the tensors inside.

    Args:
        vector: (B, C).
        tokens: (B, N, C'), or None.
        mask: (B, N) boolean, True where a token counts; None if all do.
    """

    vector: Tensor
    tokens: Tensor | None = None
    mask: Tensor | None = None

    def map(self, change: Callable[[Tensor], Tensor]) -> Condition:
        """Return a condition of `change(tensor)` for every tensor."""
        return Condition(*(None if part is None else change(part) for part in self))

    def rows(self, index: slice | Sequence[int] | Tensor) -> Condition:
        """Return the samples of `index` (a slice, a list or a tensor of row numbers)."""
        return self.map(lambda part: part[index])


def concat(conditions: list[Condition]) -> Condition:
    """Return the samples of several conditions of one kind in one batch."""
    return Condition(*(None if parts[0] is None else torch.cat(parts) for parts in zip(*conditions, strict=True)))
