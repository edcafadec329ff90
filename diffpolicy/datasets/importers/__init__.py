"""Recordings of other formats: one file each, found by looking at the files."""

from __future__ import annotations

from pathlib import Path

from diffpolicy import registry
from diffpolicy.datasets.importers.base import Array, DamagedEpisode, Episode, Importer, Say
from diffpolicy.util.errors import explain, require

__all__ = ["Array", "DamagedEpisode", "Episode", "Importer", "Say", "formats", "recognize"]


def formats() -> dict[str, str]:
    """Return the formats by name, with a line on each."""
    return {name: registry.lookup("importer", name).summary for name in registry.known("importer")}


def recognize(path: Path, format: str | None = None) -> tuple[type[Importer], str]:
    """Return the reader of a recording, and what the recording is.

    Args:
        path: a file or a folder.
        format: name of the format; None looks.

    Raises:
        FileNotFoundError: nothing at `path`.
        ValueError: an unknown format, a recording of none of them, or one that is known and cannot be read.
    """
    there = "a file or a folder with a recording"
    require(path.exists(), f"no recording at {path}", there, error=FileNotFoundError)
    for name in registry.known("importer") if format is None else [format]:
        reader: type[Importer] = registry.lookup("importer", name)
        if (found := reader.recognize(path)) is not None:
            return reader, found
        if format is not None:
            return reader, f"{name}, as told"
    known = "; ".join(f"{name}: {summary}" for name, summary in formats().items())
    raise ValueError(explain(f"{path} is of no format that is known here ({_holds(path)})", f"one of {known}"))


def _holds(path: Path) -> str:
    if path.is_dir():
        names = sorted(entry.name for entry in path.iterdir())
        return f"a folder with {', '.join(names[:6]) or 'nothing'}{', …' if len(names) > 6 else ''}"
    return f"a file of {path.stat().st_size:,} bytes"
