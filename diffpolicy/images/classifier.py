"""The classifier that judges generated digits: trained by the one training loop, and loaded from its checkpoint."""

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
from diffpolicy.config import free
from diffpolicy.datasets import BatchSampler
from diffpolicy.datasets.images import LabeledImages, from_levels
from diffpolicy.generative.shapes import Generators, rand
from diffpolicy.registry import build
from diffpolicy.training import LossModel, TrainConfig, train

TASK = "mnist_classifier"
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
        net: name and options of the network, from the registry.
        training: settings of the loop.
        seed: of weights, order and augmentation.
        speed: see `diffpolicy.training.precision`.
        task: tells these checkpoints from others.
    """

    net: dict[str, Any] = field(default_factory=lambda: dict(NET))
    training: TrainConfig = field(default_factory=lambda: TRAINING)
    seed: int = 0
    speed: str = free("auto")
    task: str = TASK


_BLOCK = 500  # images per forward pass, of a size that stays in a processor's cache

# How far the training images are moved: what leaves a digit the same digit.
_DEGREES, _SCALE, _SHEAR, _SHIFT = 12.0, 0.12, 0.15, 1 / 16


def augment(images: Tensor, generator: Generators) -> Tensor:
    """Every image turned, scaled, sheared and shifted a little, by amounts of its own: (B, 1, H, W) -> the same.

    Turned by up to 12°, scaled by up to 12%, sheared by up to 0.15 and shifted by up to 1/16 of the side, 2 px of 32,
    each uniformly; what comes in from outside is background (-1).
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
    """Cross-entropy of the moved images, (B,), for batches {"data": (B, 1, H, W), "cond": (B,) int64 labels}."""
    with torch.autocast(batch["data"].device.type, enabled=False):  # places finer than bfloat16 can name
        images = augment(batch["data"], generator)
    return F.cross_entropy(model(images).float(), batch["cond"], reduction="none")


@torch.no_grad()
def logits_and_features(classifier: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    """(N, 1, H, W) in [-1, 1] -> logits (N, 10) and features (N, F), block by block, on the images' device."""
    device = next(classifier.parameters()).device
    blocks = [classifier.features(block.to(device)) for block in images.split(_BLOCK)]
    features = torch.cat(blocks)
    return classifier.head(features).to(images.device), features.to(images.device)


def train_classifier(
    run_dir: str | Path,
    digits: LabeledImages,
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
    """Train a classifier on `digits` and return its checkpoint, whose "score" is its accuracy on `test`.

    Args:
        run_dir: where the run is kept, see `training.train`; a run that is there already is refused without `resume`.
        digits, test: the two splits of MNIST, or parts of them; `test` chooses nothing.
        training: settings of the loop.
        net: name and options of the network, from the registry.
        seed: of weights, order and augmentation.
    """
    torch.manual_seed(seed)
    classifier = build("classifier", net)
    order = BatchSampler(len(digits), training.batch_size, seed)

    def evaluate(averaged: LossModel, step: int) -> dict[str, float]:
        logits, _ = logits_and_features(averaged.net, from_levels(test.levels))
        return {"score": float((logits.argmax(1) == test.labels).double().mean())}

    return train(
        LossModel(classifier, classification_loss),
        lambda step: digits.batch(order[step]),
        training,
        Path(run_dir),
        seed=seed,
        record=ClassifierConfig(dict(net), training, seed, speed),
        evaluate=evaluate,
        device=device,
        speed=speed,
        resume=resume,
        progress=progress,
    )


def load_classifier(path: str | Path, device: torch.device | str = "cpu") -> nn.Module:
    """The classifier of the checkpoint at `path` (averaged weights), ready to judge: no gradients of its weights.

    Raises:
        CheckpointError: nothing there, a damaged checkpoint, or one of something else than a classifier.
    """
    saved = checkpoint.read(path)
    if saved.config.get("task") != TASK:
        raise checkpoint.CheckpointError(
            f"{saved.path} holds no classifier of digits: its config has task={saved.config.get('task')!r}, expected "
            f"{TASK!r}; give the checkpoint that train_classifier returned"
        )
    try:
        classifier = build("classifier", saved.config["net"])
    except (KeyError, ValueError, TypeError) as error:
        raise checkpoint.CheckpointError(f"the config of {saved.path} describes no classifier: {error}") from error
    checkpoint.load_weights(classifier, saved.tensors("ema"), saved.path)
    return classifier.to(device).eval().requires_grad_(False)
