"""The classifier of digits: trained by the one loop, reproducible, loaded from its checkpoint and from no other."""

import dataclasses
import os
from pathlib import Path

import pytest
import torch

from diffpolicy import checkpoint
from diffpolicy.datasets.images import LabeledImages, from_levels
from diffpolicy.datasets.sources.mnist import load_mnist
from diffpolicy.images.classifier import (
    TRAINING,
    augment,
    classification_loss,
    load_classifier,
    logits_and_features,
    train_classifier,
)
from diffpolicy.nets.classifier import ImageClassifier
from diffpolicy.training.distributed import BatchShard
from diffpolicy.training.log import read_metrics

SMALL = {"name": "image_classifier", "widths": [8, 16], "features": 12}
SHORT = dataclasses.replace(TRAINING, steps=4, batch_size=8, warmup_steps=1)


def _noise(n=20, seed=0):
    generator = torch.Generator().manual_seed(seed)
    levels = torch.randint(0, 256, (n, 1, 32, 32), generator=generator, dtype=torch.uint8)
    return LabeledImages(levels, torch.arange(n) % 10)


def _train(run_dir, **options):
    return train_classifier(
        run_dir, _noise(), _noise(seed=1), **{"training": SHORT, "net": SMALL, "speed": "float32", "progress": False}
        | options,
    )  # fmt: skip


@pytest.fixture(scope="module")
def mnist():
    folder = os.environ.get("DIFFPOLICY_DATA")
    if not folder or not (Path(folder) / "mnist").exists():
        pytest.skip("set DIFFPOLICY_DATA to a folder that holds mnist/*.gz to run this test")
    return load_mnist("train", folder), load_mnist("test", folder)


def test_a_minute_of_training_in_seconds(mnist, tmp_path):
    """80 of the 2400 steps, with which the classifier reads most digits already."""
    train, test = mnist
    test = LabeledImages(test.levels[:1000], test.labels[:1000])
    training = dataclasses.replace(TRAINING, steps=80, batch_size=128, warmup_steps=10)
    path = train_classifier(tmp_path / "run", train, test, training=training, speed="float32", progress=False)
    logits, features = logits_and_features(load_classifier(path), from_levels(test.levels))
    score = (logits.argmax(1) == test.labels).double().mean().item()
    assert score > 0.9
    assert features.shape == (1000, 64)
    saved = checkpoint.read(path)
    logged = [
        row["evaluation/score"] for row in read_metrics(tmp_path / "run/metrics.jsonl") if "evaluation/score" in row
    ]
    assert logged == [score]  # what the loop has measured is what was loaded
    assert saved.config["task"] == "mnist_classifier" and saved.config["training"]["steps"] == 80


def test_a_seed_is_a_run(tmp_path):
    first, again, other = (_train(tmp_path / str(i), seed=seed) for i, seed in enumerate((0, 0, 1)))
    weights = [checkpoint.read(path).tensors("ema")["head.weight"] for path in (first, again, other)]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])


def test_images_of_another_shape_and_number_of_classes(tmp_path):
    levels = torch.zeros(8, 3, 16, 16, dtype=torch.uint8)
    images = LabeledImages(levels, torch.arange(8) % 4)
    path = train_classifier(
        tmp_path / "run", images, images, training=SHORT, net=SMALL, speed="float32", progress=False
    )
    logits, features = logits_and_features(load_classifier(path), from_levels(levels))
    assert logits.shape == (8, 4) and features.shape == (8, 12)


def test_a_run_is_not_overwritten(tmp_path):
    path = _train(tmp_path / "run")
    with pytest.raises(FileExistsError, match=r"holds a run already"):
        _train(tmp_path / "run")
    assert _train(tmp_path / "run", resume=True) == path


def test_loaded_weights_are_the_average_and_take_no_gradient(tmp_path):
    path = _train(tmp_path / "run")
    loaded = load_classifier(path)
    assert not loaded.training and not any(p.requires_grad for p in loaded.parameters())
    for name, value in checkpoint.read(path).tensors("ema").items():
        assert torch.equal(loaded.state_dict()[name], value)
    x = from_levels(_noise(3).levels).requires_grad_()
    loaded(x).sum().backward()
    assert x.grad is not None  # what guides by a classifier needs this one


def test_blocks_do_not_matter():
    torch.manual_seed(0)
    net = ImageClassifier(widths=(8, 16), features=12).eval()
    images = from_levels(_noise(600).levels)
    logits, features = logits_and_features(net, images)
    torch.testing.assert_close(logits, net(images).detach())
    torch.testing.assert_close(features, net.features(images).detach())


def test_another_kind_of_checkpoint_is_refused(tmp_path):
    weights = {"ema": ImageClassifier().state_dict()}
    for number, (config, message) in enumerate(
        [
            ({"task": "mnist"}, r"holds no classifier of images: task=mnist; expected mnist_classifier; give"),
            ({}, r"task=None"),
            ({"task": "mnist_classifier", "nett": {}}, r"unknown setting 'nett' \(did you mean 'net'"),
            ({"task": "mnist_classifier", "net": {"name": "unet1d"}}, r"unknown classifier 'unet1d'"),
            ({"task": "mnist_classifier", "net": SMALL}, r"do not fit the network that its config describes"),
        ]
    ):
        path = checkpoint.write(tmp_path, number, weights, config, {})
        with pytest.raises(checkpoint.CheckpointError, match=message):
            load_classifier(path)
    with pytest.raises(checkpoint.CheckpointError, match=r"no checkpoint at .*nowhere"):
        load_classifier(tmp_path / "nowhere")


def test_augmentation_moves_every_image_a_little_and_in_its_own_way():
    images = torch.full((64, 1, 32, 32), -1.0)
    images[:, :, 12:20, 14:18] = 1.0
    moved = augment(images, torch.Generator().manual_seed(0))
    assert moved.shape == images.shape and moved.min() >= -1 and moved.max() <= 1
    ink, grid = (moved[:, 0] + 1) / 2, torch.arange(32.0) - 15.5
    mass = ink.sum((1, 2))
    assert (mass / 32 - 1).abs().max() < 0.35  # (1 ± 0.12)²
    places = torch.stack([(ink.sum(1) * grid).sum(1), (ink.sum(2) * grid).sum(1)], 1) / mass[:, None]
    assert places.abs().max() < 2.6 and 0.8 < places.std() < 1.5  # uniform within 2 px: 1.15
    assert len({round(value, 3) for value in places[:, 0].tolist()}) > 60
    assert (moved[:, 0, 0] == -1).all() and (moved[:, 0, :, 0] == -1).all()  # background from outside


def test_augmentation_comes_from_the_generator_and_by_shares():
    images = from_levels(_noise(6).levels)
    draw = lambda: torch.Generator().manual_seed(5)  # noqa: E731
    whole = augment(images, draw())
    assert torch.equal(whole, augment(images, draw()))
    assert torch.equal(whole[2:5], augment(images[2:5], BatchShard(draw(), 2, 6)))


def test_the_loss_is_one_value_an_image():
    torch.manual_seed(0)
    net, batch = ImageClassifier(widths=(8,), features=4), _noise(6).batch(torch.arange(6))
    for bfloat16 in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            loss = classification_loss(net, batch, torch.Generator().manual_seed(0))
        assert loss.shape == (6,) and loss.dtype == torch.float32
    assert loss.mean().item() == pytest.approx(2.303, abs=0.3)  # log 10 before any training
