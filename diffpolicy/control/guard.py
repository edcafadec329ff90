"""What stands between a policy and a robot: no action beyond its limits passes, and none that is no number."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np

_LOG = logging.getLogger(__name__)


@final
@dataclass(frozen=True)
class Limits:
    """Limits of actions, (A,) each, in their units.

    Args:
        low: smallest values.
        high: largest values.
        speed: largest change from one action to the next; None has no such limit.
        bend: largest change of that change, except to stop at what is asked for; None has no such limit.

    Raises:
        ValueError: shapes that do not agree, low above high, or limits that are no numbers or below 0.
    """

    low: np.ndarray
    high: np.ndarray
    speed: np.ndarray | None = None
    bend: np.ndarray | None = None

    def __post_init__(self) -> None:
        for name, values in vars(self).copy().items():
            if values is not None:
                array = np.asarray(values, np.float64).reshape(-1)
                if not np.isfinite(array).all() or array.shape != np.shape(self.low):
                    raise ValueError(f"limits {name}={array.tolist()}; expected {np.size(self.low)} finite numbers")
                object.__setattr__(self, name, array)
        if (self.low > self.high).any():
            raise ValueError(f"limits from {self.low.tolist()} to {self.high.tolist()}; expected low <= high")
        for name in ("speed", "bend"):
            values = vars(self)[name]
            if values is not None and (values < 0).any():
                raise ValueError(f"limits {name}={values.tolist()}; expected numbers >= 0")

    @classmethod
    def of(cls, episodes: Sequence[np.ndarray], margin: float = 0.1) -> Limits:
        """Return the ranges of recorded actions, one array (L, A) per episode, widened by a part of each."""
        whole = np.concatenate(episodes).astype(np.float64)
        low, high = whole.min(0), whole.max(0)
        wider, changes = margin * (high - low), list[np.ndarray | None]()
        for n in (1, 2):
            steps = [np.abs(np.diff(one, n=n, axis=0)) for one in episodes if len(one) > n]
            changes.append((1 + margin) * np.concatenate(steps).max(0) if steps else None)
        return cls(low - wider, high + wider, *changes)

    def to_plain(self) -> dict[str, Any]:
        """Return plain data for a checkpoint or a message."""
        return {name: None if values is None else values.tolist() for name, values in vars(self).items()}

    @classmethod
    def from_plain(cls, data: Mapping[str, Any]) -> Limits:
        """Return what `to_plain` was called on."""
        low = np.asarray(data["low"], np.float64).reshape(-1)
        return cls(low, *(data.get(name) for name in ("high", "speed", "bend")))


@final
class Guard:
    """Clips actions to limits, and repeats the last good one where an action is none; counts what it did.

    Args:
        limits: of actions.
        watchdog: seconds that a chunk may be waited for; then the robot is to hold, see `RealTimeRunner`.
    """

    def __init__(self, limits: Limits, watchdog: float = 1.0) -> None:
        if not watchdog > 0:
            raise ValueError(f"watchdog={watchdog}; expected seconds above 0")
        self.limits, self.watchdog = limits, watchdog
        self.interventions: Counter[str] = Counter()
        self._last: np.ndarray | None = None
        self._change: np.ndarray | None = None

    def reset(self, at: np.ndarray | None = None) -> None:
        """Start anew; the first action may be no farther from `at` (A,) than `speed`, if it is given and finite."""
        known = at is not None and bool(np.isfinite(at).all())
        self._last = np.asarray(at, np.float64) if known else None
        self._change = None

    def __call__(self, action: Any) -> np.ndarray:
        """Return the action (A,) float32 that may be carried out.

        Raises:
            ValueError: the very first action is no action, and there is none to repeat.
        """
        limits = self.limits
        array = self._read(action)
        if array is None:
            if self._last is None:
                raise ValueError(f"the first action is {action!r}; expected {len(limits.low)} finite numbers")
            array = self._last.copy()
        wanted = array
        array = self._noted("value", np.clip(wanted, limits.low, limits.high), wanted)
        if self._last is not None:
            asked = change = array - self._last
            if limits.bend is not None and self._change is not None:
                change = self._noted(
                    "bend", np.clip(change, self._change - limits.bend, self._change + limits.bend), change
                )
            if limits.speed is not None:
                change = self._noted("speed", np.clip(change, -limits.speed, limits.speed), change)
            change = np.clip(change, np.minimum(asked, 0), np.maximum(asked, 0))  # never beyond, never the other way
            array = np.clip(self._last + change, limits.low, limits.high)
            self._change = array - self._last
        self._last = array
        return array.astype(np.float32)

    def _read(self, action: Any) -> np.ndarray | None:
        try:
            array = np.asarray(action, np.float64)
        except (TypeError, ValueError):
            array = None
        if array is None or array.shape != self.limits.low.shape:
            return self._note("shape", action)
        return array if np.isfinite(array).all() else self._note("not finite", action)

    def _note(self, what: str, action: Any) -> None:
        self.interventions[what] += 1
        _LOG.warning("guard: %s, %r", what, action)

    def _noted(self, what: str, allowed: np.ndarray, wanted: np.ndarray) -> np.ndarray:
        if (allowed != wanted).any():
            self._note(what, wanted)
        return allowed
