"""Reading and writing checkpoints: a folder named by its step, complete or not there at all.

    RUN/checkpoints/step_00002500/
        checkpoint.json        format version, step, training state, SHA-256 of every other file
        config.yaml            the run's config
        model.safetensors      weights             ema.safetensors        their moving average
        normalizer.safetensors                     training.safetensors   optimizer
    RUN/checkpoints/last -> step_00002500          best -> step_00002000

A checkpoint is written into a hidden folder beside its place, flushed to disk and renamed. `last` and `best` are
symbolic links, or, where there are none, text files that name a step (`training.retention`); in a copy of a run they
may be folders. A kill at any moment leaves the previous state or the new one. Nothing is unpickled.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import safetensors.torch
import torch
import yaml
from safetensors import SafetensorError
from torch import Tensor, nn

from diffpolicy.util import files, hub
from diffpolicy.util.device import pick_device
from diffpolicy.util.errors import explain, require
from diffpolicy.util.names import check

FORMAT_VERSION = 1
POINTERS = ("best", "last")
_INFO = "checkpoint.json"
_FOR_TRAINING = ("model.safetensors", "training.safetensors")  # may be deleted where a policy only acts
_DOWNLOADED = ("*.json", "*.yaml", "*.safetensors", *POINTERS)
_STEP = re.compile(r"step_\d{8,}")
OTHER_BYTES = 1 << 16
"""Bytes of a checkpoint beside its tensors, at most."""

Module = TypeVar("Module", bound=nn.Module)


class CheckpointError(RuntimeError):
    """A checkpoint that is missing, incomplete, damaged, or made for something else."""


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint on disk, its files verified; tensors are read when asked for.

    Args:
        path: its folder.
        step: number of updates.
        state: what training noted, such as the ranking of checkpoints.
        config: the run's config as it was stored, in the version of its release.
        sha256: digest by file name.
    """

    path: Path
    step: int
    state: dict[str, Any]
    config: dict[str, Any]
    sha256: dict[str, str]

    def tensors(self, group: str) -> dict[str, Tensor]:
        """Return the tensors of one group ("model", "ema", "normalizer", "training"), by flat names."""
        there = sorted(file.stem for file in self.path.glob("*.safetensors"))
        require(group in there, f"{self.path} holds no {group!r} tensors", f"one of {there}", error=CheckpointError)
        return safetensors.torch.load_file(self.path / f"{group}.safetensors")


def step_name(step: int) -> str:
    """Return the name of a step's folder."""
    return f"step_{step:08d}"


def write(
    folder: Path,
    step: int,
    groups: Mapping[str, Mapping[str, Tensor]],
    config: Mapping[str, Any],
    state: Mapping[str, Any],
) -> Path:
    """Write the checkpoint of a step and return its path. One that exists is kept as it is.

    Args:
        folder: where the checkpoints of a run are.
        step: number of updates.
        groups: tensors by group and flat name.
        config: the run's config as plain data (numbers, strings, lists, mappings).
        state: further plain data.

    Raises:
        DiskFullError: there is no room; nothing is left behind.
    """
    final = folder / step_name(step)
    if final.exists():
        return final
    needed = sum(tensor.nbytes for tensors in groups.values() for tensor in tensors.values()) + OTHER_BYTES
    files.require_space(final, needed)
    partial = folder / f".{final.name}.{os.getpid()}{files.PARTIAL}"
    try:
        _write(partial, step, groups, config, state)
        files.rename(partial, final)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(partial, ignore_errors=True)
        if files.is_disk_full(error):
            raise files.DiskFullError(final, needed) from None
        raise
    files.flush(folder)
    return final


def _write(
    partial: Path,
    step: int,
    groups: Mapping[str, Mapping[str, Tensor]],
    config: Mapping[str, Any],
    state: Mapping[str, Any],
) -> None:
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    for group, tensors in groups.items():
        contiguous = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
        safetensors.torch.save_file(contiguous, partial / f"{group}.safetensors")
    (partial / "config.yaml").write_text(yaml.safe_dump(dict(config), sort_keys=False), encoding="utf-8")
    digests = {file.name: files.sha256(file) for file in sorted(partial.iterdir())}
    info = {"format_version": FORMAT_VERSION, "step": step, "state": dict(state), "sha256": digests}
    (partial / _INFO).write_text(json.dumps(info, indent=1), encoding="utf-8")
    for file in partial.iterdir():
        files.flush(file)
    files.flush(partial)


def locate(path: str | Path) -> Path:
    """Return the folder of the checkpoint that a path stands for.

    Args:
        path: a step's folder, `best` or `last`; or a run or its folder `checkpoints`, which stand for their best
            checkpoint if they were evaluated, else for the last; or hf://user/repo, which is downloaded.

    Raises:
        CheckpointError: nothing there.
        OSError: the hub does not have it, or cannot be reached.
    """
    path = _local(path)
    if (found := _target(path)) is not None:
        return found
    for folder in filter(Path.is_dir, (path / "checkpoints", path)):
        places = [folder / name for name in POINTERS] + sorted(folder.glob("step_*"), reverse=True)
        if found := next(filter(None, map(_target, places)), None):
            return found
    if path.is_dir():
        return path.resolve()
    raise CheckpointError(explain(f"no checkpoint at {path}", cure=_others(path)))


