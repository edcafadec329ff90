"""Observations and actions at the scale that networks are made for, and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import final

import numpy as np
import torch
from torch import Tensor

from diffpolicy.datasets.transforms import Batch, FittedTransform
from diffpolicy.util.errors import require
from diffpolicy.util.names import check, sliced

MODES = ("limits", "gaussian", "quantiles")
_PARTS = ("center", "scale")

CONSTANT = 2e-6
"""A dimension whose range (or standard deviation) is below this, times its largest magnitude where that is above 1,
counts as constant: below 2e-6 of a unit, or 17 steps of float32, there is nothing but rounding. Dividing by so little
would blow it up."""

TAIL = 0.01
"""What `quantiles` leaves out at either end: a fraction of the frames."""

MOST_FRAMES = 1 << 20
"""How many frames quantiles are taken of at most."""


@final
class Normalizer(FittedTransform):
    """Per dimension y = (x − center) / scale, and back x = y · scale + center.

    `limits` maps the smallest and the largest value seen to −1 and 1; `gaussian` maps to mean 0 and standard
    deviation 1; `quantiles` maps the 1% and the 99% quantile to −1 and 1, and what lies beyond further out, so that
    single frames do not squeeze the rest. A constant dimension (see `CONSTANT`) has scale 0: it is normalized to
    x − center, and comes back as its center, whatever y is.

    Args:
        stats: key -> (center, scale), each of shape (D,); scale not negative. Usually made by `fit`.
    """

    def __init__(self, stats: Mapping[str, tuple[Tensor, Tensor]]) -> None:
        self._stats: dict[str, tuple[Tensor, Tensor, Tensor]] = {}
        for key, (center, scale) in stats.items():
            says = f"normalizer {key!r} with center {tuple(center.shape)} and scale {tuple(scale.shape)}"
            require(center.ndim == 1 and center.shape == scale.shape, says, "both (D,)")
            center, scale = center.to(torch.float32), scale.to(torch.float32)
            finite = center.isfinite().all() and scale.isfinite().all() and (scale >= 0).all()
            require(finite, f"normalizer {key!r}: center {center}, scale {scale}", "finite, and scale not negative")
            self._stats[key] = (center, scale, torch.where(scale == 0, 1.0, scale))

    @classmethod
    def fit(cls, data: Mapping[str, np.ndarray | Tensor], modes: Mapping[str, str] | None = None) -> Normalizer:
        """Return the normalizer of data.

        Args:
            data: key -> array of shape (..., D) with at least one frame.
            modes: key -> `limits`, `gaussian` or `quantiles`; a key not named has `limits`. A part of a key, such as
                "action[6]" or "obs[0:3]", may have a mode of its own.

        Raises:
            ValueError: no data, NaN or infinity, an unknown mode, or a mode for something that the data lack.
        """
        modes = modes or {}
        for name, mode in modes.items():
            check("key of dataset.normalize", sliced(name)[0], data)
            check(f"dataset.normalize.{name}", mode, MODES)
        return cls({key: _measure(key, values, modes) for key, values in data.items()})

    def dim(self, key: str) -> int:
        """Return D of a key."""
        check("key of the normalizer", key, self._stats, KeyError)
        return len(self._stats[key][0])

    def constant(self, key: str) -> Tensor:
        """Return (D,) bool: which dimensions of a key are constant, and come back exactly so."""
        self.dim(key)
        return self._stats[key][1].cpu() == 0

    def normalize(self, key: str, x: Tensor) -> Tensor:
        """Return x (..., D) normalized, float32 at least. Raises KeyError or ValueError for what was not fitted."""
        center, _, divisor = self._for(key, x)
        return (x - center) / divisor

    def unnormalize(self, key: str, x: Tensor) -> Tensor:
        """Return x (..., D) in the data's units: the inverse of `normalize`, up to rounding."""
        center, scale, _ = self._for(key, x)
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

    def _for(self, key: str, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        dim = self.dim(key)
        fits = x.ndim and x.shape[-1] == dim
        require(fits, f"{key!r} of shape {tuple(x.shape)}", f"(..., {dim}), which it was fitted on")
        center, scale, divisor = self._stats[key]
        if center.device != x.device:
            # Moved once and kept: a copy to the accelerator in every call would stall it.
            center, scale, divisor = (part.to(x.device) for part in (center, scale, divisor))
            self._stats[key] = center, scale, divisor
        return center, scale, divisor


def modes_of(key: str, dim: int, modes: Mapping[str, str]) -> list[str]:
    """Return the mode of each of a key's D dimensions: its own where one is named, else the key's, else `limits`.

    Raises:
        ValueError: a part that the key does not have.
    """
    found = [modes.get(key, "limits")] * dim
    for name, mode in modes.items():
        of, part = sliced(name)
        if of == key and part is not None:
            require(part.stop <= dim, f"dataset.normalize.{name}", f"a part of the {dim} numbers of {key!r}")
            found[part] = [mode] * (part.stop - part.start)
    return found


def floor_of(low: Tensor, high: Tensor) -> Tensor:
    """Return (D,) the range below which dimensions between `low` and `high` count as constant, see `CONSTANT`."""
    return CONSTANT * torch.maximum(low.abs(), high.abs()).clamp(min=1)


def inner_quantiles(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the `TAIL` and 1 − `TAIL` quantile, (D,) each, of frames (N, D).

    They are values of frames, the inner neighbors, so that of a few frames, too, the outermost do not count. Of more
    than `MOST_FRAMES` these are spread evenly over all.
    """
    array = x[:: -(-len(x) // MOST_FRAMES)].numpy()
    low, high = (
        np.quantile(array, share, axis=0, method=how) for share, how in ((TAIL, "higher"), (1 - TAIL, "lower"))
    )
    return torch.from_numpy(np.minimum(low, high)), torch.from_numpy(np.maximum(low, high))


def _measure(key: str, values: np.ndarray | Tensor, modes: Mapping[str, str]) -> tuple[Tensor, Tensor]:
    """Center and scale of an array (..., D)."""
    x = torch.as_tensor(values).detach().cpu().to(torch.float64)
    says = f"fitting {key!r} of shape {tuple(x.shape)}"
    require(x.ndim and x.shape[:-1].numel(), says, "(..., D) with at least one frame")
    require(x.isfinite().all(), f"fitting {key!r}: the data hold NaN or infinity")
    x = x.reshape(x.shape[:-1].numel(), x.shape[-1])
    low, high = x.amin(0), x.amax(0)
    middle, floor, chosen = (low + high) / 2, floor_of(low, high), modes_of(key, x.shape[-1], modes)
    center, spread, scale = middle, high - low, (high - low) / 2
    if "gaussian" in chosen:
        at = torch.tensor([mode == "gaussian" for mode in chosen])
        deviation = x.std(0, correction=0)
        center, spread = torch.where(at, x.mean(0), center), torch.where(at, deviation, spread)
        scale = torch.where(at, deviation, scale)
    if "quantiles" in chosen:
        inner, outer = inner_quantiles(x)
        # Where all but a few frames are alike, as of a button that is seldom pressed, the limits scale.
        at = torch.tensor([mode == "quantiles" for mode in chosen]) & (outer - inner >= floor_of(inner, outer))
        center, scale = torch.where(at, (inner + outer) / 2, center), torch.where(at, (outer - inner) / 2, scale)
    constant = spread < floor
    return torch.where(constant, middle, center), torch.where(constant, 0.0, scale)
