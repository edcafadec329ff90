"""Which checkpoints of a run are kept, and which of them `last` and `best` stand for."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from pathlib import Path

from diffpolicy import checkpoint
from diffpolicy.util import files

_LINK = ".link"


def point(folder: Path, name: str, target: str | None) -> None:
    """Make `folder/name` stand for a checkpoint, replacing atomically what it was.

    Args:
        folder: where the checkpoints of a run are.
        name: "last" or "best".
        target: name of a step's folder; None removes `name`.
    """
    place = folder / name
    if place.is_dir() and not place.is_symlink():
        _release(place)
    if target is None:
        place.unlink(missing_ok=True)
    elif not _link(place, target):
        files.write_text(place, f"{target}\n")
    files.flush(folder)


def prune(folder: Path, keep: Iterable[str]) -> None:
    """Delete the checkpoints of `folder` other than those named in `keep`, and what a kill left half-written."""
    keep = set(keep)
    for entry in folder.iterdir():
        if entry.name.endswith((files.PARTIAL, _LINK)):
            shutil.rmtree(entry, ignore_errors=True) if entry.is_dir() else entry.unlink()
        elif entry.name.startswith("step_") and entry.name not in keep:
            _remove(entry)


def _link(place: Path, target: str) -> bool:
    """Whether `place` could be made a symbolic link. Windows replaces none, and some file systems have none."""
    if os.name == "nt":
        return False
    link = place.with_name(f".{place.name}.{os.getpid()}{_LINK}")
    link.unlink(missing_ok=True)
    try:
        os.symlink(target, link)
    except (OSError, NotImplementedError) as error:
        if files.is_disk_full(error):
            raise
        return False
    files.rename(link, place)
    return True


def _release(place: Path) -> None:
    """Make room at `place`, where a copy of a run has a folder instead of a link."""
    step = place.parent / checkpoint.step_name(checkpoint.read(place).step)
    if step.exists():
        _remove(place)
    else:
        files.rename(place, step)


def _remove(folder: Path) -> None:
    """Delete a checkpoint. Renamed first: a kill half-way leaves no folder that looks complete."""
    doomed = folder.with_name(f".{folder.name}{files.PARTIAL}")
    shutil.rmtree(doomed, ignore_errors=True)
    files.rename(folder, doomed)
    shutil.rmtree(doomed)
