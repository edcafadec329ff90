"""Probability paths: of flow matching (`base`, with the contract) and of diffusion (`diffusion`)."""

from diffpolicy.generative.paths.base import LOG_SNR_LIMIT, CosinePath, LinearPath, Path
from diffpolicy.generative.paths.diffusion import DiscretePath, VariancePreservingPath

__all__ = ["LOG_SNR_LIMIT", "CosinePath", "DiscretePath", "LinearPath", "Path", "VariancePreservingPath"]
