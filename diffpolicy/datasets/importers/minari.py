"""Minari's data sets, in HDF5 or in Arrow files."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar, final

import numpy as np

from diffpolicy.datasets.importers.base import LOOKED_AT, NOTED, Array, Episode, Importer, Say, typical
from diffpolicy.datasets.importers.forms import Form
from diffpolicy.datasets.importers.hdf5 import json_of, of_episode
from diffpolicy.datasets.importers.minari_files import ArrowEpisodes, Hdf5Episodes, MinariEpisodes
from diffpolicy.datasets.importers.minari_spaces import Leaf, joined, leaves
from diffpolicy.datasets.importers.pictures import decode_image
from diffpolicy.util.errors import explain, require

_MAIN, _METADATA = "main_data.hdf5", "metadata.json"
_COLUMNS = ("rewards", "terminations", "truncations")
_STATISTICS = {
    "rewards_sum": np.sum,
    "rewards_mean": np.mean,
    "rewards_std": np.std,
    "rewards_max": np.max,
    "rewards_min": np.min,
}
_TOLERANCE = 1e-5
"""Minari takes statistics of rewards in their own precision, which may be single."""


@final
class MinariImporter(Importer):
    """A folder NAME-vN, or its `data`, or the main_data.hdf5 in it.

    An episode of N actions has N + 1 observations, of which the last one is dropped. Dicts and Tuples are flattened,
    names joined by "_"; of a nested action all numbers are joined in the order of the space. Texts become the task,
    achieved goals, rewards and flags are of role "other", and infos are left out but for success.
    """

    summary: ClassVar[str] = "Minari data sets, HDF5 or Arrow"

    def __init__(self, path: Path, say: Say) -> None:
        super().__init__(path, say)
        self._folder = folder = _folder(path)
        self._about = _metadata(folder)
        self._usual: dict[str, bool] = {}
        observed = leaves(self._about.get("observation_space"), "observation_space")
        self._observations = {leaf.name("observation"): leaf for leaf in observed if leaf.kind != "Text"}
        self._texts = [leaf for leaf in observed if leaf.kind == "Text"]
        self._actions = leaves(self._about.get("action_space"), "action_space")
        numbers = all(leaf.kind != "Text" for leaf in self._actions)
        require(numbers and self._actions, f"{path}: actions are text", "numbers")
        stored = self._about.get("data_format", "hdf5")
        require(stored in ("hdf5", "arrow"), f"{path} is stored as {stored}", "hdf5 or arrow", "convert it by minari")
        self._files: MinariEpisodes = Hdf5Episodes(folder / _MAIN) if stored == "hdf5" else ArrowEpisodes(folder)
        try:
            self._forms = self._describe()
            self._count()
        except BaseException:
            self.close()
            raise

    @classmethod
    def recognize(cls, path: Path) -> str | None:
        folder = _folder(path)
        if not (folder / _METADATA).is_file() or (path.is_file() and path.name != _MAIN):
            return None
        if (folder / _MAIN).is_file():
            return "a Minari data set in HDF5"
        return "a Minari data set in Arrow" if any(folder.glob("*/*.arrow")) else None

    @property
    def arrays(self) -> Mapping[str, Array]:
        return {name: form.array for name, form in self._forms.items()}

    @property
    def attrs(self) -> Mapping[str, Any]:
        kept = ("dataset_id", "algorithm_name", "description", "author", "code_permalink", "minari_version")
        found = {name: self._about[name] for name in kept if name in self._about}
        env = json_of(self._about.get("env_spec"))
        return {**found, **{f"env_{name}": env[name] for name in ("id", "max_episode_steps") if env.get(name)}}

    def episodes(self) -> Sequence[Episode]:
        found, unknown = [], []
        for number in self._files.numbers():
            name = f"episode_{number}"
            try:
                about, success, task = self._files.about(number), self._files.success(number), self._task(number)
                unknown += [name] if success is None else []
            except ValueError:
                about, success, task = {}, None, None
            extra = {key: about[key] for key in ("seed",) if key in about}
            if about.get("id", number) != number:
                self.note(name, f"what is known of it is that of episode {about['id']}, so its seed is not kept")
                extra = {}
            length = about.get("total_steps")
            length = length if isinstance(length, int) and length > 0 else None
            found.append(Episode(number, name, length, task, success, extra=extra))
        if unknown and any(episode.success is not None for episode in found):
            self.say(f"the success of {', '.join(unknown[:NOTED])} is not recorded, though that of others is")
        return found

    def read(self, episode: Episode) -> dict[str, np.ndarray]:
        file = self._files.file(episode.number)
        with of_episode(file, episode.name):
            found = self._arrays(episode.number)
            about, length = self._files.about(episode.number), len(found["action"])
            says = f"{length} actions, where total_steps is {about.get('total_steps')}"
            require(length and about.get("total_steps", length) == length, says, "equal numbers")
            for name, values in found.items():
                count = length + 1 if name in self._observations else length
                says = f"{name} has {len(values)} frames, and there are {length} actions"
                require(len(values) == count, says, str(count))
            _check_rewards(found["rewards"], about)
            self._note_contradictions(episode, found)
            return {name: self._forms[name].bring(found[name][:length]) for name in self._forms}

    def close(self) -> None:
        self._files.close()

    def _arrays(self, number: int) -> dict[str, np.ndarray]:
        """All that is kept of an episode, as it is stored."""
        found = {
            name: self._decoded(self._files.leaf(number, "observations", leaf), leaf, name)
            for name, leaf in self._observations.items()
        }
        parts = [self._files.leaf(number, "actions", leaf) for leaf in self._actions]
        if len(parts) == 1:
            found["action"] = parts[0]
        else:
            sizes = {len(part) for part in parts}
            require(len(sizes) == 1, f"parts of the action have {sorted(sizes)} frames", "equally many")
            found["action"] = np.concatenate([part.reshape(len(part), -1) for part in parts], axis=1)
        for name in _COLUMNS:
            found[name] = self._files.column(number, name)
        return found

    def _decoded(self, values: np.ndarray, leaf: Leaf, name: str) -> np.ndarray:
        """JPEG becomes pixels."""
        if values.dtype != object:
            return values
        require(leaf.is_image, f"{name} holds objects", "numbers")
        contents = [v if isinstance(v, bytes) else np.asarray(v, np.uint8).tobytes() for v in values]
        images = [decode_image(content, f"{name} at frame {i}") for i, content in enumerate(contents)]
        odd = next((image.shape for image in images if image.shape != leaf.shape), leaf.shape)
        require(odd == leaf.shape, f"{name} holds an image of {odd}", f"{leaf.shape}, as its space")
        return np.stack(images)

    def _describe(self) -> dict[str, Form]:
        """Name -> form of the arrays."""
        found, forms = self._looked_at(), {}
        for name, (shape, dtype) in found.items():
            role = "observation" if name in self._observations and name.split("_goal")[0] != "achieved" else "other"
            role = "action" if name == "action" else role
            if (form := Form.of(name, shape, dtype, role, self.say)) is not None:
                forms[name] = form
        require("action" in forms, f"{self.path}: actions of {found['action'][1]}", "numbers")
        if len(self._actions) > 1:
            names = [f"{leaf.name('action')}_{i}" for leaf in self._actions for i in range(_size(leaf))]
            forms["action"] = forms["action"].named(names=tuple(names))
        if any(leaf.kind != "Box" for leaf in self._actions):
            self.say("actions are whole numbers: the policies here predict continuous ones, to be rounded")
        return forms

    def _looked_at(self) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
        """Shape of a frame and dtype of each array, as the first two that agree have them, or else most of them."""
        said: Exception = ValueError("there is none")
        looked: list[dict[str, tuple[tuple[int, ...], np.dtype]]] = []
        for number in self._files.numbers():
            try:
                found = {name: (values.shape[1:], values.dtype) for name, values in self._arrays(number).items()}
            except ValueError as error:
                said = error
                continue
            if found in looked:
                return found
            looked.append(found)
            if len(looked) == LOOKED_AT:
                break
        require(looked, f"{self.path}: no episode can be read ({said})")
        return looked[typical(looked)]

    def _count(self) -> None:
        there, stated = self._files.numbers(), self._about.get("total_episodes")
        if isinstance(stated, int) and stated != len(there):
            self.say(f"{stated} episodes are stated, and {len(there)} are there")
            return
        try:
            steps = [self._files.about(number).get("total_steps") for number in there]
        except ValueError:  # said when the episode is read
            return
        total = self._about.get("total_steps")
        if isinstance(total, int) and None not in steps and sum(steps) != total:
            self.say(f"{total} steps are stated, and {sum(steps)} are there")

    def _note_contradictions(self, episode: Episode, found: Mapping[str, np.ndarray]) -> None:
        """Say what contradicts the spaces, or ends too early; what most episodes do is said once."""
        where = f"{self._files.file(episode.number).relative_to(self._folder).as_posix()}: {episode.name}"
        for what, says in self._contradictions(found).items():
            if not says or self._usual.get(what):
                continue
            if what not in self._usual:
                self._usual[what] = self._in_most(what)
            self.note(where, f"{says}; so do most episodes, so it is no damage" if self._usual[what] else says)

    def _contradictions(self, found: Mapping[str, np.ndarray]) -> dict[str, str]:
        """Array -> how it contradicts its space, or ends the episode early, in words; empty if it does not."""
        spaces = {**self._observations, "action": joined(self._actions)}
        says = {name: leaf.outside(found[name], name) for name, leaf in spaces.items() if not leaf.is_image}
        return {**says, **{name: _ends_early(found[name], name) for name in ("terminations", "truncations")}}

    def _in_most(self, what: str) -> bool:
        """Whether more than half of a few episodes contradict their space or end early."""
        there, says = self._files.numbers(), []
        for i in sorted({0, len(there) // 2, len(there) - 1}):
            with suppress(ValueError):
                says.append(self._contradictions(self._arrays(there[i]))[what])
        return len(there) > 1 and 2 * sum(map(bool, says)) > len(says)

    def _task(self, number: int) -> str | None:
        """The texts of the first observation."""
        leaves = [self._files.leaf(number, "observations", leaf) for leaf in self._texts]
        texts = [leaf[0] for leaf in leaves if len(leaf)]
        return " ".join(t.decode(errors="replace") if isinstance(t, bytes) else str(t) for t in texts) or None


def _size(leaf: Leaf) -> int:
    return int(np.prod(leaf.shape))


def _folder(path: Path) -> Path:
    """The folder that holds the metadata."""
    if path.is_file():
        return path.parent
    return path / "data" if (path / "data" / _METADATA).is_file() else path


def _metadata(folder: Path) -> dict[str, Any]:
    try:
        found = json.loads((folder / _METADATA).read_text())
    except (OSError, ValueError) as error:
        says = f"{folder / _METADATA} cannot be read ({error})"
        raise ValueError(explain(says, cure="copy it again: it says what the arrays are")) from error
    require(isinstance(found, dict), f"{folder / _METADATA} holds no object", "the spaces of the data set")
    return found


def _check_rewards(rewards: np.ndarray, about: Mapping[str, Any]) -> None:
    """The statistics that Minari keeps of an episode find a reward that has changed."""
    scale = max(1e-6, float(np.abs(rewards).max(initial=0.0)))
    for name, take in _STATISTICS.items():
        if isinstance(stated := about.get(name), (int, float)):
            found, count = float(take(rewards.astype(np.float64))), len(rewards) if name == "rewards_sum" else 1
            says = f"the rewards' {name.removeprefix('rewards_')} is {found:g}, where {stated:g} is stated"
            require(abs(found - stated) <= _TOLERANCE * scale * count, says, "equal numbers")


def _ends_early(flags: np.ndarray, name: str) -> str:
    """Where a flag that ends an episode is set before the last frame, in words; empty if it is not."""
    early = np.flatnonzero(flags[:-1])
    return f"{name!r} end it at frame {early[0]}, and it has {len(flags)} frames" if len(early) else ""
