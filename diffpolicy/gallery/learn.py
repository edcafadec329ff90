"""Training for figures: by the project's one loop, in a temporary folder."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from diffpolicy import checkpoint
from diffpolicy.config import FoundInData, RunConfig
from diffpolicy.config.compose import compose
from diffpolicy.datasets.images import LabeledImages
from diffpolicy.gallery.style import Settings
from diffpolicy.generative.paths import Path as ProbabilityPath
from diffpolicy.generative.shapes import expand
from diffpolicy.images import ImageGenerator, build_generator
from diffpolicy.nets import MLP
from diffpolicy.training import LossModel, TrainConfig, train
from diffpolicy.training.learner import Batch
from diffpolicy.training.log import METRICS, read_metrics

_PREFIX = "diffpolicy-gallery-"  # of temporary folders
_BATCHES = 1_000  # keeps the stream of batches apart from the figures' own keys


def learn(
    make_net: Callable[[], nn.Module],
    loss: Callable[[Any, Batch, Any], Tensor],
    batch: Callable[[int, torch.Generator], Batch],
    settings: Settings,
    steps: int = 2500,
    batch_size: int = 256,
    lr: float = 3e-3,
) -> nn.Module:
    """Return a network trained by the one loop, with its averaged weights.

    Args:
        make_net: builds the network; its weights come from the seed.
        loss: (net, batch, generator) -> (B,).
        batch: (n, generator) -> a batch of n samples.
        settings: of the gallery; a small one trains for 12 steps.
        steps: of training.
        batch_size: samples per step.
        lr: peak learning rate.
    """
    steps = settings.size(steps, 12)
    config = _config(settings, steps=steps, batch_size=batch_size, lr=lr, warmup_steps=steps // 20)
    model = _untrained(make_net, loss, settings)
    with tempfile.TemporaryDirectory(prefix=_PREFIX) as folder:
        _train(model, batch, config, Path(folder) / "run", settings)
    return model.net.eval()


def learn_in_stages(
    make_net: Callable[[], nn.Module],
    loss: Callable[[Any, Batch, Any], Tensor],
    batch: Callable[[int, torch.Generator], Batch],
    settings: Settings,
    moments: Sequence[int],
) -> tuple[list[nn.Module], Tensor]:
    """Return averaged networks at several moments of one training, and the loss of every step of it.

    The learning rate is constant, so that a run that ends at one moment and is resumed to the next is one run.

    Args:
        make_net: builds the network; its weights come from the seed.
        loss: (net, batch, generator) -> (B,).
        batch: (n, generator) -> a batch of n samples.
        settings: of the gallery.
        moments: numbers of steps, rising; 0 may be the first.
    """
    model = _untrained(make_net, loss, settings)
    nets = []
    with tempfile.TemporaryDirectory(prefix=_PREFIX) as folder:
        run = Path(folder) / "run"
        for steps in moments:
            if steps:
                config = _config(settings, steps=steps, schedule="constant", warmup_steps=0, log_every=1)
                _train(model, batch, config, run, settings, resume=run.exists())
            nets.append(copy.deepcopy(model.net).eval())
        losses = torch.tensor([row["loss"] for row in read_metrics(run / METRICS)])
    return nets, losses


def learn_images(
    task: str, images: LabeledImages, found: FoundInData, settings: Settings, steps: int
) -> ImageGenerator:
    """Return a generator of images by the recipe of a task at half its width, briefly trained.

    Args:
        task: of `diffpolicy train`.
        images: to learn from.
        found: in them.
        settings: of the gallery.
        steps: of training.
    """
    size = ["net.widths=[8,16]", "net.layers=1", "net.features=8"] if settings.small else ["net.widths=[64,128]"]
    config = replace(compose([f"task={task}", "run_dir=unused", *size]), found=found)
    made = learn(
        lambda: build_generator(config),
        lambda model, batch, generator: model.loss(batch, generator),
        labeled(images),
        settings,
        steps,
        config.training.batch_size,
        config.training.lr,
    )
    return made.requires_grad_(False)


def _untrained(make_net: Callable[[], nn.Module], loss: Callable[..., Tensor], settings: Settings) -> LossModel:
    torch.manual_seed(settings.seed)
    return LossModel(make_net(), loss)


def _config(
    settings: Settings, batch_size: int = 256, lr: float = 3e-3, log_every: int = 0, **kept: Any
) -> TrainConfig:
    return TrainConfig(
        batch_size=settings.size(batch_size, 64),
        lr=lr,
        weight_decay=0.0,
        evaluate_every=0,
        checkpoint_every=0,
        validate_every=0,
        log_every=log_every,
        **kept,
    )


def _train(
    model: LossModel,
    batch: Callable[[int, torch.Generator], Batch],
    config: TrainConfig,
    run: Path,
    settings: Settings,
    resume: bool = False,
) -> None:
    """Train a model in the folder `run`, and leave the averaged weights in it."""
    last = train(
        model,
        lambda step: batch(config.batch_size, settings.generator(_BATCHES, step)),
        config,
        run,
        seed=settings.seed,
        record=RunConfig(training=config),
        speed="float32",
        resume=resume,
        progress=False,
    )
    checkpoint.load_weights(model, checkpoint.read(last).tensors("ema"), last)


def points(draw: Callable[[int, torch.Generator], Tensor]) -> Callable[[int, torch.Generator], Batch]:
    """Return a function of batches without a condition, from one (n, generator) -> (n, *shape)."""
    return lambda n, generator: {"data": draw(n, generator)}


def labeled(images: LabeledImages) -> Callable[[int, torch.Generator], Batch]:
    """Return a function of batches of images with their labels, (n, generator) -> batch."""
    return lambda n, generator: images.batch(torch.randint(len(images), (n,), generator=generator))


def mlp() -> MLP:
    """Return the untrained network of every figure in the plane."""
    return MLP(dim=2, width=128, depth=3)


class Attenuated(nn.Module):
    """A classifier net(α·x, t) of noised x: (B, *shape), (B,) -> logits.

    Guidance multiplies its gradient by σ/α. The true gradient vanishes with α, as that of a function of α·x does;
    that of a function of x does not quite, and what is left tears the first steps apart.
    """

    def __init__(self, net: nn.Module, path: ProbabilityPath) -> None:
        super().__init__()
        self.net, self.path = net, path

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return self.net(expand(self.path.alpha(t), x) * x, t)
