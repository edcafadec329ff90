"""MNIST from its four idx files (LeCun, Cortes and Burges), as the 6.S184 notes use it: 32×32, in [−1, 1].

The files lie in `mnist/` below the data root (see `downloads.data_root`), gzipped as published; what is missing is
downloaded. Their content is checked: the magic number, the sizes and the labels' range first, since these say what is
wrong, and then the SHA-256 of the decompressed bytes.
"""

from __future__ import annotations

import gzip
import os
import zlib
from pathlib import Path
from typing import ClassVar, final

import numpy as np
import torch
from torch.nn import functional

from diffpolicy.datasets.catalog import ImageSource
from diffpolicy.datasets.downloads import ENVIRONMENT_VARIABLE, data_root, downloaded
from diffpolicy.datasets.images import LabeledImages
from diffpolicy.util.errors import explain, require
from diffpolicy.util.files import sha256, write_bytes
from diffpolicy.util.names import check

URL = "https://ossci-datasets.s3.amazonaws.com/mnist/"
SIDE = 32
CLASSES = 10
SPLITS = {"train": "train", "test": "t10k"}
DIGESTS = {
    "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}
_KINDS = {2051: "images", 2049: "labels"}  # the magic numbers: unsigned bytes along three axes, and along one
_AXES = {"images": 3, "labels": 1}
_PUBLISHED_SIDE = 28


@final
class MNIST(ImageSource):
    """The handwritten digits."""

    summary: ClassVar[str] = "handwritten digits, 60,000 for training and 10,000 for tests; downloaded"
    shape = (1, SIDE, SIDE)
    classes = CLASSES

    def images(self, split: str) -> LabeledImages:
        """Return the digits of "train" or "test"."""
        says = f"dataset.path={self.dataset.path}"
        require(self.dataset.path is None, says, "none: MNIST is read from mnist/ below data_root")
        return load_mnist(split, self.data_root)


def load_mnist(split: str, root: str | os.PathLike[str] | None = None) -> LabeledImages:
    """Return digits, (N, 1, 32, 32), resized from 28×28 (bilinear) and rounded to levels.

    Args:
        split: "train" (60,000) or "test" (10,000).
        root: the data root; None takes `DIFFPOLICY_DATA` or the user's cache.

    Raises:
        ValueError: an unknown split, or a file that is not the published one; says what it is instead.
        OSError: a file is missing and cannot be downloaded.
    """
    check("split", split, SPLITS)
    images = _published(f"{SPLITS[split]}-images-idx3-ubyte", root)
    labels = _published(f"{SPLITS[split]}-labels-idx1-ubyte", root)
    pixels = torch.from_numpy(images)[:, None].float()
    resized = functional.interpolate(pixels, size=(SIDE, SIDE), mode="bilinear")
    return LabeledImages(resized.round().to(torch.uint8), torch.from_numpy(labels.astype(np.int64)))


def _published(name: str, root: str | os.PathLike[str] | None) -> np.ndarray:
    file = data_root(root) / "mnist" / f"{name}.gz"
    if not file.exists():
        _download(file, name)
    return _read(file, name, f"delete {file.name}, and it is downloaded again from {URL}")


def _download(file: Path, name: str) -> None:
    """Put the published file there, whole or not at all."""
    url = URL + file.name
    by_hand = f"download {url} to {file}, or set {ENVIRONMENT_VARIABLE} to a folder that holds mnist/{file.name}"
    with downloaded("MNIST is", url, file, file.parent, by_hand) as packed:
        _read(packed, name, f"that is what {url} gave; try again")  # before others find it
        write_bytes(file, packed.read_bytes())


def _read(file: Path, name: str, cure: str) -> np.ndarray:
    """The array of the published file called `name`, from the gzipped `file`."""
    try:
        with gzip.open(file) as stream:
            content = stream.read()
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(explain(f"{file} is no whole gzip file ({error})", cure=cure)) from None
    values = _parse(content, file, name.split("-")[1], cure)
    digest = sha256(content)
    says = f"{file} is not the published {name}: SHA-256 of its content {digest}"
    require(digest == DIGESTS[name], says, DIGESTS[name], cure)
    return values


def _parse(content: bytes, file: Path, kind: str, cure: str) -> np.ndarray:
    """The array in the idx file's `content`, "images" or "labels"."""
    magic = int.from_bytes(content[:4], "big")
    found = _KINDS.get(magic)
    what = f"holds {found}, as if swapped" if found else f"is no idx file of bytes (magic number {magic})"
    expected = next(number for number, name in _KINDS.items() if name == kind)
    require(found == kind, f"{file} {what}", f"{kind}, magic number {expected}", cure)
    axes = _AXES[kind]
    whole = min(len(content) // 4, 1 + axes)  # numbers of the header, which may be truncated itself
    shape = tuple(np.frombuffer(content[4 : 4 * whole], ">u4").tolist())
    values = np.frombuffer(content, np.uint8, offset=min(len(content), 4 + 4 * axes))
    fits = len(shape) == axes and values.size == np.prod(shape, dtype=np.int64)
    says = f"{file} announces an array of {shape or 'unknown size'} and holds {values.size} bytes"
    require(fits, f"{says}: it is truncated or damaged", cure=cure)
    values = values.reshape(shape).copy()
    if kind == "images":
        side = (_PUBLISHED_SIDE, _PUBLISHED_SIDE)
        require(shape[1:] == side, f"{file} holds images of {shape[1:]} pixels", f"{side}", cure)
    else:
        highest = int(values.max(initial=0))
        says = f"{file} holds the label {highest}"
        require(highest < CLASSES, says, f"labels from 0 to {CLASSES - 1}", cure)
    return values
