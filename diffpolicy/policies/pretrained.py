"""Weights that an encoder begins with: published ones, or those of another run's policy. Nothing is unpickled."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import safetensors
import safetensors.torch
from torch import Tensor, nn

from diffpolicy import checkpoint

_ENCODERS = "encoders."  # what the names of a policy's encoders begin with, followed by the camera's
_PICKLED = (".pt", ".pth", ".ckpt", ".bin", ".pkl", ".pickle")


def load_pretrained(encoders: nn.ModuleDict, path: str | Path) -> None:
    """Put the weights at `path` into encoders, as a `VisionActor` has them: camera -> `CameraEncoder`.

    A state dict with torchvision's names fills the trunk of each: the weights and biases of batch norms become those
    of the group norms; running statistics and the last layer, fc, have no counterpart and are left. (It is where
    training begins, and no longer the network that was trained: a group norm divides by what it sees.) A policy's
    checkpoint fills the whole encoder, by that of the camera of the same name, or by its only one.

    Args:
        path: a .safetensors file, or the folder of a checkpoint, whose moving average is taken.

    Raises:
        ValueError: a pickled file; a file that is damaged.
        FileNotFoundError: nothing there.
        CheckpointError: tensors that are missing, left over or of another shape, by name; no encoder for a camera; a
            damaged checkpoint.
    """
    path = Path(path)
    tensors = checkpoint.read(path).tensors("ema") if path.is_dir() else _read(path)
    theirs = sorted({name.split(".")[1] for name in tensors if name.startswith(_ENCODERS)})
    for camera, encoder in encoders.items():
        if not theirs:
            checkpoint.load_weights(encoder.trunk, _of_trunk(tensors), path)
            continue
        source = theirs[0] if len(theirs) == 1 else camera
        if source not in theirs:
            raise checkpoint.CheckpointError(f"{path} has encoders of the cameras {theirs} and none of {camera!r}")
        prefix = f"{_ENCODERS}{source}."
        of_camera = {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
        checkpoint.load_weights(encoder, of_camera, path)


def _of_trunk(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    statistics = (".running_mean", ".running_var", ".num_batches_tracked")
    return {name: t for name, t in tensors.items() if not name.endswith(statistics) and not name.startswith("fc.")}


def _read(path: Path) -> dict[str, Tensor]:
    if path.suffix in _PICKLED:
        out = path.with_suffix(".safetensors").name
        raise ValueError(
            f"{path} is pickled, and reading it could run what its author wrote: give a .safetensors file. If you "
            'trust it, convert it once: python -c "from torch import load; from safetensors.torch import save_file; '
            f"save_file(load('{path.name}', weights_only=True), '{out}')\""
        )
    if not path.exists():
        raise FileNotFoundError(f"no weights at {path}: encoder.weights is a .safetensors file or a run's checkpoint")
    try:
        return safetensors.torch.load_file(path)
    except safetensors.SafetensorError as error:
        raise ValueError(f"{path} is no .safetensors file, or a damaged one: {error}") from None
