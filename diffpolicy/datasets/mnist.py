"""MNIST from its four idx files (LeCun, Cortes and Burges), as the 6.S184 notes use it: 32×32, in [−1, 1].

The files lie in `mnist/` below the data root (see `downloads.data_root`), gzipped as published; what is missing is
downloaded. Their content is checked: the magic number, the sizes and the labels' range first, since these say what is
wrong, and then the SHA-256 of the decompressed bytes.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import final

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from diffpolicy.datasets.downloads import ENVIRONMENT_VARIABLE, data_root, downloaded

URL = "https://ossci-datasets.s3.amazonaws.com/mnist/"
SIDE = 32
CLASSES = 10
LEVEL = 2 / 255  # what one grey level is in [−1, 1]
SPLITS = {"train": "train", "test": "t10k"}
DIGESTS = {
    "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}
_KINDS = {2051: "images", 2049: "labels"}  # the magic numbers: unsigned bytes along three axes, and along one


@final
@dataclass(frozen=True)
class Digits:
    """Images as grey levels, (N, 1, 32, 32) uint8, and their labels, (N,) int64."""

    levels: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: torch.device | str) -> Digits:
        return Digits(self.levels.to(device), self.labels.to(device))

    def batch(self, index: Tensor) -> dict[str, Tensor]:
        """{"data": (B, 1, 32, 32) float32 in [−1, 1], "cond": (B,) int64} of the images numbered `index` (B,)."""
        return {"data": from_levels(self.levels[index]), "cond": self.labels[index]}

    def per_class(self, count: int) -> Digits:
        """The first `count` images of each class, class by class.

        Raises:
            ValueError: a class has fewer.
        """
        found = [(self.labels == label).nonzero().flatten()[:count] for label in range(CLASSES)]
        fewest = min(map(len, found))
        if fewest < count or count < 1:
            raise ValueError(f"asked for {count} images of each class; need 1 or more, and one class has {fewest}")
        index = torch.cat(found)
        return Digits(self.levels[index], self.labels[index])


def from_levels(levels: Tensor) -> Tensor:
    """Grey levels 0 … 255 as float32 in [−1, 1]."""
    return levels.float() / 127.5 - 1


def to_levels(images: Tensor) -> Tensor:
    """Images in [−1, 1], and what overshoots, as the nearest grey levels, uint8."""
    return ((images.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def load_mnist(split: str, root: str | os.PathLike[str] | None = None) -> Digits:
    """The "train" (60,000) or "test" (10,000) digits, resized from 28×28 to 32×32 (bilinear) and rounded to levels.

    Args:
        root: the data root; None takes `DIFFPOLICY_DATA` or the user's cache.

    Raises:
        ValueError: an unknown split, or a file that is not the published one; says what it is instead.
        OSError: a file is missing and cannot be downloaded.
    """
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r} of MNIST; choose one of {sorted(SPLITS)}")
    images = _published(f"{SPLITS[split]}-images-idx3-ubyte", root)
    labels = _published(f"{SPLITS[split]}-labels-idx1-ubyte", root)
    pixels = torch.from_numpy(images)[:, None].float()
    resized = functional.interpolate(pixels, size=(SIDE, SIDE), mode="bilinear")
    return Digits(resized.round().to(torch.uint8), torch.from_numpy(labels.astype(np.int64)))


def _decompress(file: Path, cure: str) -> bytes:
    try:
        with gzip.open(file) as stream:
            return stream.read()
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(f"{file} is no whole gzip file ({error}); {cure}") from None


def _parse(content: bytes, file: Path, kind: str, cure: str) -> np.ndarray:
    magic = int.from_bytes(content[:4], "big")
    found = _KINDS.get(magic)
    if found != kind:
        what = f"holds {found}" if found else f"is no idx file of bytes (its magic number is {magic})"
        swapped = "; it seems to be swapped with its neighbour" if found else ""
        expected = next(number for number, name in _KINDS.items() if name == kind)
        raise ValueError(f"{file} {what}; expected {kind}, magic number {expected}{swapped}; {cure}")
    axes = 3 if kind == "images" else 1
    whole = min(len(content) // 4, 1 + axes)  # numbers of the header, which may be truncated itself
    shape = tuple(np.frombuffer(content[4 : 4 * whole], ">u4").tolist())
    values = np.frombuffer(content, np.uint8, offset=min(len(content), 4 + 4 * axes))
    if len(shape) != axes or values.size != np.prod(shape, dtype=np.int64):
        raise ValueError(
            f"{file} announces an array of {shape or 'unknown size'} and goes on for {values.size} bytes: it is "
            f"truncated or damaged; {cure}"
        )
    if kind == "images" and shape[1:] != (28, 28):
        raise ValueError(f"{file} holds images of {shape[1:]} pixels; MNIST's have (28, 28); {cure}")
    if kind == "labels" and values.size and values.max() >= CLASSES:
        raise ValueError(
            f"{file} holds the label {values.max()}, at {int(values.argmax())}; MNIST's lie in 0 to 9; {cure}"
        )
    return values.reshape(shape).copy()


def _published(name: str, root: str | os.PathLike[str] | None) -> np.ndarray:
    file = data_root(root) / "mnist" / f"{name}.gz"
    if not file.exists():
        _download(file, name)
    return _read(file, name, _cure(file))


def _read(file: Path, name: str, cure: str) -> np.ndarray:
    """The array of the published file called `name`, from the gzipped `file`."""
    content = _decompress(file, cure)
    values = _parse(content, file, name.split("-")[1], cure)
    digest = hashlib.sha256(content).hexdigest()
    if digest != DIGESTS[name]:
        raise ValueError(
            f"{file} is not the published {name}: SHA-256 of its content {digest}, expected {DIGESTS[name]}; {cure}"
        )
    return values


def _download(file: Path, name: str) -> None:
    """Put the published file there, whole or not at all."""
    url = URL + file.name
    by_hand = (
        f"To do it by hand: download {url} to {file}, or set {ENVIRONMENT_VARIABLE} to a folder that holds "
        f"mnist/{file.name}."
    )
    with downloaded("MNIST is", url, file, file.parent, by_hand) as packed:
        _read(packed, name, f"that is what {url} gave; try again")  # before others find it
        os.replace(packed, file)


def _cure(file: Path) -> str:
    return f"delete {file.name}, and it is downloaded again from {URL}"
