"""The list of checks, and what they find, the worst first."""

from __future__ import annotations

from diffpolicy.datasets.inspection import checks_episodes as episodes
from diffpolicy.datasets.inspection import checks_numbers as numbers
from diffpolicy.datasets.inspection import checks_pictures as pictures
from diffpolicy.datasets.inspection import proposals
from diffpolicy.datasets.inspection.finding import SEVERITIES, Check, Finding
from diffpolicy.datasets.inspection.measure import Measurements

WITHOUT_EPISODES: tuple[Check, ...] = (episodes.damaged, episodes.said, pictures.axes, numbers.flattened)
"""Checks of what a recording says of itself, which hold also where no episode can be read."""

CHECKS: tuple[Check, ...] = (
    numbers.no_action,
    numbers.copies,
    numbers.spikes,
    numbers.long_tails,
    numbers.jumps,
    numbers.constants,
    episodes.failures,
    episodes.tasks,
    episodes.lengths,
    episodes.still,
    episodes.idle,
    episodes.repeats,
    episodes.times,
    episodes.duplicates,
    pictures.frozen,
    pictures.black,
    pictures.flat,
    proposals.quaternions,
    proposals.rotation_vectors,
    proposals.angles,
)
"""Checks of what was measured."""


def find(measured: Measurements) -> tuple[Finding, ...]:
    """Return what is wrong with a recording, what hurts most first."""
    checks = (*WITHOUT_EPISODES, *(CHECKS if measured.episodes else ()))
    found = [finding for check in checks for finding in check(measured)]
    return tuple(sorted(found, key=lambda one: (SEVERITIES.index(one.severity), -one.weight)))
