"""Observations and actions to the scale networks like, and back."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import final

import numpy as np
import torch
from torch import Tensor

MODES = ("limits", "gaussian")

CONSTANT = 1e-4
"""A dimension whose range (`limits`) or standard deviation (`gaussian`) is below this, in its own unit,
counts as constant: dividing by so little would blow up whatever noise it has. As in Diffusion Policy's
normaliser."""


@final
class Normalizer:
    """Per dimension y = (x − center) / scale, and back x = y · scale + center.

    `limits` maps the smallest and the largest value seen to −1 and 1; `gaussian` maps to mean 0 and standard
    deviation 1. A constant dimension (see `CONSTANT`) gets scale 1 and its middle as center, so that it maps
    to 0 and back to itself. Fit it on training episodes only; it travels in the checkpoint.

    Args:
        stats: key -> (center, scale), each of shape (D,); scale positive. Usually made by `fit`.
    """

    def __init__(self, stats: Mapping[str, tuple[Tensor, Tensor]]) -> None:
        self._stats: dict[str, tuple[Tensor, Tensor]] = {}
        for key, (center, scale) in stats.items():
            if center.ndim != 1 or center.shape != scale.shape:
                raise ValueError(
                    f"normaliser {key!r}: center and scale must both be (D,), got {tuple(center.shape)} and "
                    f"{tuple(scale.shape)}"
                )
            center, scale = center.to(torch.float32), scale.to(torch.float32)
            if not (center.isfinite().all() and scale.isfinite().all() and (scale > 0).all()):
                raise ValueError(f"normaliser {key!r}: center and scale must be finite and scale positive")
            self._stats[key] = (center, scale)

    @classmethod
    def fit(cls, data: Mapping[str, np.ndarray | Tensor], modes: Mapping[str, str] | None = None) -> Normalizer:
        """Measures the data.

        Args:
            data: key -> array of shape (..., D) with at least one frame.
            modes: key -> `limits` or `gaussian`; a key not named has `limits`.

        Raises:
            ValueError: no data, NaN or infinity, an unknown mode, or a mode for a key the data lack.
        """
        modes = dict(modes or {})
        if strangers := sorted(modes.keys() - data.keys()):
            raise ValueError(f"modes name {strangers[0]!r}, but the data have {sorted(data)}")
        stats = {}
        for key, values in data.items():
            mode = modes.get(key, "limits")
            if mode not in MODES:
                near = difflib.get_close_matches(str(mode), MODES, n=1)
                hint = f"; did you mean {near[0]!r}?" if near else ""
                raise ValueError(f"unknown mode {mode!r} for {key!r}, expected one of {MODES}{hint}")
            x = torch.as_tensor(values).detach().to("cpu", torch.float64)
            if x.ndim == 0 or x.numel() == 0:
                raise ValueError(f"cannot fit {key!r} on shape {tuple(x.shape)}; expected (..., D) and some frames")
            if not x.isfinite().all():
                raise ValueError(f"cannot fit {key!r}: the data hold NaN or infinity")
            x = x.reshape(-1, x.shape[-1])
            low, high = x.amin(0), x.amax(0)
            middle = (low + high) / 2
            if mode == "limits":
                center, spread, scale = middle, high - low, (high - low) / 2
            else:
                center, spread = x.mean(0), x.std(0, correction=0)
                scale = spread
            constant = spread < CONSTANT
            stats[key] = (torch.where(constant, middle, center), torch.where(constant, 1.0, scale))
        return cls(stats)

    def keys(self) -> list[str]:
        """The keys it was fitted on."""
        return list(self._stats)

    def dim(self, key: str) -> int:
        """D of a key."""
        return len(self._lookup(key)[0])

    def normalize(self, key: str, x: Tensor) -> Tensor:
        """x (..., D) in the data's units -> the same shape, normalised; float32 at least.

        Raises:
            KeyError: an unknown key.
            ValueError: a last dimension other than the fitted one.
        """
        center, scale = self._for(key, x)
        return (x - center) / scale

    def unnormalize(self, key: str, x: Tensor) -> Tensor:
        """The inverse of `normalize`, up to rounding."""
        center, scale = self._for(key, x)
        return x * scale + center

    def to_tensors(self) -> dict[str, Tensor]:
        """`KEY.center` and `KEY.scale` for every key, (D,) float32 on the CPU: fit for a safetensors file."""
        flat = {}
        for key, (center, scale) in self._stats.items():
            flat[f"{key}.center"] = center.cpu().clone()
            flat[f"{key}.scale"] = scale.cpu().clone()
        return flat

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> Normalizer:
        """The inverse of `to_tensors`. Raises ValueError for unpaired names and impossible values."""
        keys = {name.rpartition(".")[0]: None for name in tensors}
        expected = {f"{key}.{part}" for key in keys for part in ("center", "scale")}
        if wrong := sorted(expected ^ tensors.keys()):
            raise ValueError(
                f"a normaliser holds KEY.center and KEY.scale for every KEY; unmatched: {', '.join(wrong)}"
            )
        return cls({key: (tensors[f"{key}.center"], tensors[f"{key}.scale"]) for key in keys})

    def _lookup(self, key: str) -> tuple[Tensor, Tensor]:
        if key not in self._stats:
            raise KeyError(f"the normaliser has no {key!r}; it was fitted on {sorted(self._stats)}")
        return self._stats[key]

    def _for(self, key: str, x: Tensor) -> tuple[Tensor, Tensor]:
        center, scale = self._lookup(key)
        if x.ndim == 0 or x.shape[-1] != len(center):
            raise ValueError(
                f"{key!r} was fitted on {len(center)} numbers, got a tensor of shape {tuple(x.shape)} whose "
                f"last dimension is {x.shape[-1] if x.ndim else 'missing'}"
            )
        if center.device != x.device:
            # Moved once and kept: a copy to the accelerator in every call would stall it.
            self._stats[key] = center, scale = center.to(x.device), scale.to(x.device)
        return center, scale