def _local(path: str | Path) -> Path:
    """Where a path is on this machine; what is on the hub is downloaded, without videos and pages."""
    return hub.local(path, "model", _DOWNLOADED)


def _target(path: Path) -> Path | None:
    """The folder of a checkpoint at `path`, a folder, a link or a pointer file; None if there is none."""
    if path.is_file():
        with path.open("rb") as stream:
            name = stream.read(64).decode(errors="replace").strip()
        path = path.parent / name if _STEP.fullmatch(name) else path
    return path.resolve() if (path / _INFO).is_file() or (path.is_dir() and _STEP.fullmatch(path.name)) else None


def read(path: str | Path) -> Checkpoint:
    """Open and verify the checkpoint that `path` stands for, see `locate`.

    Raises:
        CheckpointError: nothing there, a half-written or damaged one, or another format version.
    """
    path = _local(path)
    while True:
        place = locate(path)
        try:
            return _read(place)
        except (OSError, CheckpointError):
            if locate(path) == place:
                raise  # otherwise a training has moved `last` on meanwhile and removed what it named


def _read(path: Path) -> Checkpoint:
    try:
        info = json.loads((path / _INFO).read_text(encoding="utf-8"))
        version, digests = info["format_version"], info["sha256"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        says = explain(f"{path} is no complete checkpoint ({_INFO}: {error})", cure=_others(path))
        raise CheckpointError(says) from None
    require(
        version == FORMAT_VERSION,
        f"{path} has format version {version}",
        str(FORMAT_VERSION),
        "use the release that wrote it",
        CheckpointError,
    )
    damaged = next(filter(None, (_damage(path / name, digest) for name, digest in digests.items())), None)
    if damaged:
        raise CheckpointError(explain(damaged, cure=_others(path)))
    config = yaml.safe_load((path / "config.yaml").read_text(encoding="utf-8"))
    return Checkpoint(path, int(info["step"]), info["state"], config, digests)


def _damage(file: Path, digest: str) -> str | None:
    if not file.is_file():
        return None if file.name in _FOR_TRAINING else f"{file} is missing"
    return None if files.sha256(file) == digest else f"{file} is damaged (its SHA-256 is not the one recorded)"


def latest(folder: Path) -> Checkpoint | None:
    """Return the checkpoint that `folder/last` names, or, where that is missing, the newest; None if there is none.

    Raises:
        CheckpointError: it is damaged.
    """
    places = [folder / "last", *sorted(folder.glob("step_*"), reverse=True)]
    found = next(filter(None, map(_target, places)), None)
    return None if found is None else read(found)


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


@contextmanager
def opened(path: str | Path, what: str) -> Iterator[Checkpoint]:
    """Yield the checkpoint at `path`, to build a `what` from; settings that describe none raise CheckpointError."""
    saved = read(path)
    try:
        yield saved
    except (KeyError, ValueError, TypeError) as error:
        raise CheckpointError(f"{saved.path} holds no {what}: {error}") from error


def prepare(module: Module, saved: Checkpoint, weights: str = "ema", device: str | torch.device = "cpu") -> Module:
    """Return `module` with a checkpoint's weights, ready for inference: without dropout and gradients.

    Args:
        module: built from the checkpoint's config.
        saved: the checkpoint.
        weights: "ema" (the moving average) or "model" (the last step's).
        device: where the module goes.

    Raises:
        CheckpointError: weights that do not fit.
        ValueError: other `weights`, or a device that this machine does not have.
    """
    check("weights", weights, ("ema", "model"))
    target = pick_device(device)
    load_weights(module, saved.tensors(weights), saved.path)
    return module.to(target).eval().requires_grad_(False)


def _shape(tensor: Tensor | None) -> tuple[int, ...] | str:
    return "nothing" if tensor is None else tuple(tensor.shape)


def restate(path: Path, state: Mapping[str, Any]) -> None:
    """Replace the training state of the checkpoint at `path`, whose tensors stay."""
    info = json.loads((path / _INFO).read_text(encoding="utf-8"))
    files.write_text(path / _INFO, json.dumps({**info, "state": dict(state)}, indent=1))


def _others(path: Path) -> str | None:
    """The checkpoints to be found near `path`, for an error message."""
    places = (path, path.parent, path / "checkpoints", path.parent.parent)
    found = [file for place in places if place.is_dir() for file in sorted(place.glob("step_*")) if file != path]
    return f"take another one: {', '.join(map(str, found[-4:]))}" if found else None
