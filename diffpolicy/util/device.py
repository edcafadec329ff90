"""The device that a name stands for."""

from __future__ import annotations

import torch

from diffpolicy.util.errors import explain


def pick_device(name: str | torch.device = "auto") -> torch.device:
    """Return the torch device called `name`; "auto" is a GPU if there is one, else the CPU.

    Raises:
        ValueError: this machine has no such device.
    """
    if str(name) == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.zeros(0, device=name).device
    except (RuntimeError, AssertionError, NotImplementedError) as error:  # how torch says so depends on its build
        says = str(error).splitlines()[0]
        raise ValueError(explain(f"device={name} is not available ({says})", cure="take device=auto")) from None


WITHOUT_FLOAT64 = {"mps"}  # types of devices: Apple's GPUs


def precise_dtype(device: torch.device | str) -> torch.dtype:
    """Return float64, or float32 for a device that has no float64."""
    return torch.float32 if torch.device(device).type in WITHOUT_FLOAT64 else torch.float64


def precise_device(device: torch.device | str) -> torch.device:
    """Return `device` itself, or the CPU for a device that has no float64: where to compute what needs it."""
    return torch.device("cpu" if torch.device(device).type in WITHOUT_FLOAT64 else device)
