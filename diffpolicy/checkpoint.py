"""Reading and writing checkpoints: a folder named by its step, complete or not there at all.

    RUN/checkpoints/step_00002500/
        checkpoint.json        format version, step, training state, SHA-256 of every other file
        config.yaml            the run's config, names resolved by the registry
        model.safetensors      weights             ema.safetensors        their moving average
        normalizer.safetensors                     training.safetensors   optimiser and generators
    RUN/checkpoints/last -> step_00002500          best -> step_00002000

A checkpoint is written into a hidden folder beside its place, flushed to disk and renamed; `last` and `best` are
links replaced by a rename. A kill at any moment leaves the previous state or the new one. Nothing is unpickled.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import yaml
from torch import Tensor, nn

FORMAT_VERSION = 1
_INFO = "checkpoint.json"


class CheckpointError(RuntimeError):
    """A checkpoint that is missing, incomplete, damaged, or made for something else."""


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint on disk, its files verified; tensors are read when asked for."""

    path: Path
    step: int
    state: dict[str, Any]
    config: dict[str, Any]
    sha256: dict[str, str]

    def tensors(self, group: str) -> dict[str, Tensor]:
        """The tensors of one group ("model", "ema", "normalizer", "training"), by flat names."""
        file = self.path / f"{group}.safetensors"
        if not file.is_file():
            there = sorted(f.stem for f in self.path.glob("*.safetensors"))
            raise CheckpointError(f"{self.path} holds no {group!r} tensors; it holds {there}")
        return safetensors.torch.load_file(file)


def step_name(step: int) -> str:
    return f"step_{step:08d}"


def write(
    folder: Path,
    step: int,
    groups: Mapping[str, Mapping[str, Tensor]],
    config: Mapping[str, Any],
    state: Mapping[str, Any],
) -> Path:
    """Write the checkpoint of `step` into `folder` and return its path. One already there is kept as it is.

    `groups` are tensors by group and flat name; `config` and `state` plain data (numbers, strings, lists, maps).
    """
    final = folder / step_name(step)
    if final.exists():
        return final
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f".{final.name}.{os.getpid()}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    for group, tensors in groups.items():
        contiguous = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
        safetensors.torch.save_file(contiguous, partial / f"{group}.safetensors")
    (partial / "config.yaml").write_text(yaml.safe_dump(dict(config), sort_keys=False))
    digests = {file.name: _sha256(file) for file in sorted(partial.iterdir())}
    info = {"format_version": FORMAT_VERSION, "step": step, "state": dict(state), "sha256": digests}
    (partial / _INFO).write_text(json.dumps(info, indent=1))
    for file in partial.iterdir():
        _flush(file)
    _flush(partial)
    partial.rename(final)
    _flush(folder)
    return final


def read(path: str | Path) -> Checkpoint:
    """Open and verify the checkpoint at `path` (a step's folder, or a link such as `best`).

    Raises:
        CheckpointError: nothing there, a half-written or damaged one, or another format version.
    """
    path = Path(path)
    if not path.is_dir():
        raise CheckpointError(f"no checkpoint at {path}{_hint(path)}")
    path = path.resolve()
    try:
        info = json.loads((path / _INFO).read_text())
        version, digests = info["format_version"], info["sha256"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path} is no complete checkpoint ({_INFO}: {error}){_hint(path.parent)}") from None
    if version != FORMAT_VERSION:
        raise CheckpointError(
            f"{path} has format version {version}; this release reads {FORMAT_VERSION}: use the release that wrote it"
        )
    for name, expected in digests.items():
        file = path / name
        if not file.is_file():
            raise CheckpointError(f"{file} is missing; take another checkpoint{_hint(path.parent)}")
        if _sha256(file) != expected:
            raise CheckpointError(
                f"{file} is damaged (its SHA-256 differs from the one recorded); "
                f"take another checkpoint{_hint(path.parent)}"
            )
    config = yaml.safe_load((path / "config.yaml").read_text())
    return Checkpoint(path, int(info["step"]), info["state"], config, digests)


def latest(folder: Path) -> Checkpoint | None:
    """The checkpoint that `folder/last` names, or, where that link is missing, the newest; None if there is none.

    Raises:
        CheckpointError: it is damaged.
    """
    if (folder / "last").exists():
        return read(folder / "last")
    steps = sorted(folder.glob("step_*"))
    return read(steps[-1]) if steps else None


def load_weights(module: nn.Module, tensors: Mapping[str, Tensor], where: str | Path) -> None:
    """Load `tensors` into `module`, strictly.

    Raises:
        CheckpointError: names or shapes differ; says which, in the checkpoint and in the module.
    """
    own = module.state_dict()
    wrong = [
        f"{name}: checkpoint {_shape(tensors.get(name))}, network {_shape(own.get(name))}"
        for name in sorted(own.keys() | tensors.keys())
        if _shape(tensors.get(name)) != _shape(own.get(name))
    ]
    if wrong:
        listed = "; ".join(wrong[:4]) + (f"; and {len(wrong) - 4} more" if len(wrong) > 4 else "")
        raise CheckpointError(f"the weights of {where} do not fit the network that its config describes: {listed}")
    module.load_state_dict(dict(tensors))


def point(folder: Path, name: str, target: str) -> None:
    """Make `folder/name` a link to `target` (a name in the folder), replacing an earlier link atomically."""
    link = folder / f".{name}.{os.getpid()}.link"
    link.unlink(missing_ok=True)
    link.symlink_to(target)
    os.replace(link, folder / name)
    _flush(folder)


def prune(folder: Path, keep: Iterable[str]) -> None:
    """Delete the checkpoints of `folder` other than those named in `keep`, and what a kill left half-written."""
    keep = set(keep)
    for entry in folder.iterdir():
        if entry.name.endswith((".partial", ".link")) and entry.name.startswith("."):
            shutil.rmtree(entry, ignore_errors=True) if entry.is_dir() else entry.unlink()
        elif entry.name.startswith("step_") and entry.name not in keep:
            # Renamed first: a kill half-way through deleting leaves no folder that looks complete.
            doomed = folder / f".{entry.name}.partial"
            shutil.rmtree(doomed, ignore_errors=True)
            entry.rename(doomed)
            shutil.rmtree(doomed)


def _shape(tensor: Tensor | None) -> tuple[int, ...] | str:
    return "nothing" if tensor is None else tuple(tensor.shape)


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _hint(path: Path) -> str:
    """The checkpoints to be found at or below `path`, for an error message."""
    places = (path, path.parent, path / "checkpoints", path.parent.parent)
    found = [f for place in places if place.is_dir() for f in sorted(place.glob("step_*"))]
    return f"; there are {', '.join(map(str, found[-4:]))}" if found else ""


__all__ = [
    "FORMAT_VERSION",
    "Checkpoint",
    "CheckpointError",
    "latest",
    "load_weights",
    "point",
    "prune",
    "read",
    "step_name",
    "write",
]
