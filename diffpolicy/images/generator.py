"""A network, a method and a classifier-free guidance scale: images of the classes asked for."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path as FilePath
from typing import Any, final

import torch
from torch import Tensor, nn

from diffpolicy import checkpoint
from diffpolicy.config import RunConfig, load_config
from diffpolicy.datasets.images import LEVEL
from diffpolicy.datasets.sources.mnist import CLASSES, SIDE
from diffpolicy.generative.guidance import ClassifierFree
from diffpolicy.generative.method import Method
from diffpolicy.generative.paths import Path
from diffpolicy.generative.predictions import Field
from diffpolicy.generative.shapes import Generators, rand, randn
from diffpolicy.registry import build


@final
class ImageGenerator(nn.Module):
    """Draws images (B, C, H, W) in [−1, 1] of labels (B,).

    Args:
        shape: (C, H, W).
        labels: how many there are.
        net: the network's spec for the registry, {"name": ..., options}.
        method: section `method` of a run's config, {"name": "generative", "path": ..., ...}, see `generative.method`.
        condition_dropout, guidance, dequantize: see `ImageConfig`.

    Raises:
        ValueError: unknown names or options, a method without a sampler, or guidance without label dropout.
    """

    def __init__(
        self,
        shape: Sequence[int],
        labels: int,
        net: Mapping[str, Any],
        method: Mapping[str, Any],
        condition_dropout: float = 0.1,
        guidance: float = 3.0,
        dequantize: bool = False,
    ) -> None:
        super().__init__()
        options = dict(method)
        if (name := options.pop("name", None)) != "generative":
            raise ValueError(f"images are drawn by a generative method; method.name={name!r} draws none")
        self.shape, self.labels = tuple(shape), labels
        self.net = build("net", net, channels=self.shape[0], labels=labels)
        self.method = Method(build("path", options.pop("path")), condition_dropout=condition_dropout, **options)
        self.guidance = self._checked(guidance)
        self.dequantize = dequantize
        self.calls = 0

    def networks(self) -> list[nn.Module]:
        return [self.net]

    def loss(self, batch: Mapping[str, Tensor], generator: Generators) -> Tensor:
        """ "data" (B, C, H, W) in [−1, 1] and "cond" (B,) int64 -> (B,)."""
        if self.dequantize and self.training:
            batch = {**batch, "data": dequantized(batch["data"], generator)}
        return self.method.loss(self.net, batch, generator)

    def field(self, guidance: float | None = None, path: Path | None = None) -> Field:
        """The field on `path` (None: the sampling path), guided by scale `guidance`; at 1 the conditional one alone,
        in one call.

        Raises:
            ValueError: guidance, of a network that never saw the null label.
        """
        scale = self._checked(self.guidance if guidance is None else guidance)
        if scale == 1:
            return self.method.field(self.net, path=path)
        return self.method.field(self.net, lambda field: ClassifierFree(field, scale, self.net.null), path)

    def draw(
        self,
        labels: Tensor,
        generators: Sequence[torch.Generator],
        guidance: float | None = None,
        trajectory: bool = False,
    ) -> Tensor:
        """Images of `labels` (B,) int64: (B, C, H, W), or with `trajectory` at every time of the sampler's grid.

        `generators`, one per image, give its noise, so that an image does not depend on its batch. `calls` then tells
        the network calls, two for a guided evaluation.

        Raises:
            ValueError: labels outside 0 to `self.labels` − 1.
        """
        if labels.dtype != torch.int64 or bool(((labels < 0) | (labels >= self.labels)).any()):
            raise ValueError(f"labels must be integers from 0 to {self.labels - 1}; given {labels.tolist()[:20]}")
        x = randn((len(labels), *self.shape), generators, dtype=torch.float32, device=labels.device)
        images, self.calls = self.method.draw(self.field(guidance), x, labels, generators, trajectory)
        return images

    def _checked(self, scale: float) -> float:
        if not math.isfinite(scale):
            raise ValueError(f"guidance is a finite scale, 1 for none; given {scale}")
        dropout = self.method.objective.condition_dropout
        if scale != 1 and dropout == 0:
            raise ValueError(
                f"guidance {scale:g} needs the unconditional field, and this network was trained without label "
                "dropout (images.condition_dropout=0): ask for guidance 1 (in training, images.guidance=1), or train "
                "with images.condition_dropout=0.1"
            )
        return scale


def dequantized(images: Tensor, generator: Generators) -> Tensor:
    """Images on the lattice of grey levels, (B, C, H, W) in [−1, 1], each pixel anywhere within its level."""
    return images + LEVEL * (rand(images.shape, generator, dtype=images.dtype, device=images.device) - 0.5)


def build_generator(config: RunConfig) -> ImageGenerator:
    """The untrained generator that a run's config describes (its sections `method`, `net` and `images`).

    Raises:
        ValueError: as `ImageGenerator`.
    """
    return ImageGenerator((1, SIDE, SIDE), CLASSES, config.net, config.method, **vars(config.images))


def load_generator(path: str | FilePath, weights: str = "ema", device: str | torch.device = "cpu") -> ImageGenerator:
    """The trained generator of a checkpoint. Nothing is unpickled.

    Args:
        path: a checkpoint's folder, such as RUN/checkpoints/last.
        weights: "ema" (the moving average) or "model" (the last step's).

    Raises:
        CheckpointError: a missing or damaged checkpoint, or one of something else than images.
    """
    if weights not in ("ema", "model"):
        raise ValueError(f"weights must be 'ema' or 'model', not {weights!r}")
    saved = checkpoint.read(path)
    try:
        config = load_config(saved.config)
    except (KeyError, ValueError, TypeError) as error:
        raise checkpoint.CheckpointError(f"the config of {saved.path} cannot be read: {error}") from error
    if config.found.kind != "images":
        raise checkpoint.CheckpointError(
            f"{path} draws no images, it is a policy; `diffpolicy evaluate` rolls it out; give that of a "
            "run with task=mnist"
        )
    try:
        generator = build_generator(config)
    except (KeyError, ValueError, TypeError) as error:
        raise checkpoint.CheckpointError(f"the config of {saved.path} describes no generator: {error}") from error
    checkpoint.load_weights(generator, saved.tensors(weights), path)
    return generator.to(device).eval().requires_grad_(False)
