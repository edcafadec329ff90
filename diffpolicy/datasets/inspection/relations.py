"""How actions and states hang together: which number of a state an action is, how many steps later, and how much."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import final

import numpy as np

VALUE, CHANGE = "value", "change"
"""An action may be a state, or the change of a state from one frame to the next."""

LAGS = {VALUE: range(-3, 11), CHANGE: range(-2, 5)}
"""Steps by which the state is looked at behind the action: teleoperated arms follow by some tenths of a second."""

_CLEAR = 0.8
"""R² from which a relation is worth a line: below, much of an action is something else."""

_PAIRS = 30
"""Frames that a relation has to hold in: a line through a few points always fits."""

_NEARLY = 0.95
"""R² and gain from which an action is nearly the state itself, as the position a robot is sent to is."""

_SAME = 1e-6
"""Fraction of the action's variance up to which action and state are the same numbers, float32 rounding included."""


@final
@dataclass(frozen=True)
class Relation:
    """One dimension of an action, as a linear function of one dimension of a state.

    Args:
        dim: of the action.
        state: name of the state's array.
        state_dim: of the state.
        kind: `VALUE` or `CHANGE`.
        lag: the state this many frames behind the action; negative: before it.
        gain: the action's change for a change of 1 of the state.
        r2: fraction of the action's variance that is explained.
        same: whether the two are equal, gain 1 and offset 0.
    """

    dim: int
    state: str
    state_dim: int
    kind: str
    lag: int
    gain: float
    r2: float
    same: bool

    @property
    def words(self) -> str:
        """The relation without dimensions, for example "is nearly state 1 step later"."""
        close = self.kind == VALUE and self.r2 >= _NEARLY and abs(self.gain - 1) <= 1 - _NEARLY
        verb = "is" if self.same else "is nearly" if close else "goes with"
        steps = f"{abs(self.lag)} step{'s' if abs(self.lag) > 1 else ''}"
        when = "at the same time" if self.lag == 0 else f"{steps} {'later' if self.lag > 0 else 'before'}"
        what = self.state if self.kind == VALUE else f"the change of {self.state},"
        return f"{verb} {what} {when}"


@final
class Moments:
    """Sums from which the linear relation of an action and a state follows, for every lag.

    Args:
        action_dims: numbers of the action.
        state_dims: numbers of the state.
    """

    def __init__(self, action_dims: int, state_dims: int) -> None:
        self._shift: tuple[np.ndarray, np.ndarray] | None = None
        size = (action_dims, state_dims)
        self._sums = {(kind, lag): _Sums.empty(*size) for kind, lags in LAGS.items() for lag in lags}

    def add(self, actions: np.ndarray, states: np.ndarray) -> None:
        """Add an episode of actions (L, A) and states (L, S), float64."""
        if self._shift is None:  # sums of numbers far from 0 would lose their digits
            self._shift = actions[0].copy(), states[0].copy()
        actions, states = actions - self._shift[0], states - self._shift[1]
        for kind, values in ((VALUE, states), (CHANGE, np.diff(states, axis=0))):
            for lag in LAGS[kind]:
                first, stop = max(0, -lag), min(len(actions), len(values) - lag)
                if stop > first:
                    self._sums[kind, lag].add(actions[first:stop], values[first + lag : stop + lag])

    def fits(self, kind: str, lag: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return R², gain and "are the same" of every pair of dimensions, each (A, S)."""
        shift = self._shift[0][:, None] - self._shift[1] if self._shift is not None and kind == VALUE else None
        return self._sums[kind, lag].fit(shift)


@dataclass
class _Sums:
    count: int
    a: np.ndarray
    s: np.ndarray
    aa: np.ndarray
    ss: np.ndarray
    as_: np.ndarray

    @classmethod
    def empty(cls, a: int, s: int) -> _Sums:
        return cls(0, np.zeros(a), np.zeros(s), np.zeros(a), np.zeros(s), np.zeros((a, s)))

    def add(self, a: np.ndarray, s: np.ndarray) -> None:
        self.count += len(a)
        self.a += a.sum(0)
        self.s += s.sum(0)
        self.aa += (a * a).sum(0)
        self.ss += (s * s).sum(0)
        self.as_ += a.T @ s

    def fit(self, shift: np.ndarray | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """R², gain and sameness; `shift` (A, S) is what was subtracted of actions minus what was of states."""
        n = max(self.count, 1)
        a, s = self.a / n, self.s / n
        var_a, var_s = np.maximum(self.aa / n - a * a, 0), np.maximum(self.ss / n - s * s, 0)
        cov = self.as_ / n - np.outer(a, s)
        # what rounding leaves of the variance of a constant is none
        dead = (var_a <= 1e-12 * (self.aa / n))[:, None] | (var_s <= 1e-12 * (self.ss / n))
        with np.errstate(divide="ignore", invalid="ignore"):
            r2 = np.where(dead | (self.count < _PAIRS), 0.0, cov * cov / np.outer(var_a, var_s))
            gain = np.where(dead, 0.0, cov / var_s)
            if shift is None:
                same = np.zeros(cov.shape, bool)
            else:
                off = a[:, None] - s + shift
                residual = var_a[:, None] + var_s - 2 * cov + off * off
                same = ~dead & (residual <= _SAME * var_a[:, None])
        return np.clip(r2, 0, 1), gain, same


def relations(moments: Mapping[str, Moments]) -> list[Relation]:
    """Return for each dimension of an action what it is of the states; those of which nothing is known are left out.

    All dimensions are compared at one lag for each kind, the one that explains most of all of them, since one robot
    has one delay.

    Args:
        moments: of one action and each state, by the state's name.
    """
    if not moments:
        return []
    best = [_at_best_lag(moments, kind) for kind in LAGS]
    chosen = [max(of_dim, key=lambda one: one.r2) for of_dim in zip(*best, strict=True)]  # the value, if equal
    return [one for one in chosen if one.r2 >= _CLEAR]


def same_at(moments: Mapping[str, Moments], lag: int) -> list[int]:
    """Return the dimensions of an action that equal some number of a state at a lag."""
    equal = [fit[2].any(axis=1) for one in moments.values() for fit in [one.fits(VALUE, lag)]]
    return np.flatnonzero(np.any(equal, axis=0)).tolist() if equal else []


def _at_best_lag(moments: Mapping[str, Moments], kind: str) -> list[Relation]:
    by_lag = [list(_best_pairs(moments, kind, lag)) for lag in LAGS[kind]]
    return max(by_lag, key=lambda found: sum(one.r2 + one.same for one in found))


def _best_pairs(moments: Mapping[str, Moments], kind: str, lag: int) -> Iterator[Relation]:
    """For each dimension of the action the state that explains most at a lag."""
    fits = {name: one.fits(kind, lag) for name, one in moments.items()}
    dims = len(next(iter(fits.values()))[0])
    for dim in range(dims):
        candidates = []
        for name, (r2, gain, same) in fits.items():
            at = int(np.argmax(r2[dim] + same[dim]))  # of several equally good ones the one that is equal
            values = float(gain[dim, at]), float(r2[dim, at]), bool(same[dim, at])
            candidates.append(Relation(dim, name, at, kind, lag, *values))
        yield max(candidates, key=lambda one: (one.r2, one.same))


def grouped(found: Sequence[Relation]) -> dict[str, list[Relation]]:
    """Return relations by their words, those of most dimensions first."""
    groups: dict[str, list[Relation]] = {}
    for one in found:
        groups.setdefault(one.words, []).append(one)
    return dict(sorted(groups.items(), key=lambda item: -len(item[1])))
