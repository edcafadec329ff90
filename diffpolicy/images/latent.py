"""Latents of images: an autoencoder that is trained first, and then the place where images are generated."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor, nn

from diffpolicy import checkpoint
from diffpolicy.config import FoundInData, RunConfig, load_config
from diffpolicy.datasets.images import LabeledImages
from diffpolicy.generative.shapes import Generators, randn
from diffpolicy.nets.autoencoder import ImageAutoencoder
from diffpolicy.nets.base import Model
from diffpolicy.registry import build
from diffpolicy.util.errors import require

KIND = "autoencoder"


@final
class AutoencoderModel(Model):
    """Trains an autoencoder: |reconstruction − image|² + kl_weight·KL(q(z|image) ‖ N(0, I)), per pixel.

    This is β-VAE (Higgins et al. 2017) with a normal decoder; the weight is small where what comes next is a
    generative model of the latents, which needs no N(0, I) (Rombach et al. 2022, section 3.1).

    Args:
        shape: (C, H, W) of the images.
        net: {"name": "autoencoder", options}.
        kl_weight: of the divergence.

    Raises:
        ValueError: unknown options, or a weight that is negative or not finite.
    """

    def __init__(self, shape: tuple[int, ...], net: Mapping[str, Any], kl_weight: float = 1e-3) -> None:
        super().__init__()
        require(0 <= kl_weight < math.inf, f"kl_weight={kl_weight}", "a finite number >= 0")
        self.net, self.kl_weight = build("net", net, channels=shape[0]), kl_weight
        require(isinstance(self.net, ImageAutoencoder), f"net={net['name']}", "net=autoencoder")

    def networks(self) -> list[nn.Module]:
        """Return the autoencoder."""
        return [self.net]

    def loss(self, batch: Mapping[str, Tensor], generator: Generators) -> Tensor:
        """Return the loss (B,) of "data" (B, C, H, W) in [−1, 1]."""
        data = batch["data"]
        side = [size // self.net.factor for size in data.shape[2:]]
        noise = randn((len(data), self.net.latent, *side), generator, dtype=data.dtype, device=data.device)
        image, mean, log_variance = self.net(data, noise)
        error = (image - data).square().flatten(1).mean(1)
        divergence = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).flatten(1).sum(1)
        return error + self.kl_weight * divergence / data[0].numel()


@final
class Latents(nn.Module):
    """A frozen autoencoder, whose latents are shifted and scaled to mean 0 and variance 1.

    Args:
        net: the autoencoder.
    """

    center: Tensor
    scale: Tensor

    def __init__(self, net: ImageAutoencoder) -> None:
        super().__init__()
        self.net = net.requires_grad_(False)
        self.register_buffer("center", torch.zeros(1, net.latent, 1, 1))
        self.register_buffer("scale", torch.ones(1, net.latent, 1, 1))

    def fit(self, images: LabeledImages, count: int = 4096) -> None:
        """Take center and scale of each channel from the first `count` images."""
        data = images.batch(torch.arange(min(count, len(images)), device=images.levels.device))["data"]
        with torch.no_grad():
            parts = [self.net.encode(part) for part in data.split(512)]
        mean, variance = (torch.cat(each) for each in zip(*((m, v.exp()) for m, v in parts), strict=True))
        self.center = mean.mean((0, 2, 3), keepdim=True)
        self.scale = (mean.var((0, 2, 3), keepdim=True) + variance.mean((0, 2, 3), keepdim=True)).sqrt()

    @torch.no_grad()
    def encode(self, images: Tensor, generator: Generators) -> Tensor:
        """Return latents (B, latent, h, w) drawn for images (B, C, H, W) in [−1, 1]."""
        mean, log_variance = self.net.encode(images)
        noise = randn(mean.shape, generator, dtype=mean.dtype, device=mean.device)
        return (mean + torch.exp(log_variance / 2) * noise - self.center) / self.scale

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Return images (B, C, H, W) of latents (B, latent, h, w)."""
        return self.net.decode(latents * self.scale + self.center)


def build_autoencoder(config: RunConfig) -> AutoencoderModel:
    """Return the untrained autoencoder that a run's config describes: its sections method and net."""
    options = {key: value for key, value in config.method.items() if key != "name"}
    require(not options.keys() - {"kl_weight"}, f"method={dict(config.method)}", "name and kl_weight")
    images = config.images
    plain = images.autoencoder is None and not images.dequantize
    given = f"images.autoencoder={images.autoencoder}, images.dequantize={images.dequantize} of an autoencoder"
    require(plain, given, "neither of them")
    return AutoencoderModel(tuple(config.found.image_shape or ()), config.net, **options)


def found_by_autoencoder(images: LabeledImages) -> FoundInData:
    """Return what an autoencoder's config records of its training images."""
    return FoundInData(kind=KIND, digest=images.digest(), image_shape=list(images.levels.shape[1:]))


def load_latents(path: str | Path, shape: tuple[int, ...]) -> tuple[Latents, dict[str, Any]]:
    """Return the autoencoder of a checkpoint as latents that are not fitted yet, and what a config records of it.

    Args:
        path: the checkpoint of a training with task=mnist_autoencoder.
        shape: (C, H, W) of the images that it is wanted for.

    Raises:
        CheckpointError: a missing or damaged checkpoint, or one of something else.
        ValueError: one of images of another shape.
    """
    with checkpoint.opened(path, "autoencoder") as saved:
        config = load_config(saved.config)
        require(config.found.kind == KIND, f"this is a checkpoint of {config.found.kind}", "one of an autoencoder")
        model = checkpoint.prepare(build_autoencoder(config), saved, "ema", "cpu")
    given = f"{saved.path} is an autoencoder of images {config.found.image_shape}"
    require(config.found.image_shape == list(shape), given, f"one of {list(shape)}")
    record = {"net": dict(config.net), "step": saved.step, "sha256": saved.sha256["ema.safetensors"]}
    return Latents(model.net), record
