"""An inspection in a few lines for the terminal, and the list of the catalog."""

from __future__ import annotations

import json
from collections.abc import Iterator

import numpy as np

from diffpolicy.datasets import catalog
from diffpolicy.datasets.inspection.finding import listed, plural
from diffpolicy.datasets.inspection.inspect import Inspection
from diffpolicy.datasets.inspection.measure import Measurements
from diffpolicy.datasets.inspection.relations import Relation, grouped, relations

_LINE = 118


def text(inspection: Inspection) -> str:
    """Return what a recording holds and what was found, as lines."""
    m = inspection.measured
    lines = [
        f"{inspection.path}: {plural(len(m.episodes), 'episode')}, {plural(m.frames, 'frame')}; {inspection.seen}"
    ]
    if m.episodes:
        lines += [_lengths(m), *_outcome(m)]
    lines += [*_arrays(m), *related(m)]
    lines += [_cut(f"{key}: {plain(value)}") for key, value in inspection.attrs.items()]
    if inspection.digest:
        lines.append(f"SHA-256 of the recording: {inspection.digest}")
    lines.append("")
    count = plural(len(inspection.findings), "thing")
    verdict = f"nothing is wrong, {count} to know:" if inspection.sound else f"found {count}:"
    lines.append(verdict if inspection.findings else "nothing is wrong")
    lines += [f"  {finding}" for finding in inspection.findings]
    return "\n".join(lines)


def _lengths(m: Measurements) -> str:
    low, middle, high = np.percentile(m.lengths, [0, 50, 100]).astype(int)
    seconds = f" ({middle / m.fps:g} s at {m.fps:g} Hz)" if m.fps else ""
    return f"lengths: {low} to {high}, half of them up to {middle} frames{seconds}"


def _outcome(m: Measurements) -> Iterator[str]:
    known = [one.episode.success for one in m.episodes if one.episode.success is not None]
    if known:
        yield f"success: {sum(known)} of {len(known)}"
    tasks = list(dict.fromkeys(one.episode.task for one in m.episodes if one.episode.task is not None))
    if tasks:
        yield _cut(f"tasks: {listed([repr(task) for task in tasks])}")


def _arrays(m: Measurements) -> Iterator[str]:
    for name, array in m.arrays.items():
        unit = f" {array.unit}" if array.unit else ""
        low, high = extent(m, name)
        span = f": {low:g} to {high:g}{unit}" if low <= high else ""
        kind = "camera" if array.image else array.role
        yield f"{name} {array.shape} {array.dtype}{span}" + (f", {kind}" if kind in ("camera", "other") else "")


def extent(m: Measurements, name: str) -> tuple[float, float]:
    """Return the smallest and the largest value of an array; the first is larger if nothing was read."""
    if name in m.pictures:
        return m.pictures[name].low, m.pictures[name].high
    one = m.numbers[name]
    return float(one.low.min()), float(one.high.max())


def related(m: Measurements) -> Iterator[str]:
    """Yield how each action hangs together with the states, a line each."""
    for name, moments in m.moments.items():
        for words, found in grouped(relations(moments)).items() if m.episodes else ():
            which = name if len(found) == m.numbers[name].dims else f"{name}[{_dims(found)}]"
            yield f"{which} {words} ({_quality(found)})"


def _dims(found: list[Relation]) -> str:
    return ",".join(str(one.dim) for one in found)


def _quality(found: list[Relation]) -> str:
    if all(one.same for one in found):
        return "exactly"
    return f"R² {_span([one.r2 for one in found])}, gain {_span([one.gain for one in found])}"


def _span(values: list[float]) -> str:
    low, high = f"{min(values):.2f}", f"{max(values):.2f}"
    return low if low == high else f"{low} to {high}"


def plain(value: object) -> str:
    """Return an attribute as text."""
    return value if isinstance(value, str) else json.dumps(value)


def _cut(line: str) -> str:
    return line if len(line) <= _LINE else line[: _LINE - 1] + "…"


def list_sources() -> str:
    """Return the sources of the catalog and what can be observed of each, as lines of text."""
    lines = ["Data sets by name (dataset.name=…):"]
    for name in catalog.names():
        try:
            source = catalog.lookup(name)
        except ValueError as error:  # another package's, which is broken
            lines.append(f"  {name:14} {error}")
            continue
        lines.append(f"  {name:14} {source.summary}")
        if issubclass(source, catalog.DemonstrationSource):
            lines += [f"  {'':14}   observation.mode={mode}: {what}" for mode, what in source.modes.items()]
            if source.transforms:
                lines.append(f"  {'':14}   dataset.transforms: {', '.join(source.transforms)}")
    return "\n".join(lines)
