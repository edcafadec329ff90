"""Guided generation of images: composition of `generative`, `nets`, `datasets` and `training`, no loop of its own."""

from diffpolicy.images.generator import ImageGenerator, build_generator, load_generator

__all__ = ["ImageGenerator", "build_generator", "load_generator"]
