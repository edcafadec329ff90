"""Guided generation of images: composition of `generative`, `nets`, `datasets` and `training`, no loop of its own."""

from diffpolicy.images.generator import Drawn, ImageGenerator, build_generator, found_in, load_generator, prepared
from diffpolicy.images.latent import AutoencoderModel, build_autoencoder, found_by_autoencoder

__all__ = [
    "AutoencoderModel",
    "Drawn",
    "ImageGenerator",
    "build_autoencoder",
    "build_generator",
    "found_by_autoencoder",
    "found_in",
    "load_generator",
    "prepared",
]
