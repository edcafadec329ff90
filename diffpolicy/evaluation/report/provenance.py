"""With what a result was made: versions, processor, threads, commit."""

from __future__ import annotations

import importlib.metadata
import platform
import subprocess
from pathlib import Path
from typing import Any

import torch

_PACKAGES = ("diffpolicy", "torch", "numpy", "gymnasium", "pymunk", "zarr")


def provenance() -> dict[str, Any]:
    """Return versions, processor, threads and git commit, for a result that someone will want to make again."""
    return {
        "versions": {
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in _PACKAGES},
        },
        "processor": _processor(),
        "threads": torch.get_num_threads(),
        "commit": _commit(),
    }


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _commit() -> str | None:
    """The commit of the checkout this code runs from; None when installed from a wheel."""
    try:
        here = {"cwd": Path(__file__).parent, "capture_output": True, "text": True, "timeout": 10}
        # Installed inside somebody's repository, git would answer with theirs.
        subprocess.run(["git", "ls-files", "--error-unmatch", Path(__file__).name], check=True, **here)
        found = subprocess.run(["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"], **here)
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip() or None if found.returncode == 0 else None
