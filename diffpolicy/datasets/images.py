"""Images with labels, in memory, for generation of images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from diffpolicy.util.errors import require
from diffpolicy.util.files import new_digest

LEVEL = 2 / 255  # what one gray level is in [−1, 1]


@final
@dataclass(frozen=True)
class LabeledImages:
    """Images, or films or points, and their labels.

    Args:
        levels: (N, C, H, W) uint8, or films (N, T, C, H, W); or numbers in [−1, 1], float32, of any shape.
        labels: (N,) int64, from 0 on.
    """

    levels: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: torch.device | str) -> LabeledImages:
        """Return them on another device."""
        return LabeledImages(self.levels.to(device), self.labels.to(device))

    def batch(self, index: Tensor) -> dict[str, Tensor]:
        """Return what is numbered `index` (B,): {"data": (B, …) float32 in [−1, 1], "cond": (B,) int64}."""
        return {"data": from_levels(self.levels[index]), "cond": self.labels[index]}

    def per_class(self, count: int) -> LabeledImages:
        """Return the first `count` images of each class, class by class.

        Raises:
            ValueError: a class has fewer.
        """
        classes = range(int(self.labels.max()) + 1)
        found = [(self.labels == label).nonzero().flatten()[:count] for label in classes]
        fewest = min(map(len, found))
        says = f"{count} images of each class"
        require(1 <= count <= fewest, says, f"1 or more, and at most {fewest}, which one class has")
        index = torch.cat(found)
        return LabeledImages(self.levels[index], self.labels[index])

    def digest(self) -> str:
        """Return the SHA-256 of all levels and labels."""
        digest = new_digest()
        for values in (self.levels, self.labels):
            digest.update(f"{tuple(values.shape)}".encode())
            digest.update(values.cpu().contiguous().numpy().data)
        return str(digest.hexdigest())


def from_levels(levels: Tensor) -> Tensor:
    """Return gray levels 0 … 255 as float32 in [−1, 1]; numbers that are no levels as they are."""
    return levels.float() / 127.5 - 1 if levels.dtype == torch.uint8 else levels


def to_levels(images: Tensor) -> Tensor:
    """Return images in [−1, 1], and what overshoots, as the nearest gray levels, uint8."""
    return ((images.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
