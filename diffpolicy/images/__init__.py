"""Guided generation of images: composition of `generative`, `nets`, `datasets` and `training`, no loop of its own."""

from diffpolicy.images.generator import Drawn, ImageGenerator, build_generator, found_in, load_generator

__all__ = ["Drawn", "ImageGenerator", "build_generator", "found_in", "load_generator"]
