"""Small recordings to inspect: a sound one, and the same with one fault."""

import weakref
from pathlib import Path

import numpy as np

from diffpolicy.datasets.importers import Array, Episode, Importer
from diffpolicy.datasets.inspection.findings import find
from diffpolicy.datasets.inspection.measure import measure


def demonstration(rng, length=None, camera=True):
    """A point that moves to a goal and carries a gripper; the action is where it is one frame later."""
    length = length or int(rng.integers(40, 60))
    start, goal = rng.uniform(-1, 1, (2, 2))
    ease = 0.5 - 0.5 * np.cos(np.pi * np.linspace(0.05, 0.95, length + 1))[:, None]
    path = start + (goal - start) * ease + 0.002 * rng.normal(size=(length + 1, 2))
    gripper = (np.arange(length + 1) > length // 2)[:, None].astype(float)
    pose = np.concatenate([path, gripper], axis=1)
    episode = {"state": pose[:-1].copy(), "goal": np.repeat(goal[None], length, 0), "action": pose[1:].copy()}
    if camera:
        episode["front"] = rng.integers(0, 256, (length, 8, 8, 3)).astype(np.uint8)
    return episode


def sound(count=12, seed=0, **options):
    """A recording in which nothing is wrong."""
    rng = np.random.default_rng(seed)
    return [demonstration(rng, **options) for _ in range(count)]


class Memory(Importer):
    """Reads episodes from memory, counts what it read, and how much of it was alive at a time."""

    summary = "in memory"

    def __init__(self, episodes, fps=10.0, roles=None, names=None, known=(), said=()):
        super().__init__(Path("memory"), lambda sentence: None)
        self._data, self._fps, self._roles, self._names = episodes, fps, roles or {}, names or {}
        self._known, self.said, self.reads, self.alive, self.most = known, said, [], 0, 0

    @classmethod
    def recognize(cls, path):
        return None

    @property
    def fps(self):
        return self._fps

    @property
    def arrays(self):
        return {name: self._array(name, values) for name, values in self._data[0].items()}

    def _array(self, name, values):
        role = self._roles.get(name, "action" if name == "action" else "observation")
        return Array(values.shape[1:], values.dtype, role, values.ndim == 4, names=self._names.get(name))

    def episodes(self):
        if self._known:
            return self._known
        return [Episode(number, f"episode {number}") for number in range(len(self._data))]

    def read(self, episode):
        self.reads.append(episode.number)
        found = {name: values.copy() for name, values in self._data[episode.number].items()}
        for values in found.values():
            self.alive += 1
            weakref.finalize(values, self._release)
        self.most = max(self.most, self.alive)
        return found

    def _release(self):
        self.alive -= 1


def findings(episodes, **options):
    """What is found in a recording, by kind; each kind once."""
    importer = Memory(episodes, **options)
    found = find(measure(importer, importer.said))
    kinds = [one.kind for one in found]
    assert len(set(kinds)) == len(kinds), kinds
    return {one.kind: one for one in found}
