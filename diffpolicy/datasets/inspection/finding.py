"""One thing that was found in a recording: how bad, what, where, and the setting that mends it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import final

from diffpolicy.datasets.inspection.measure import Measurements
from diffpolicy.datasets.inspection.numbers import Place
from diffpolicy.datasets.inspection.relations import CHANGE, relations
from diffpolicy.util.names import check

BREAKS, HURTS, NOTE = SEVERITIES = ("breaks", "hurts", "note")
"""Breaks: training stops, or the policy cannot work. Hurts: it gets worse. Note: good to know; nothing is wrong."""


@final
@dataclass(frozen=True)
class Finding:
    """Something that was found in a recording.

    Args:
        severity: one of `SEVERITIES`.
        kind: which check found it, a word.
        says: a sentence, with frame and episode.
        cure: the setting that mends it; None if there is nothing to mend.
        place: the first or worst frame.
        weight: orders findings of one severity: the fraction of the recording that is affected.

    Raises:
        ValueError: an unknown severity.
    """

    severity: str
    kind: str
    says: str
    cure: str | None = None
    place: Place | None = None
    weight: float = 0.0

    def __post_init__(self) -> None:
        check("severity", self.severity, SEVERITIES)

    def __str__(self) -> str:
        return f"{self.severity}: {self.says}" + (f"; {self.cure}" if self.cure else "")


Check = Callable[[Measurements], Iterator[Finding]]
"""Looks at what was measured for one kind of fault."""


def convert(setting: str) -> str:
    """Return the command that changes a recording by a setting of `convert`."""
    return f"diffpolicy convert SOURCE OUT {setting}"


def without(m: Measurements, numbers: Sequence[int]) -> str:
    """Return the command that leaves episodes out."""
    out = set(numbers)
    left = [one.episode.number for one in m.episodes if one.episode.number not in out]
    return convert(f"episodes={ranges(left)}") if left else "record others"


def down_sampled(m: Measurements, repeated: float) -> str:
    """Return the command that keeps one of several frames, of which a fraction repeats the one before.

    Actions that are changes would lose those of the frames left out, and are made anew from the state.
    """
    every = f"every={max(2, round(1 / (1 - repeated)))}"
    found = [one for moments in m.moments.values() for one in relations(moments)]
    changes = [one for one in found if one.kind == CHANGE]
    states = m.state_keys or tuple(dict.fromkeys(one.state for one in changes))
    return convert(f"{every} action=next:{'+'.join(states)}" if 2 * len(changes) > len(found) else every)


def ranges(numbers: Sequence[int]) -> str:
    """Return increasing numbers as `convert` takes them, for example "0-4,6"."""
    parts: list[list[int]] = []
    for number in numbers:
        if parts and number == parts[-1][1] + 1:
            parts[-1][1] = number
        else:
            parts.append([number, number])
    return ",".join(f"{first}-{last}" if last > first else f"{first}" for first, last in parts)


def listed(items: Sequence[object], limit: int = 5) -> str:
    """Return items joined by commas, the first ones if there are many."""
    more = f" and {len(items) - limit} more" if len(items) > limit else ""
    return ", ".join(map(str, items[:limit])) + more


def plural(count: int, noun: str) -> str:
    """Return "1 frame" or "3 frames"."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
