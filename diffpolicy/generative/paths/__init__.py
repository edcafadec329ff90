"""Probability paths: of flow matching (`base`, with the contract) and of diffusion (`diffusion`)."""

from diffpolicy.generative.paths.base import LOG_SNR_LIMIT, CosinePath, LinearPath, Path, SquareRootPath
from diffpolicy.generative.paths.diffusion import DiscretePath, VarianceExplodingPath, VariancePreservingPath

__all__ = [
    "LOG_SNR_LIMIT",
    "CosinePath",
    "DiscretePath",
    "LinearPath",
    "Path",
    "SquareRootPath",
    "VarianceExplodingPath",
    "VariancePreservingPath",
]
