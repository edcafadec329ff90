"""Checks of actions and observed numbers: outliers, jumps, constants, and how actions and states hang together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from diffpolicy.datasets.checks import VECTOR
from diffpolicy.datasets.inspection.finding import BREAKS, HURTS, NOTE, Finding, convert, listed, plural, without
from diffpolicy.datasets.inspection.measure import Measurements
from diffpolicy.datasets.inspection.numbers import KEPT, Extreme, Numbers, Place
from diffpolicy.datasets.inspection.relations import LAGS, VALUE, same_at

_SPIKE = 1.5
"""A spike is off its neighbors by more than so many ranges of the middle 98%: normal noise stays below 1."""

_APART = 2.0
"""The least of the spikes is so many times the largest deviation that is none: else they are a tail, no fault."""

_SQUEEZED = 0.5
"""Fraction of the whole range that the middle 98% should have: below, `limits` gives less than half to the data."""

_LONG_TAIL = 0.05
"""The same for values that are no single spikes; velocities and forces of sound recordings stay above."""

_FEW = 3
"""So many frames of a dimension, or one in a thousand, are a fault at most; more is what is seldom done."""

_JUMP = 6.0
"""A jump is so many times the change that 99% of the changes do not exceed; in sound motions it is at most 3."""

_JUMP_RANGE = 0.25
"""A jump also covers so much of the middle range: fast motion after long rest does not count."""

_JOINED = 2
"""So many dimensions that jump at once are a break; one alone may be an object that falls."""

_SMOOTH = 0.1
"""Where 99% of the changes are below this fraction of the range, an array is a motion, in which a jump is a fault."""

_STATE = 16  # numbers up to which an array may be what a robot is told to be at


def no_action(m: Measurements) -> Iterator[Finding]:
    """Find a recording from which nothing can be learned: without an action, or with one that never changes."""
    actions = m.of_role("action")
    if not actions:
        moving = [one.name for one in m.of_role("observation") if one.dims <= _STATE and one.usual_step().any()]
        key = "+".join(m.state_keys or moving[:3]) or "KEY"
        yield Finding(BREAKS, "no_action", "there is no action", convert(f"action=next:{key}"), weight=1)
    for one in actions:
        if one.count and one.constant.all():
            says = f"{one.name} never changes: there is nothing to learn"
            yield Finding(BREAKS, "no_action", says, "record others", Place(m.episodes[0].episode.number, 0), 1)


def flattened(m: Measurements) -> Iterator[Finding]:
    """Find arrays of so many numbers that they are pictures."""
    for one in m.numbers.values():
        if one.array.role == "observation" and one.dims > VECTOR and len(one.array.shape) == 1:
            says = f"{one.name} has {one.dims:,} numbers in a frame, as flattened pictures have"
            yield Finding(HURTS, "flattened", says, "store them as (frames, height, width, channels) uint8", weight=1)


def spikes(m: Measurements) -> Iterator[Finding]:
    """Find single frames that are far off their neighbors and off everything else."""
    for one in m.of_role("action", "observation"):
        inner, found = one.inner_range, _spikes(one)
        if not found:
            continue
        worst = found[0]
        squeezed = bool((inner < _SQUEEZED * one.range)[[at.dim for at in found]].any())
        dims = sorted({at.dim for at in found})
        which = listed([one.label(dim) for dim in dims], 3)
        places = list(dict.fromkeys(at.place for at in found))
        more = f", and {plural(len(places) - 1, 'more frame')}" if len(places) > 1 else ""
        says = (
            f"a spike in {which} at {worst.place}: {worst.score:.4g} off its neighbors, where the middle 98% of the "
            f"frames span {inner[worst.dim]:.4g}{more}"
        )
        episodes = sorted({place.episode for place in places})
        cure = f"{_quantiles(one, dims)}, or {without(m, episodes)}" if squeezed else without(m, episodes)
        yield Finding(HURTS if squeezed else NOTE, "spike", says, cure, worst.place, _ratio(one, worst, inner))


def _spikes(one: Numbers) -> list[Extreme]:
    """The spikes of an array, the worst first."""
    inner = one.inner_range
    usual = np.zeros(one.dims)  # the largest deviation that is no spike
    for at in one.deviations_above(usual):
        if at.score <= _SPIKE * inner[at.dim]:
            usual[at.dim] = max(usual[at.dim], at.score)
    found = [at for at in one.deviations_above(_SPIKE * inner) if inner[at.dim] > 0]
    least = np.full(one.dims, np.inf)
    for at in found:
        least[at.dim] = min(least[at.dim], at.score)
    return _seldom(one, [at for at in found if least[at.dim] >= _APART * usual[at.dim]])


def _seldom(one: Numbers, found: Sequence[Extreme]) -> list[Extreme]:
    """Without the dimensions that have more of these than faults are: what happens again and again is no fault."""
    counts = np.bincount([at.dim for at in found], minlength=one.dims)
    few = counts <= min(max(_FEW, one.count // 1000), KEPT - 1)
    return [at for at in found if few[at.dim]]


def _ratio(one: Numbers, at: Extreme, inner: np.ndarray) -> float:
    return float(1 - inner[at.dim] / max(one.range[at.dim], inner[at.dim]))


def _quantiles(one: Numbers, dims: Sequence[int]) -> str:
    if one.array.role != "action":
        return "dataset.normalize.obs=quantiles"
    part = f"[{dims[0]}]" if len(set(dims)) == 1 and one.dims > 1 else ""
    return f"dataset.normalize.action{part}=quantiles"


def long_tails(m: Measurements) -> Iterator[Finding]:
    """Find dimensions whose few large values leave most of the normalized range empty."""
    for one in m.of_role("action", "observation"):
        inner = one.inner_range
        spiked = {at.dim for at in _spikes(one)}
        with np.errstate(divide="ignore", invalid="ignore"):
            part = np.where(one.constant, 1.0, inner / one.range)
        dims = [dim for dim in np.flatnonzero((inner > 0) & (part < _LONG_TAIL)).tolist() if dim not in spiked]
        if dims:
            worst = min(dims, key=lambda dim: part[dim])
            says = (
                f"the middle 98% of {listed([one.label(dim) for dim in dims], 3)} lie within {part[worst]:.1%} of "
                f"the range, {one.low[worst]:.4g} to {one.high[worst]:.4g}"
            )
            yield Finding(NOTE, "long_tail", says, _quantiles(one, dims), weight=float(1 - part[worst]))


def jumps(m: Measurements) -> Iterator[Finding]:
    """Find frames at which a motion breaks off, as where two episodes were joined or a tracker was lost."""
    found: dict[Place, list[str]] = {}
    for one in m.of_role("action", "observation"):
        usual, inner = one.usual_step(), one.inner_range
        smooth = (one.usual_step(0.5) > 0) & (usual < _SMOOTH * inner)  # what mostly rests may be a switch
        wrapped = {dim for dim in range(one.dims) if is_angle(one, dim)}
        spiked = {at.place for at in one.deviations_above(_SPIKE * inner) if inner[at.dim] > 0}
        for at in _seldom(one, one.steps_above(np.maximum(_JUMP * usual, _JUMP_RANGE * inner))):
            place = Place(at.place.episode, at.place.frame + 1)  # steps are counted from the frame before
            if smooth[at.dim] and at.dim not in wrapped and not {place, at.place} & spiked:
                found.setdefault(place, []).append(f"{one.label(at.dim)} jumps by {at.score:.4g}")
    if not found:
        return
    place = max(found, key=lambda at: len(found[at]))
    more = f", and {plural(len(found) - 1, 'more frame')}" if len(found) > 1 else ""
    says = f"a break at {place}: {listed(found[place], 3)}{more}"
    episodes = sorted({at.episode for at in found})
    cure = f"see whether an episode ends there, or {without(m, episodes)}"
    severity = HURTS if len(found[place]) >= _JOINED else NOTE
    yield Finding(severity, "jump", says, cure, place, len(episodes) / len(m.episodes))


def is_angle(one: Numbers, dim: int) -> bool:
    """Return whether a dimension is an angle that jumps by a full turn, in radians or degrees."""
    for turn in (2 * np.pi, 360.0):
        fits = one.range[dim] <= 1.001 * turn and one.low[dim] >= -1.001 * turn / 2
        # most changes are small, and the largest ones are nearly a turn
        bound = np.full(one.dims, np.inf)
        bound[dim] = 0.9 * turn
        if fits and one.usual_step(0.9)[dim] < 0.25 * turn and one.steps_above(bound):
            return True
    return False


def constants(m: Measurements) -> Iterator[Finding]:
    """Find dimensions of the action that never change, in an action that does."""
    for one in m.of_role("action"):
        dims = np.flatnonzero(one.constant).tolist()
        if dims and not one.constant.all():
            labels = listed([f"{one.label(dim)} = {one.low[dim]:.6g}" for dim in dims], 4)
            says = f"constant: {labels}; a policy gives this back exactly"
            yield Finding(NOTE, "constant", says, weight=len(dims) / one.dims)


def copies(m: Measurements) -> Iterator[Finding]:
    """Find actions that are the state of the same or an earlier frame: a policy learns to stay where it is."""
    for name, moments in m.moments.items():
        one = m.numbers[name]
        alive = set(np.flatnonzero(~one.constant).tolist()) if one.count else set()
        for lag in (lag for lag in LAGS[VALUE] if lag <= 0):
            same = sorted(alive & set(same_at(moments, lag)))
            if not same:
                continue
            every = len(same) == len(alive)
            when = "the same frame" if lag == 0 else f"{plural(-lag, 'frame')} before"
            which = name if every else listed([one.label(dim) for dim in same], 4)
            states = [state for state, found in moments.items() if found.fits(VALUE, lag)[2].any()]
            says = f"{which} is {listed(states, 2)} of {when}: a policy learns to stay where it is"
            cure = convert(f"action=next:{'+'.join(m.state_keys or states)}")
            yield Finding(HURTS if every else NOTE, "copy", says, cure, weight=len(same) / one.dims)
