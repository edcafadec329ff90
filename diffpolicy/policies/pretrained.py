"""Weights that training an encoder starts from: published ones, or another run's. Nothing is unpickled."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import safetensors
import safetensors.torch
from torch import Tensor, nn

from diffpolicy import checkpoint
from diffpolicy.util.errors import explain, require

_ENCODERS = "encoders."  # prefix of the encoders' names in a policy's checkpoint; the camera's name follows
_PICKLED = (".pt", ".pth", ".ckpt", ".bin", ".pkl", ".pickle")


def load_pretrained(encoders: nn.ModuleDict, path: str | Path) -> None:
    """Load the weights at `path` into encoders.

    A state dict with torchvision's names fills the trunk of each encoder: the weights and biases of batch norms
    become those of the group norms; running statistics and the last layer, fc, are left out. (It is a start for
    training, and not the published network: a group norm divides by what it sees.) A policy's checkpoint fills the
    whole encoder, by the encoder of the camera with the same name, or by its only one.

    Args:
        encoders: camera -> `CameraEncoder`, as in `EncodedModel`.
        path: a .safetensors file, or the folder of a checkpoint, whose moving average is read.

    Raises:
        ValueError: a pickled file, or one that is damaged.
        FileNotFoundError: nothing at `path`.
        CheckpointError: tensors that are missing, left over or of another shape, by name; no encoder for a camera; or
            a damaged checkpoint.
    """
    path = Path(path)
    tensors = checkpoint.read(path).tensors("ema") if path.is_dir() else _read(path)
    theirs = sorted({name.split(".")[1] for name in tensors if name.startswith(_ENCODERS)})
    for camera, encoder in encoders.items():
        if not theirs:
            of_trunk = _of_trunk(tensors)
            _check_channels(camera, encoder.trunk, of_trunk, path)
            checkpoint.load_weights(encoder.trunk, of_trunk, path)
            continue
        source = theirs[0] if len(theirs) == 1 else camera
        given = f"{path} has encoders of the cameras {theirs} and none of {camera!r}"
        require(source in theirs, given, error=checkpoint.CheckpointError)
        prefix = f"{_ENCODERS}{source}."
        of_camera = {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
        _check_channels(camera, encoder, of_camera, path)
        checkpoint.load_weights(encoder, of_camera, path)


def _check_channels(camera: str, module: nn.Module, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Raise CheckpointError where weights are for images of other channels than a camera's."""
    first = next((name for name, own in module.state_dict().items() if own.ndim == 4), None)
    if first is None or first not in tensors or tensors[first].ndim != 4:
        return
    mine, theirs = module.state_dict()[first].shape[1], tensors[first].shape[1]
    given = f"the weights of {path} are for images of {theirs} channels, and camera {camera!r} has {mine}"
    cure = "leave encoder.weights out, or observe a camera of that kind"
    require(mine == theirs, given, cure=cure, error=checkpoint.CheckpointError)


def _of_trunk(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    statistics = (".running_mean", ".running_var", ".num_batches_tracked")
    return {name: t for name, t in tensors.items() if not name.endswith(statistics) and not name.startswith("fc.")}


def _read(path: Path) -> dict[str, Tensor]:
    out = path.with_suffix(".safetensors").name
    convert = (
        'if you trust it, convert it: python -c "from torch import load; from safetensors.torch import save_file; '
        f"save_file(load('{path.name}', weights_only=True), '{out}')\""
    )
    given = f"{path} is pickled, and reading it could run its author's code"
    require(path.suffix not in _PICKLED, given, "a .safetensors file", convert)
    expected = "a .safetensors file or a run's checkpoint as encoder.weights"
    require(path.exists(), f"no weights at {path}", expected, error=FileNotFoundError)
    try:
        return safetensors.torch.load_file(path)
    except safetensors.SafetensorError as error:
        raise ValueError(explain(f"{path} is no .safetensors file, or a damaged one: {error}")) from None
