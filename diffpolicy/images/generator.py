"""A network, a generative method and classifier-free guidance: images of the classes asked for."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path as FilePath
from typing import Any, NamedTuple, final

import torch
from torch import Tensor, nn

from diffpolicy import checkpoint
from diffpolicy.config import FoundInData, ImageConfig, RunConfig, SamplerConfig, load_config
from diffpolicy.datasets.images import LEVEL, LabeledImages
from diffpolicy.generative.discrete import TokenProcess, to_tokens
from diffpolicy.generative.flow_maps import FlowMapProcess
from diffpolicy.generative.guidance import ClassifierFree
from diffpolicy.generative.paths import Path
from diffpolicy.generative.predictions import Field
from diffpolicy.generative.process import GenerativeProcess
from diffpolicy.generative.shapes import Generators, rand, randn
from diffpolicy.images.latent import Latents, load_latents
from diffpolicy.images.networks import NetworkMaker
from diffpolicy.nets.base import Model
from diffpolicy.nets.tokens import TokenNetwork
from diffpolicy.nets.variance import VarianceNetwork
from diffpolicy.policies.texts import text_identity
from diffpolicy.registry import build, make
from diffpolicy.util.errors import require

METHODS = ("generative", "mean_flow", "discrete")


class Drawn(NamedTuple):
    """Images (B, C, H, W) in [−1, 1], or (times, B, C, H, W) of a trajectory, and the network calls of a batch."""

    images: Tensor
    calls: int


@final
class ImageGenerator(Model):
    """Draws images (B, C, H, W) in [−1, 1], or films or points, of labels (B,) or as texts say.

    Args:
        shape: of what is generated, latents where there is an autoencoder; see `NetworkMaker`.
        labels: number of labels.
        net: the network, {"name": …, options}, see the registry.
        method: the generative method, {"name": "generative", "path": …, …}, see `GenerativeProcess`; or "mean_flow",
            see `FlowMapProcess`, which is taught the guidance of `images`; or "discrete", see `TokenProcess`, with
            `width` numbers for the network in place of each token.
        images: how labels, guidance and gray levels are treated.
        latents: encodes the images that it learns from and decodes those that it draws; None leaves them as they are.
        text: the encoder of texts, {"name": …, options}, see the registry, and `attend`; read where there are texts.
        texts: what each label says; empty where labels are numbers.
        known: identity of a pretrained text encoder's weights, see `FoundInData.text`.

    Raises:
        ValueError: unknown names or options, a method that draws no images, or guidance without label dropout.
    """

    def __init__(
        self,
        shape: Sequence[int],
        labels: int,
        net: Mapping[str, Any],
        method: Mapping[str, Any],
        images: ImageConfig | None = None,
        latents: Latents | None = None,
        text: Mapping[str, Any] | None = None,
        texts: Sequence[str] = (),
        known: str | None = None,
    ) -> None:
        super().__init__()
        self.latents, self.texts = latents, list(texts)
        images, options = images or ImageConfig(), dict(method)
        name = options.pop("name", None)
        require(name in METHODS, f"method.name={name!r} draws no images", f"one of {', '.join(METHODS)}")
        self.shape, self.labels, self.dequantize = tuple(shape), labels, images.dequantize
        self.guidance = images.guidance
        ours = options.keys() & {"condition_dropout", "guidance"}
        require(not ours, f"method.{', method.'.join(ours)}", "images." + ", images.".join(ours))
        require(
            name == "discrete" or "path" in options, f"method={dict(method)}", "one with a path", "path.name=linear"
        )
        make_net = NetworkMaker(self.shape, labels, net, text or {}, texts, known)
        options["condition_dropout"] = images.condition_dropout
        self.method: GenerativeProcess | FlowMapProcess | TokenProcess
        if name == "discrete":
            require(latents is None, "method=discrete of latents, which are no tokens", cure="take method=flow")
            self.dequantize = False  # the levels themselves are what is learned
            width = options.pop("width", 8)
            self.method = make("method 'discrete'", TokenProcess, options)
            tokens = self.method.tokens
            inner = make_net(width)
            self.net: nn.Module = TokenNetwork(inner, tokens.tokens, tokens.levels, width, axis=1)
        elif name == "mean_flow":  # guided by what it is taught
            self.net = make_net(two_times=True)
            options |= {"path": build("path", options["path"]), "guidance": images.guidance}
            self.method = make("method 'mean_flow'", FlowMapProcess, options)
        else:
            learned = bool(options.get("learned_variance"))
            self.net = make_net(1 + learned)
            self.net = VarianceNetwork(self.net, axis=1) if learned else self.net
            options["path"] = build("path", options["path"])
            self.method = make("method 'generative'", GenerativeProcess, options)
        if texts:
            self.register_buffer("ids", make_net.ids(), persistent=False)
        self._encoder = [make_net.encoder]  # a part of the network already
        self.check_guidance(images.guidance)

    def read(self, texts: Sequence[str]) -> Tensor:
        """Return texts as `draw` takes them in place of labels, (B, L) int64 on the CPU.

        Raises:
            ValueError: a generator of numbered labels, or texts that its encoder refuses.
        """
        require(self.texts, f"texts={list(texts)[:3]} of a generator that is told by numbers", "labels")
        return self._encoder[0].ids(texts)

    def condition(self, labels: Tensor) -> Tensor:
        """Return what the network is told: labels (B,) int64 as they are, or the ids (B, L) of their texts.

        Args:
            labels: numbers, or texts, as `read` returns them.

        Raises:
            ValueError: labels or ids that do not exist.
        """
        if labels.ndim == 1:
            known = labels.dtype == torch.int64 and bool(((labels >= 0) & (labels < self.labels)).all())
            require(known, f"labels {labels.tolist()[:20]}", f"integers from 0 to {self.labels - 1}")
            return self.ids[labels] if self.texts else labels
        fits = bool(self.texts) and labels.ndim == 2 and labels.shape[1] == self.ids.shape[1]
        require(fits, f"labels of shape {tuple(labels.shape)}", "numbers (B,), or texts as `read` returns them")
        return labels

    def networks(self) -> list[nn.Module]:
        """Return the network."""
        return [self.net]

    def loss(self, batch: Mapping[str, Tensor], generator: Generators) -> Tensor:
        """Return the loss (B,) of "data" (B, C, H, W) in [−1, 1] and "cond" (B,) int64."""
        if self.dequantize and self.training:
            batch = {**batch, "data": dequantized(batch["data"], generator)}
        if self.texts:
            ids = self.ids[batch["cond"]]
            batch = {**batch, "cond": self.net.thinned(ids, generator) if self.training else ids}
        if isinstance(self.method, TokenProcess):
            batch = {**batch, "data": to_tokens(batch["data"], self.method.tokens.levels)}
        if self.latents is not None:
            batch = {**batch, "data": self.latents.encode(batch["data"], generator)}
        return self.method.loss(self.net, batch, generator)

    def configure(self, sampler: SamplerConfig, path: Path | None = None) -> None:
        """Change the sampler without retraining; None keeps what was set.

        Args:
            sampler: solver, steps, grid and options.
            path: to sample on, if it is not the one that was trained on.

        Raises:
            ValueError: unknown names or options that do not fit together.
        """
        self.method.configure(sampler.solver, sampler.steps, sampler.grid, sampler.options, path)

    def field(self, guidance: float | None = None, path: Path | None = None) -> Field:
        """Return the network's field, guided.

        Args:
            guidance: scale w; 1 is the conditional field alone, in one call instead of two; None is the default.
            path: to take the field on; None is the path that is sampled on.

        Raises:
            ValueError: guidance of a network that never saw the null label, or one that jumps and has no field.
        """
        given = "a field of a network that jumps, from noise to data or from token to token"
        require(isinstance(self.method, GenerativeProcess), given, "method=flow, ddpm, v or score")
        scale = self.check_guidance(self.guidance if guidance is None else guidance)
        if scale == 1:
            return self.method.field(self.net, path=path)
        return self.method.field(self.net, lambda field: ClassifierFree(field, scale, self.net.null), path)

    def draw(
        self,
        labels: Tensor,
        generators: Sequence[torch.Generator],
        guidance: float | None = None,
        trajectory: bool = False,
    ) -> Drawn:
        """Return images of labels, with the network calls that they took.

        Args:
            labels: (B,) int64; or texts, as `read` returns them.
            generators: one per image, of its noise, so that an image does not depend on its batch.
            guidance: see `field`.
            trajectory: return the states at all times of the sampler's grid.

        Raises:
            ValueError: labels that do not exist.
        """
        labels = self.condition(labels)
        scale, shape = (
            self.check_guidance(self.guidance if guidance is None else guidance),
            (len(labels), *self.shape),
        )
        if isinstance(self.method, TokenProcess):
            how = {"guidance": scale, "device": labels.device, "trajectory": trajectory}
            tokens, calls = self.method.draw(self.net, shape, labels, generators, **how)
            levels = self.method.tokens.levels  # from −1 to 1, as a picture's black and white; a mask is gray
            return Drawn(torch.where(tokens < levels, 2 * tokens.float() / (levels - 1) - 1, 0), calls)
        x = randn(shape, generators, dtype=torch.float32, device=labels.device)
        x = self.method.sampling_path.start_scale * x
        if isinstance(self.method, FlowMapProcess):
            drawn, calls = self.method.draw(self.net, x, labels, trajectory)
        else:
            drawn, calls = self.method.draw(self.field(scale), x, labels, generators, trajectory)
        return Drawn(drawn if self.latents is None else self._decoded(drawn), calls)

    def _decoded(self, drawn: Tensor) -> Tensor:
        """Return the images of latents (B, ...) or, of a trajectory, (times, B, ...)."""
        images = self.latents.decode(drawn.flatten(0, -4))
        return images.unflatten(0, drawn.shape[:-3])

    def check_guidance(self, scale: float) -> float:
        """Return a scale w of guidance if the network can follow it.

        Raises:
            ValueError: one that is not finite, guidance of a network that never saw the null label, or another scale
                than a network that jumps was taught.
        """
        require(math.isfinite(scale), f"guidance={scale}", "a finite scale, 1 for none")
        unconditional = scale == 1 or self.method.objective.condition_dropout > 0
        given = f"guidance={scale:g} of a network trained without label dropout"
        require(unconditional, given, "guidance 1", "train with images.condition_dropout=0.1")
        taught = not isinstance(self.method, FlowMapProcess) or scale == self.guidance
        given = f"guidance={scale:g} of a network that was taught to jump with {self.guidance:g}"
        require(taught, given, f"guidance {self.guidance:g}", "train with another images.guidance")
        return scale


def dequantized(images: Tensor, generator: Generators) -> Tensor:
    """Return images on the lattice of gray levels (B, C, H, W) with each pixel anywhere within its level."""
    return images + LEVEL * (rand(images.shape, generator, dtype=images.dtype, device=images.device) - 0.5)


def found_in(images: LabeledImages, labels: int, texts: Sequence[str] = ()) -> FoundInData:
    """Return what a run's config records of its training images.

    Args:
        images: for training.
        labels: number of labels.
        texts: what each says, if anything.
    """
    shape = list(images.levels.shape[1:])
    return FoundInData(kind="images", digest=images.digest(), image_shape=shape, labels=labels, texts=list(texts))


def build_generator(config: RunConfig) -> ImageGenerator:
    """Return the untrained generator that a run's config describes.

    Args:
        config: its sections method, net and images, and the shape and the number of labels in `found`.

    Raises:
        ValueError: as `ImageGenerator`, or a config of something else.
    """
    found = config.found
    require(found.image_shape and found.labels, f"found.kind={found.kind}", "images, with their shape and labels")
    shape, latents = tuple(found.image_shape), None
    if found.autoencoder is not None:
        net = build("net", found.autoencoder["net"], channels=shape[0])
        shape, latents = (net.latent, *(side // net.factor for side in shape[1:])), Latents(net)
    how = (config.net, config.method, config.images, latents, config.text, found.texts, found.text)
    return ImageGenerator(shape, found.labels, *how)


def prepared(
    config: RunConfig, images: LabeledImages, labels: int, texts: Sequence[str] = ()
) -> tuple[RunConfig, ImageGenerator]:
    """Return the config of a training on `images` with what was found in them, and its untrained generator.

    Args:
        config: as typed; an autoencoder that it names is read, and belongs to the generator from now on. A run
            that is resumed has it already.
        images: for training.
        labels: number of labels.
        texts: what each says, if anything.

    Raises:
        CheckpointError: the autoencoder's is missing, damaged, or one of something else.
        ValueError: as `build_generator`, or an autoencoder of other images.
    """
    found = found_in(images, labels, texts)
    found.text = text_identity(config.text) if texts else None
    if config.method["name"] == "discrete":  # the levels themselves are what is learned
        config = replace(config, images=replace(config.images, dequantize=False))
    if config.images.autoencoder is None:
        config = replace(config, found=found)
        return config, build_generator(config)
    before = checkpoint.latest(FilePath(config.run_dir) / "checkpoints") if config.resume else None
    if before is not None:
        found = replace(found, autoencoder=load_config(before.config).found.autoencoder)
        config = replace(config, found=found)
        return config, build_generator(config)
    given = f"init_from={config.init_from} with images.autoencoder={config.images.autoencoder}"
    require(config.init_from is None, given, "one of the two, as a generator brings its own autoencoder")
    cure = "name it: images.autoencoder=RUN, of diffpolicy train task=mnist_autoencoder run_dir=RUN"
    require(config.images.autoencoder, "images.autoencoder is empty", "an autoencoder's checkpoint", cure)
    given = f"images.dequantize=true with images.autoencoder={config.images.autoencoder}"
    require(not config.images.dequantize, given, "images.dequantize=false, as latents have no levels")
    latents, record = load_latents(config.images.autoencoder, tuple(found.image_shape))
    config = replace(config, found=replace(found, autoencoder=record))
    generator = build_generator(config)
    generator.latents.load_state_dict(latents.state_dict())
    generator.latents.fit(images.to("cpu"))
    return config, generator


def load_generator(
    path: str | FilePath,
    sampler: SamplerConfig | None = None,
    *,
    weights: str = "ema",
    device: str | torch.device = "cpu",
) -> ImageGenerator:
    """Return the trained generator of a checkpoint. Nothing is unpickled.

    Args:
        path: a checkpoint's folder, such as RUN/checkpoints/last.
        sampler: how images are sampled; None keeps the training's setting, in whole or field by field.
        weights: "ema" (the moving average) or "model" (the last step's).
        device: where the network runs.

    Raises:
        CheckpointError: a missing or damaged checkpoint, or one of something else than images.
        ValueError: a sampler that does not fit, or a device that this machine does not have.
    """
    with checkpoint.opened(path, "generator of images") as saved:
        config = load_config(saved.config)
        kind = config.found.kind
        require(kind == "images", f"this is a checkpoint of {kind}", "one of images")
        generator = build_generator(config)
    generator.configure(sampler or SamplerConfig())
    return checkpoint.prepare(generator, saved, weights, device)
