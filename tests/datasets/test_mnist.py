"""MNIST: what its files hold, and what is said of files that are something else."""

import gzip
import hashlib
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from diffpolicy.config import DatasetConfig, RunConfig
from diffpolicy.datasets.catalog import open_source
from diffpolicy.datasets.images import LabeledImages, from_levels, to_levels
from diffpolicy.datasets.sources import mnist
from diffpolicy.datasets.sources.mnist import load_mnist

PIXELS = np.random.default_rng(0).integers(0, 256, (20, 28, 28)).astype(np.uint8)
LABELS = np.arange(20, dtype=np.uint8) % 10


def idx(values, magic=None):
    magic = magic if magic is not None else {3: 2051, 1: 2049}[values.ndim]
    return magic.to_bytes(4, "big") + np.array(values.shape, ">u4").tobytes() + values.tobytes()


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A data root with twenty test images as they would be published, from which nothing is downloaded."""
    monkeypatch.setattr(mnist, "URL", "http://127.0.0.1:9/mnist/")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    digests = dict(mnist.DIGESTS)
    (tmp_path / "mnist").mkdir()
    for name, values in (("t10k-images-idx3-ubyte", PIXELS), ("t10k-labels-idx1-ubyte", LABELS)):
        digests[name] = hashlib.sha256(idx(values)).hexdigest()
        (tmp_path / "mnist" / f"{name}.gz").write_bytes(gzip.compress(idx(values)))
    monkeypatch.setattr(mnist, "DIGESTS", digests)
    return tmp_path


def images_file(root):
    return root / "mnist" / "t10k-images-idx3-ubyte.gz"


def labels_file(root):
    return root / "mnist" / "t10k-labels-idx1-ubyte.gz"


def test_images_are_resized_and_keep_their_labels(root):
    digits = load_mnist("test", root)
    assert digits.levels.shape == (20, 1, 32, 32) and digits.levels.dtype == torch.uint8
    assert digits.labels.tolist() == LABELS.tolist() and digits.labels.dtype == torch.int64
    # Bilinear without aligned corners: row 0 of 32 lies at (0 + 1/2)·28/32 - 1/2 < 0, so that corners stay.
    assert digits.levels[:, 0, 0, 0].tolist() == PIXELS[:, 0, 0].tolist()
    assert digits.levels[:, 0, -1, -1].tolist() == PIXELS[:, -1, -1].tolist()
    batch = digits.batch(torch.tensor([3, 1]))
    assert batch["cond"].tolist() == [3, 1]
    assert batch["data"].dtype == torch.float32 and batch["data"].abs().max() <= 1
    assert torch.equal(to_levels(batch["data"]), digits.levels[[3, 1]])


def test_levels_and_images_are_each_others_inverse():
    levels = torch.arange(256).to(torch.uint8)
    images = from_levels(levels)
    assert images.min() == -1 and images.max() == 1
    assert torch.equal(to_levels(images), levels)
    assert to_levels(torch.tensor([-1.3, 1.3])).tolist() == [0, 255]


def test_the_data_root_comes_from_the_environment(root, monkeypatch):
    monkeypatch.setenv("DIFFPOLICY_DATA", str(root))
    assert len(load_mnist("test")) == 20


def test_per_class(root):
    digits = load_mnist("test", root)
    two = digits.per_class(2)
    assert two.labels.tolist() == [label for label in range(10) for _ in range(2)]
    assert torch.equal(two.levels[2:4], digits.levels[[1, 11]])
    for count in (3, 0):
        with pytest.raises(ValueError, match=rf"{count} images of each class; expected 1 or more, .*one class has"):
            digits.per_class(count)


def test_through_the_catalog(root):
    source = open_source(RunConfig(dataset=DatasetConfig(name="mnist"), data_root=str(root)))
    assert source.kind == "images" and source.shape == (1, 32, 32) and source.classes == 10
    digits = source.images("test")
    assert torch.equal(digits.levels, load_mnist("test", root).levels)
    assert digits.digest() == load_mnist("test", root).digest() != digits.per_class(1).digest()
    other = LabeledImages(digits.levels, digits.labels.flip(0))
    assert other.digest() != digits.digest()
    with pytest.raises(ValueError, match=r"dataset\.path=x; expected none"):
        open_source(RunConfig(dataset=DatasetConfig(name="mnist", path="x"))).images("test")


def test_an_unknown_split():
    with pytest.raises(ValueError, match=r"unknown split 'validation'.*train, test"):
        load_mnist("validation")


@pytest.mark.parametrize("kept", [0, 3])
def test_too_short_for_a_magic_number(root, kept):
    images_file(root).write_bytes(gzip.compress(idx(PIXELS)[:kept]))
    with pytest.raises(ValueError, match=r"t10k-images.*is no idx file.*expected images, magic number 2051; delete"):
        load_mnist("test", root)


@pytest.mark.parametrize("kept", [4, 6, 12, 15, 16, 17, -1])
def test_truncated_images(root, kept):
    images_file(root).write_bytes(gzip.compress(idx(PIXELS)[:kept]))
    cure = "delete t10k-images-idx3-ubyte.gz, and it is downloaded again from http://"
    with pytest.raises(ValueError, match=rf"t10k-images.*announces .*: it is truncated or damaged; {cure}"):
        load_mnist("test", root)


@pytest.mark.parametrize("kept", [4, 7, 8, -1])
def test_truncated_labels(root, kept):
    labels_file(root).write_bytes(gzip.compress(idx(LABELS)[:kept]))
    with pytest.raises(ValueError, match=r"t10k-labels.*truncated or damaged; delete t10k-labels-idx1-ubyte.gz"):
        load_mnist("test", root)


def test_bytes_too_many(root):
    labels_file(root).write_bytes(gzip.compress(idx(LABELS) + b"\0"))
    with pytest.raises(ValueError, match=r"announces an array of \(20,\) and holds 21 bytes"):
        load_mnist("test", root)


@pytest.mark.parametrize("spoil", ["cut", "flip", "plain", "page"])
def test_no_whole_gzip_file(root, spoil):
    packed = gzip.compress(idx(PIXELS))
    flipped = bytearray(packed)
    flipped[len(packed) // 2] ^= 1
    content = {"cut": packed[:-9], "flip": bytes(flipped), "plain": idx(PIXELS), "page": b"<html>moved</html>"}
    images_file(root).write_bytes(content[spoil])
    with pytest.raises(
        ValueError, match=r"t10k-images-idx3-ubyte.gz is no whole gzip file \(.*\); delete t10k-images"
    ):
        load_mnist("test", root)


def test_swapped_files(root):
    images, labels = images_file(root).read_bytes(), labels_file(root).read_bytes()
    images_file(root).write_bytes(labels)
    with pytest.raises(ValueError, match=r"t10k-images.*holds labels, as if swapped; .* images, .*2051; delete"):
        load_mnist("test", root)
    images_file(root).write_bytes(images)
    labels_file(root).write_bytes(images)
    with pytest.raises(ValueError, match=r"t10k-labels.*holds images, as if swapped; .* labels, .*2049; delete"):
        load_mnist("test", root)


def test_another_magic_number(root):
    images_file(root).write_bytes(gzip.compress(idx(PIXELS, magic=3331)))  # floats along three axes
    with pytest.raises(ValueError, match=r"t10k-images.*magic number 3331\); expected images, magic number 2051; "):
        load_mnist("test", root)


def test_images_of_another_size(root):
    images_file(root).write_bytes(gzip.compress(idx(PIXELS[:, :14])))
    with pytest.raises(ValueError, match=r"t10k-images.*holds images of \(14, 28\) pixels; .*\(28, 28\); delete"):
        load_mnist("test", root)


def test_labels_that_are_no_digits(root):
    labels = LABELS.copy()
    labels[7] = 10
    labels_file(root).write_bytes(gzip.compress(idx(labels)))
    with pytest.raises(ValueError, match=r"t10k-labels.*holds the label 10; expected labels from 0 to 9; delete"):
        load_mnist("test", root)


def test_one_pixel_changed(root):
    pixels = PIXELS.copy()
    pixels[3, 4, 5] ^= 1
    images_file(root).write_bytes(gzip.compress(idx(pixels)))
    expected = hashlib.sha256(idx(PIXELS)).hexdigest()
    with pytest.raises(ValueError, match=rf"is not the published t10k-images.*SHA-256.*expected {expected}; delete"):
        load_mnist("test", root)


def test_a_missing_file_without_a_network(root):
    labels_file(root).unlink()
    with pytest.raises(ConnectionError) as caught:
        load_mnist("test", root)
    message = str(caught.value)
    assert f"MNIST is not at {labels_file(root)}" in message
    assert f"download http://127.0.0.1:9/mnist/{labels_file(root).name} to {labels_file(root)}" in message
    assert "or set DIFFPOLICY_DATA to a folder that holds mnist/t10k-labels-idx1-ubyte.gz" in message
    assert [file.name for file in (root / "mnist").iterdir()] == [images_file(root).name]


def test_a_place_that_cannot_be_written_to(root):
    (root / "file").write_text("no folder")
    with pytest.raises(
        PermissionError, match=r"MNIST is not at .*nothing can be written to .*mnist.*; download http"
    ):
        load_mnist("train", root / "file")


@pytest.fixture(scope="module")
def published() -> Path:
    folder = os.environ.get("DIFFPOLICY_DATA")
    if not folder or not (Path(folder) / "mnist").exists():
        pytest.skip("set DIFFPOLICY_DATA to a folder that holds mnist/*.gz to run this test")
    return Path(folder)


@pytest.mark.parametrize(("split", "counts"), [
    ("train", [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]),
    ("test", [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]),
])  # fmt: skip
def test_published_content(published, split, counts):
    digits = load_mnist(split, published)
    assert isinstance(digits, LabeledImages)
    assert digits.levels.shape == (sum(counts), 1, 32, 32)
    assert torch.bincount(digits.labels).tolist() == counts
    first = {"train": [5, 0, 4, 1, 9, 2, 1, 3, 1, 4], "test": [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]}
    assert digits.labels[:10].tolist() == first[split]
    mean = digits.levels.double().mean() / 255  # of the training images as published: 0.1307
    assert mean.item() == pytest.approx(0.131, abs=0.003)
