"""Robot action generation by flow matching and diffusion: from recorded demonstrations to a policy that acts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import diffpolicy.envs  # noqa: F401  registers the environments with gymnasium

if TYPE_CHECKING:
    from diffpolicy.policies import load_policy

__version__ = "0.1.0"
__all__ = ["__version__", "load_policy"]


def __getattr__(name: str) -> Any:
    # Imported on first use, so that the environments alone need no torch.
    if name == "load_policy":
        from diffpolicy.policies import load_policy

        return load_policy
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
