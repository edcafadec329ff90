"""Training for figures: by the project's one loop, in a temporary folder."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from diffpolicy import checkpoint
from diffpolicy.config import RunConfig
from diffpolicy.gallery.style import Settings
from diffpolicy.generative.paths import Path as ProbabilityPath
from diffpolicy.generative.shapes import expand
from diffpolicy.nets import MLP
from diffpolicy.training import LossModel, TrainConfig, train
from diffpolicy.training.learner import Batch


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
    torch.manual_seed(settings.seed)
    model = LossModel(make_net(), loss)
    config = TrainConfig(
        steps=steps,
        batch_size=settings.size(batch_size, 64),
        lr=lr,
        weight_decay=0.0,
        warmup_steps=steps // 20,
        evaluate_every=0,
        checkpoint_every=0,
        validate_every=0,
        log_every=0,
    )
    with tempfile.TemporaryDirectory(prefix="diffpolicy-gallery-") as folder:
        last = train(
            model,
            lambda step: batch(config.batch_size, settings.generator(_BATCHES, step)),
            config,
            Path(folder) / "run",
            seed=settings.seed,
            record=RunConfig(training=config),
            speed="float32",
            progress=False,
        )
        checkpoint.load_weights(model, checkpoint.read(last).tensors("ema"), last)
    return model.net.eval()


_BATCHES = 1_000  # keeps the stream of batches apart from the figures' own keys


def points(draw: Callable[[int, torch.Generator], Tensor]) -> Callable[[int, torch.Generator], Batch]:
    """Return a function of batches without a condition, from one (n, generator) -> (n, *shape)."""
    return lambda n, generator: {"data": draw(n, generator)}


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
