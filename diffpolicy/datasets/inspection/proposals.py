"""Proposals of how a network should see rotations and angles, found by names, norms and jumps."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from diffpolicy.datasets.inspection.checks_numbers import is_angle
from diffpolicy.datasets.inspection.finding import HURTS, NOTE, Finding, listed, plural
from diffpolicy.datasets.inspection.measure import Measurements
from diffpolicy.datasets.inspection.numbers import Numbers
from diffpolicy.datasets.inspection.rotations import EULER, NAMED, Rotations


def quaternions(m: Measurements) -> Iterator[Finding]:
    """Find quaternions, which change their sign without a motion."""
    for one, rotations in _rotating(m):
        for start in rotations.quaternions(one.constant):
            count, first = rotations.flips(start)
            what = _part(one, start, 4)
            cure = f"{_holds(what, 'quaternion_xyzw')}, or quaternion_wxyz if the real part is the first"
            if first is None:
                says = f"{what} looks like a quaternion: of norm 1 in every frame"
                yield Finding(NOTE, "quaternion", says, cure)
                continue
            place = first.place._replace(frame=first.place.frame + 1)
            says = f"the quaternion {what} changes its sign {plural(count, 'time')}, first at {place}"
            yield Finding(HURTS, "quaternion_sign", says, cure, place, count / max(m.frames, 1))


def rotation_vectors(m: Measurements) -> Iterator[Finding]:
    """Find rotation vectors, which jump at half a turn."""
    for one, rotations in _rotating(m):
        if one.array.shape != (3,) or EULER.search(one.name) or not NAMED.search(one.name):
            continue
        if not rotations.is_within_half_turn:
            continue
        if turns := rotations.turns():
            place = turns[0].place._replace(frame=turns[0].place.frame + 1)
            says = f"the rotation vector {one.name} jumps by {turns[0].score:.3g} rad at {place}, at half a turn"
            yield Finding(HURTS, "rotation_jump", says, _holds(one.name, "axis_angle"), place, len(turns) / m.frames)
        else:
            says = f"{one.name} looks like a rotation vector (axis times angle)"
            yield Finding(NOTE, "rotation_vector", says, _holds(one.name, "axis_angle"))


def angles(m: Measurements) -> Iterator[Finding]:
    """Find angles that jump by a full turn."""
    for one in m.of_role("action", "observation"):
        dims = [dim for dim in range(one.dims) if is_angle(one, dim)]
        if not dims:
            continue
        at = max((at for at in one.steps_above(0.85 * one.range) if at.dim in dims), key=lambda at: at.score)
        place = at.place._replace(frame=at.place.frame + 1)
        which = listed([one.label(dim) for dim in dims], 4)
        says = f"{which} is an angle that jumps by a full turn, as at {place}"
        if at.score > 2 * np.pi:
            cure = "convert it to radians, and see it as dataset.representations.…=angle"
        else:
            parts = [one.name if one.dims == 1 else f"{one.name}[{dim}]" for dim in dims]
            forms = ["angle" if one.low[dim] < 0 else "angle_positive" for dim in dims]
            cure = " ".join(map(_holds, parts, forms))
        yield Finding(HURTS, "angle", says, cure, place, len(dims) / one.dims)


def _rotating(m: Measurements) -> Iterator[tuple[Numbers, Rotations]]:
    for one in m.of_role("action", "observation"):
        if one.name in m.rotations:
            yield one, m.rotations[one.name]


def _part(one: Numbers, start: int, size: int) -> str:
    return one.name if one.dims == size else f"{one.name}[{start}:{start + size}]"


def _holds(part: str, form: str) -> str:
    """The setting that says what an array or a part of one holds."""
    return f"dataset.representations.{part}={form}"
