"""The statistics that LeRobot keeps of every episode and of all together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, final

import numpy as np

from diffpolicy.datasets.importers.lerobot_checks import pixel_step

QUANTILES = {"q01": 0.01, "q10": 0.1, "q50": 0.5, "q90": 0.9, "q99": 0.99}
KINDS = ("min", "max", "mean", "std", "count", *QUANTILES)

Stats = Mapping[str, np.ndarray]


def of_numbers(values: np.ndarray) -> dict[str, np.ndarray]:
    """Return the statistics over time of numbers (L, ...), each of the shape of a frame, and their count."""
    exact = values.astype(np.result_type(values.dtype, np.float32))
    found = {"min": exact.min(0), "max": exact.max(0), "mean": exact.mean(0), "std": exact.std(0)}
    found["count"] = np.array([len(values)])
    return found | {name: np.quantile(exact, q, axis=0) for name, q in QUANTILES.items()}


def of_images(images: np.ndarray) -> dict[str, np.ndarray]:
    """Return the statistics of images (L, H, W, C) by channel (C, 1, 1): levels of colors in [0, 1], depth as it is.

    They are taken from some of the frames of a long episode and some of the pixels of large images, as LeRobot does.
    """
    length, channels = len(images), images.shape[3]
    count = max(min(length, 100), min(int(length**0.75), 10_000))
    chosen = np.round(np.linspace(0, length - 1, count)).astype(int)
    step = pixel_step(images.shape)
    levels = np.iinfo(images.dtype).max + 1
    histograms = np.zeros((channels, levels), np.int64)
    for i in chosen:
        pixels = images[i, ::step, ::step]
        for channel in range(channels):
            histograms[channel] += np.bincount(pixels[..., channel].ravel(), minlength=levels)
    scale = np.arange(levels) / (255 if images.dtype == np.uint8 else 1)
    shares = histograms / histograms.sum(1, keepdims=True)
    mean = shares @ scale
    there, summed = histograms > 0, np.cumsum(shares, axis=1)
    found = {
        "min": scale[there.argmax(1)],
        "max": scale[levels - 1 - there[:, ::-1].argmax(1)],
        "mean": mean,
        "std": np.sqrt(np.maximum(shares @ scale**2 - mean**2, 0)),
    }
    found |= {name: scale[np.minimum((summed < q).sum(1), levels - 1)] for name, q in QUANTILES.items()}
    return {name: values.reshape(channels, 1, 1) for name, values in found.items()} | {"count": np.array([count])}


@final
class Together:
    """Statistics of all episodes, from those of each."""

    def __init__(self) -> None:
        self._sums: dict[str, dict[str, Any]] = {}

    def add(self, name: str, stats: Stats) -> None:
        """Count an episode's statistics of a feature in."""
        count = int(stats["count"][0])
        mean, std = stats["mean"].astype(np.float64), stats["std"].astype(np.float64)
        sums = {"count": count, "mean": mean * count, "square": (std**2 + mean**2) * count}
        sums |= {quantile: stats[quantile].astype(np.float64) * count for quantile in QUANTILES}
        before = self._sums.get(name)
        if before is None:
            self._sums[name] = {**sums, "min": stats["min"], "max": stats["max"]}
            return
        low, high = np.minimum(before["min"], stats["min"]), np.maximum(before["max"], stats["max"])
        self._sums[name] = {**{key: before[key] + value for key, value in sums.items()}, "min": low, "max": high}

    def content(self) -> dict[str, dict[str, Any]]:
        """Return them as `meta/stats.json` holds them. Quantiles are means of the episodes', as LeRobot's are."""
        found = {}
        for name, sums in self._sums.items():
            count, mean = sums["count"], sums["mean"] / sums["count"]
            std = np.sqrt(np.maximum(sums["square"] / count - mean**2, 0))
            stats = {"min": sums["min"], "max": sums["max"], "mean": mean, "std": std}
            stats |= {quantile: sums[quantile] / count for quantile in QUANTILES}
            lists = {kind: np.atleast_1d(np.asarray(v, np.float64)).tolist() for kind, v in stats.items()}
            found[name] = {**lists, "count": [count]}
        return found
