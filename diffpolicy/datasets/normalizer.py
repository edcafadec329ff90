"""Observations and actions at the scale that networks are made for, and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import final

import numpy as np
import torch
from torch import Tensor

from diffpolicy.datasets.transforms import ActingTransform, Batch
from diffpolicy.util.errors import require
from diffpolicy.util.names import check

MODES = ("limits", "gaussian")
_PARTS = ("center", "scale")

CONSTANT = 1e-4
"""A dimension whose range or standard deviation is below this, in its own unit, counts as constant: dividing by so
little would blow up its noise. As in Diffusion Policy's normalizer."""


@final
class Normalizer(ActingTransform):
    """Per dimension y = (x − center) / scale, and back x = y · scale + center.

    `limits` maps the smallest and the largest value seen to −1 and 1; `gaussian` maps to mean 0 and standard
    deviation 1. A constant dimension (see `CONSTANT`) gets scale 1 and its middle as center.

    Args:
        stats: key -> (center, scale), each of shape (D,); scale positive. Usually made by `fit`.
    """

    def __init__(self, stats: Mapping[str, tuple[Tensor, Tensor]]) -> None:
        self._stats: dict[str, tuple[Tensor, Tensor]] = {}
        for key, (center, scale) in stats.items():
            says = f"normalizer {key!r} with center {tuple(center.shape)} and scale {tuple(scale.shape)}"
            require(center.ndim == 1 and center.shape == scale.shape, says, "both (D,)")
            center, scale = center.to(torch.float32), scale.to(torch.float32)
            finite = center.isfinite().all() and scale.isfinite().all() and (scale > 0).all()
            require(finite, f"normalizer {key!r}: center {center}, scale {scale}", "finite, and scale positive")
            self._stats[key] = (center, scale)

    @classmethod
    def fit(cls, data: Mapping[str, np.ndarray | Tensor], modes: Mapping[str, str] | None = None) -> Normalizer:
        """Return the normalizer of data.

        Args:
            data: key -> array of shape (..., D) with at least one frame.
            modes: key -> `limits` or `gaussian`; a key not named has `limits`.

        Raises:
            ValueError: no data, NaN or infinity, an unknown mode, or a mode for a key the data lack.
        """
        modes = modes or {}
        for key, mode in modes.items():
            check("key of dataset.normalize", key, data)
            check(f"dataset.normalize.{key}", mode, MODES)
        return cls({key: _measure(key, values, modes.get(key, "limits")) for key, values in data.items()})

    def dim(self, key: str) -> int:
        """Return D of a key."""
        check("key of the normalizer", key, self._stats, KeyError)
        return len(self._stats[key][0])

    def normalize(self, key: str, x: Tensor) -> Tensor:
        """Return x (..., D) normalized, float32 at least. Raises KeyError or ValueError for what was not fitted."""
        center, scale = self._for(key, x)
        return (x - center) / scale

    def unnormalize(self, key: str, x: Tensor) -> Tensor:
        """Return x (..., D) in the data's units: the inverse of `normalize`, up to rounding."""
        center, scale = self._for(key, x)
        return x * scale + center

    def apply(self, batch: Batch) -> dict[str, Tensor]:
        """Return a batch with what was fitted normalized, and all else as it is."""
        return {key: self.normalize(key, x) if key in self._stats else x for key, x in batch.items()}

    def undo(self, batch: Batch) -> dict[str, Tensor]:
        """Return a batch with what was fitted in the data's units, and all else as it is."""
        return {key: self.unnormalize(key, x) if key in self._stats else x for key, x in batch.items()}

    def to_tensors(self) -> dict[str, Tensor]:
        """Return `KEY.center` and `KEY.scale` for every key, (D,) float32 on the CPU: fit for a safetensors file."""
        parts = ((key, name, stats[i]) for key, stats in self._stats.items() for i, name in enumerate(_PARTS))
        return {f"{key}.{name}": part.cpu().clone() for key, name, part in parts}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> Normalizer:
        """Return the normalizer whose `to_tensors` these are. Raises ValueError for unpaired names."""
        keys = {name.rpartition(".")[0]: None for name in tensors}
        wrong = sorted({f"{key}.{part}" for key in keys for part in _PARTS} ^ tensors.keys())
        require(
            not wrong, f"a normalizer with unmatched {', '.join(wrong)}", "KEY.center and KEY.scale for every KEY"
        )
        return cls({key: (tensors[f"{key}.center"], tensors[f"{key}.scale"]) for key in keys})

    def _for(self, key: str, x: Tensor) -> tuple[Tensor, Tensor]:
        dim = self.dim(key)
        fits = x.ndim and x.shape[-1] == dim
        require(fits, f"{key!r} of shape {tuple(x.shape)}", f"(..., {dim}), which it was fitted on")
        center, scale = self._stats[key]
        if center.device != x.device:
            # Moved once and kept: a copy to the accelerator in every call would stall it.
            self._stats[key] = center, scale = center.to(x.device), scale.to(x.device)
        return center, scale


def _measure(key: str, values: np.ndarray | Tensor, mode: str) -> tuple[Tensor, Tensor]:
    """Center and scale of an array (..., D)."""
    x = torch.as_tensor(values).detach().cpu().to(torch.float64)
    require(x.ndim and x.numel(), f"fitting {key!r} of shape {tuple(x.shape)}", "(..., D) with at least one frame")
    require(x.isfinite().all(), f"fitting {key!r}: the data hold NaN or infinity")
    x = x.reshape(-1, x.shape[-1])
    low, high = x.amin(0), x.amax(0)
    middle = (low + high) / 2
    center, spread, scale = middle, high - low, (high - low) / 2
    if mode == "gaussian":
        center, spread = x.mean(0), x.std(0, correction=0)
        scale = spread
    constant = spread < CONSTANT
    return torch.where(constant, middle, center), torch.where(constant, 1.0, scale)
