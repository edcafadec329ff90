"""Checks of cameras: the order of axes, pictures that stand still, black and empty ones."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from diffpolicy.datasets.checks import check_camera
from diffpolicy.datasets.inspection.finding import BREAKS, HURTS, NOTE, Finding, down_sampled, listed, plural, without
from diffpolicy.datasets.inspection.measure import Measurements
from diffpolicy.datasets.inspection.numbers import Place
from diffpolicy.datasets.inspection.pictures import Pictures

_FROZEN = 0.2
"""Fraction of pictures that stay the same while the robot moves from which a camera is slower than the recording."""

_STUCK = 0.95
"""Fraction from which a camera shows nothing of an episode."""

_MOVING = 5
"""Frames with motion below which an episode says nothing about a camera."""

_BAD = 0.01
"""Fraction of black or empty pictures from which they hurt; single ones come with switching a camera on."""


def axes(m: Measurements) -> Iterator[Finding]:
    """Find pictures with their channels in front, or without any."""
    for name, array in m.arrays.items():
        try:
            check_camera(name, (0, *array.shape), array.dtype)
        except ValueError as error:
            yield Finding(BREAKS, "axes", str(error), weight=1)


def frozen(m: Measurements) -> Iterator[Finding]:
    """Find cameras that stand still while the robot moves."""
    for name, camera in m.pictures.items():
        told = [one for one in camera.frozen if one.moving >= _MOVING]
        stuck = [one for one in told if one.frozen >= _STUCK * one.moving]
        if stuck:
            numbers = [one.episode for one in stuck]
            says = (
                f"{name} shows the same picture throughout {plural(len(stuck), 'episode')}, while the robot moves: "
            )
            place = Place(stuck[0].episode, stuck[0].first)
            part = len(stuck) / len(told)
            severity = BREAKS if len(stuck) == len(told) else HURTS
            yield Finding(severity, "stuck", says + listed(numbers), without(m, numbers), place, part)
        rest = [one for one in told if one not in stuck]
        count, moving = sum(one.frozen for one in rest), sum(one.moving for one in rest)
        if moving and count >= _FROZEN * moving:
            worst = max(rest, key=lambda one: one.frozen / one.moving)
            says = (
                f"{count / moving:.0%} of the pictures of {name} equal the one before while the robot moves, most in "
                f"episode {worst.episode} from frame {worst.first} on: the camera is slower than the recording"
            )
            cure, place = down_sampled(m, count / moving), Place(worst.episode, worst.first)
            yield Finding(HURTS, "frozen", says, cure, place, count / moving)


def black(m: Measurements) -> Iterator[Finding]:
    """Find black pictures."""
    for camera in m.pictures.values():
        yield from _bad(m, camera, camera.black, "black")


def flat(m: Measurements) -> Iterator[Finding]:
    """Find pictures of one color."""
    for camera in m.pictures.values():
        yield from _bad(m, camera, camera.flat, "flat")


def _bad(m: Measurements, camera: Pictures, places: Sequence[Place], kind: str) -> Iterator[Finding]:
    if not places:
        return
    part = len(places) / camera.count
    words = "black" if kind == "black" else "of one color"
    noun = plural(len(places), "picture")
    says = f"{noun} of {camera.name} ({part:.1%}) {'is' if len(places) == 1 else 'are'} {words}, first {places[0]}"
    if len(places) == camera.count:
        cure = f"leave {camera.name} out of observation.images"
        yield Finding(BREAKS, kind, says, cure, places[0], part)
        return
    episodes = sorted({place.episode for place in places})
    yield Finding(HURTS if part >= _BAD else NOTE, kind, says, without(m, episodes), places[0], part)
