"""A recording of any format or of the catalog, measured and judged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, final

import numpy as np

from diffpolicy.config import DatasetConfig, RunConfig
from diffpolicy.datasets import catalog
from diffpolicy.datasets.buffer import ReplayBuffer
from diffpolicy.datasets.importers import Array, Episode, Importer, recognize
from diffpolicy.datasets.inspection.finding import NOTE, Finding
from diffpolicy.datasets.inspection.findings import find
from diffpolicy.datasets.inspection.measure import Measurements, measure
from diffpolicy.datasets.manifest import digest
from diffpolicy.datasets.zarr_layout import MANIFEST
from diffpolicy.util import hub
from diffpolicy.util.errors import located


@final
@dataclass(frozen=True)
class Inspection:
    """What a recording holds, and what is wrong with it. As text, it is what `diffpolicy inspect` prints.

    Args:
        path: of the recording, or its name in the catalog.
        seen: what it was recognized as.
        measured: ranges, quantiles, relations, pictures.
        findings: what hurts most first.
        attrs: what the recording says of itself.
        digest: SHA-256 of a recording that has a manifest; None for others.
    """

    path: str
    seen: str
    measured: Measurements
    findings: tuple[Finding, ...]
    attrs: Mapping[str, Any]
    digest: str | None = None

    @property
    def sound(self) -> bool:
        """Whether nothing breaks or hurts: there are notes at most."""
        return all(finding.severity == NOTE for finding in self.findings)

    def __str__(self) -> str:
        from diffpolicy.datasets.inspection.text import text

        return text(self)


def inspect_dataset(path: str | Path, format: str | None = None, *, progress: bool = False) -> Inspection:
    """Read a recording once, an episode at a time, and return what it holds and what is wrong with it.

    Args:
        path: a recording of any format that can be converted, also on the hub, or the name of demonstrations of the
            catalog.
        format: name of the format; None looks at the files.
        progress: show a progress bar.

    Raises:
        FileNotFoundError: nothing at `path`.
        ValueError: an unknown format, or a recording of which nothing can be read.
        ImportError: the format needs a package that is not installed.
    """
    said: list[str] = []
    shown = hub.name_of(path) if hub.is_address(path) else path
    if _in_catalog(path):
        path = Path(path)
        importer, seen = _from_catalog(str(path)), "demonstrations of the catalog"
    else:
        path = hub.local(path, "dataset")
        reader, seen = recognize(path, format)
        with located(shown):
            importer = reader(path, said.append)
        importer.name = hub.name_of(shown)
    with importer, located(shown):
        measured = measure(importer, said, progress=progress)
        attrs = dict(importer.attrs)
    own = digest(path) if (path / MANIFEST).exists() else None
    return Inspection(str(shown), seen, measured, find(measured), attrs, own)


def _in_catalog(path: str | Path) -> bool:
    return str(path) in catalog.names() and not Path(path).exists()


def _from_catalog(name: str) -> Importer:
    source = catalog.open_demonstrations(RunConfig(dataset=DatasetConfig(name=name)))
    buffer = source.recorded()
    units = {**source.units, **buffer.attrs.get("units", {})}
    return BufferImporter(name, buffer, units, source.rate_of(buffer))


@final
class BufferImporter(Importer):
    """Reads the episodes of a buffer in memory.

    Args:
        name: of the data set.
        buffer: its content.
        units: of its arrays, by name.
        fps: frames per second; None if not known.
    """

    summary: ClassVar[str] = "demonstrations in memory"

    def __init__(self, name: str, buffer: ReplayBuffer, units: Mapping[str, str], fps: float | None) -> None:
        super().__init__(Path(name), lambda sentence: None)
        self._buffer, self._fps = buffer, fps
        self._slices = buffer.episode_slices()
        self._arrays = {key: _array(key, buffer[key], units.get(key)) for key in buffer.keys()}  # noqa: SIM118

    @classmethod
    def recognize(cls, path: Path) -> str | None:
        return None

    @property
    def arrays(self) -> Mapping[str, Array]:
        return self._arrays

    @property
    def fps(self) -> float | None:
        return self._fps

    @property
    def attrs(self) -> Mapping[str, Any]:
        return self._buffer.attrs

    def episodes(self) -> Sequence[Episode]:
        lengths = self._buffer.episode_lengths.tolist()
        return [Episode(number, f"episode {number}", length) for number, length in enumerate(lengths)]

    def read(self, episode: Episode) -> dict[str, np.ndarray]:
        return {name: self._buffer[name][self._slices[episode.number]] for name in self._arrays}


def _array(name: str, values: np.ndarray, unit: str | None) -> Array:
    return Array(values.shape[1:], values.dtype, "action" if name == "action" else "observation", unit=unit)
