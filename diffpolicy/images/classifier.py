"""The classifier that judges generated images: trained by the one training loop, and loaded from its checkpoint."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffpolicy import checkpoint
from diffpolicy.config import TrainConfig, free, typed
from diffpolicy.datasets import BatchSampler
from diffpolicy.datasets.images import LabeledImages, from_levels
from diffpolicy.generative.shapes import Generators, rand
from diffpolicy.registry import build
from diffpolicy.training import LossModel, train
from diffpolicy.util.errors import require

TASK = "mnist_classifier"  # of checkpoints, whose images may be others
NET: Mapping[str, Any] = {"name": "image_classifier"}
TRAINING = TrainConfig(
    steps=2400,  # 10 epochs
    batch_size=250,
    lr=2e-3,
    weight_decay=1e-2,
    ema_max=0.999,
    evaluate_every=0,  # only at the end: choosing a step by its test accuracy would flatter it
    checkpoint_every=0,
    validate_every=0,
)


@dataclass
class ClassifierConfig:
    """The config of a classifier's training, which is also that of its checkpoints.

    Args:
        net: the network, {"name": …, options}, see the registry.
        training: settings of the loop.
        seed: of weights, order and augmentation.
        shape: (C, H, W) of an image.
        classes: number of classes.
        speed: see `diffpolicy.training.precision`.
        task: tells these checkpoints from others.
    """

    net: dict[str, Any] = field(default_factory=lambda: dict(NET))
    training: TrainConfig = field(default_factory=lambda: TRAINING)
    seed: int = 0
    shape: list[int] = field(default_factory=lambda: [1, 32, 32])
    classes: int = 10
    speed: str = free("auto")
    task: str = TASK


_BLOCK = 500  # images per forward pass, of a size that stays in a processor's cache

# How far the training images are moved: a digit stays the same digit.
_DEGREES, _SCALE, _SHEAR, _SHIFT = 12.0, 0.12, 0.15, 1 / 16


def augment(images: Tensor, generator: Generators) -> Tensor:
    """Return images (B, C, H, W), each moved a little by random amounts of its own.

    Rotation by up to 12°, scale by up to 12%, shear by up to 0.15 and shift by up to 1/16 of the side, each uniform;
    what enters from outside is background (−1).

    Args:
        images: in [−1, 1].
        generator: of the amounts.
    """
    draws = 2 * rand((len(images), 5), generator, dtype=torch.float32, device=images.device) - 1
    angle, scale, shear = draws[:, 0] * math.radians(_DEGREES), 1 + _SCALE * draws[:, 1], _SHEAR * draws[:, 2]
    cos, sin = angle.cos() * scale, angle.sin() * scale
    # The grid's coordinates run from -1 to 1 over a side, hence the 2.
    across = torch.stack([cos, cos * shear - sin, 2 * _SHIFT * draws[:, 3]], dim=1)
    down = torch.stack([sin, sin * shear + cos, 2 * _SHIFT * draws[:, 4]], dim=1)
    grid = F.affine_grid(torch.stack([across, down], dim=1), list(images.shape), align_corners=False)
    return F.grid_sample(images + 1, grid, align_corners=False) - 1


def classification_loss(model: nn.Module, batch: Mapping[str, Tensor], generator: Generators) -> Tensor:
    """Return the cross-entropy (B,) of augmented images.

    Args:
        model: the classifier.
        batch: {"data": (B, C, H, W) in [−1, 1], "cond": (B,) int64 labels}.
        generator: of the augmentation.
    """
    with torch.autocast(batch["data"].device.type, enabled=False):  # bfloat16 is too coarse for places
        images = augment(batch["data"], generator)
    return F.cross_entropy(model(images).float(), batch["cond"], reduction="none")


@torch.no_grad()
def logits_and_features(classifier: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    """Return logits (N, K) and features (N, F) of images (N, C, H, W) in [−1, 1], on the images' device."""
    device = next(classifier.parameters()).device
    blocks = [classifier.features(block.to(device)) for block in images.split(_BLOCK)]
    features = torch.cat(blocks)
    return classifier.head(features).to(images.device), features.to(images.device)


def train_classifier(
    run_dir: str | Path,
    images: LabeledImages,
    test: LabeledImages,
    *,
    training: TrainConfig = TRAINING,
    net: Mapping[str, Any] = NET,
    seed: int = 0,
    speed: str = "auto",
    device: torch.device | None = None,
    resume: bool = False,
    progress: bool = True,
) -> Path:
    """Train a classifier and return the path of its checkpoint, whose "score" is its accuracy on test images.

    Args:
        run_dir: folder of the run.
        images: to train on, of every class.
        test: to evaluate on; they choose nothing.
        training: settings of the loop.
        net: the network, {"name": …, options}, see the registry.
        seed: of weights, order and augmentation.
        speed: see `diffpolicy.training.precision`.
        device: where to train; None is the CPU.
        resume: continue the run in `run_dir`, if there is one.
        progress: show a progress bar.

    Raises:
        FileExistsError: `run_dir` holds a run already and `resume` is off.
    """
    torch.manual_seed(seed)
    shape, classes = list(images.levels.shape[1:]), int(images.labels.max()) + 1
    classifier = build("classifier", net, shape=shape, classes=classes)
    order = BatchSampler(len(images), training.batch_size, seed)

    def evaluate(averaged: LossModel, step: int) -> dict[str, float]:
        logits, _ = logits_and_features(averaged.net, from_levels(test.levels))
        return {"score": float((logits.argmax(1) == test.labels).double().mean())}

    return train(
        LossModel(classifier, classification_loss),
        lambda step: images.batch(order[step]),
        training,
        Path(run_dir),
        seed=seed,
        record=ClassifierConfig(dict(net), training, seed, shape, classes, speed),
        evaluate=evaluate,
        device=device,
        speed=speed,
        resume=resume,
        progress=progress,
    )


def load_classifier(path: str | Path, device: torch.device | str = "cpu") -> nn.Module:
    """Return the trained classifier of a checkpoint (averaged weights), without gradients of its weights.

    Args:
        path: a checkpoint's folder.
        device: where it runs.

    Raises:
        CheckpointError: nothing there, a damaged checkpoint, or one that describes no classifier.
        ValueError: a device that this machine does not have.
    """
    with checkpoint.opened(path, "classifier of images") as saved:
        task = saved.config.get("task")
        require(task == TASK, f"task={task}", TASK, "give the checkpoint that train_classifier returned")
        config = typed(ClassifierConfig, saved.config)
        classifier = build("classifier", config.net, shape=config.shape, classes=config.classes)
    return checkpoint.prepare(classifier, saved, device=device)
