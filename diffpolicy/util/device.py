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
