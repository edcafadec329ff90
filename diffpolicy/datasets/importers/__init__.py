"""Recordings of other formats: one file each, found by looking at the files."""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterator
from pathlib import Path

from diffpolicy import registry
from diffpolicy.datasets.importers.base import Array, DamagedEpisode, Episode, Importer, Say
from diffpolicy.util.errors import explain, require

__all__ = ["Array", "DamagedEpisode", "Episode", "Importer", "Say", "UnknownFormat", "formats", "recognize"]

_LAST = "unreadable"
"""What it refuses may be of a format of another package."""


class UnknownFormat(ValueError):
    """A recording that no format knows; one that is known and damaged is another ValueError."""


def formats() -> dict[str, str]:
    """Return the formats by name, with a line on each."""
    return {name: reader.summary for name, reader in _readers()}


def recognize(path: Path, format: str | None = None) -> tuple[type[Importer], str]:
    """Return the reader of a recording, and what the recording is.

    Args:
        path: a file or a folder.
        format: name of the format; None looks.

    Raises:
        FileNotFoundError: nothing at `path`.
        UnknownFormat: a recording of none of them.
        ValueError: an unknown name of a format, or a recording that is known and cannot be read.
    """
    there = "a file or a folder with a recording"
    require(path.exists(), f"no recording at {path}", there, error=FileNotFoundError)
    if format is not None:
        told: type[Importer] = registry.lookup("importer", format)
        return told, told.recognize(path) or f"{format}, as told"
    for _, reader in _readers():
        if (found := reader.recognize(path)) is not None:
            return reader, found
    known = "; ".join(f"{name}: {summary}" for name, summary in formats().items())
    raise UnknownFormat(explain(f"{path} is of no format that is known here ({_holds(path)})", f"one of {known}"))


def _readers() -> Iterator[tuple[str, type[Importer]]]:
    """The formats by name, without those of installed packages that cannot be imported."""
    for name in sorted(registry.known("importer"), key=lambda name: name == _LAST):
        try:
            yield name, registry.lookup("importer", name)
        except Exception as error:  # whatever the package of somebody else raises
            _say_once(f"the format {name!r} is left out: {error}")


@functools.cache
def _say_once(says: str) -> None:
    print(says, file=sys.stderr)


def _holds(path: Path) -> str:
    if path.is_dir():
        names = sorted(entry.name for entry in path.iterdir())
        return f"a folder with {', '.join(names[:6]) or 'nothing'}{', …' if len(names) > 6 else ''}"
    return f"a file of {path.stat().st_size:,} bytes"
