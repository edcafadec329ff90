"""robomimic's HDF5 files, and those of MimicGen and LIBERO, which are laid out alike."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, final

import numpy as np

from diffpolicy.datasets.importers.base import ABSOLUTE, LOOKED_AT, RELATIVE, Array, Episode, Importer, Say, typical
from diffpolicy.datasets.importers.forms import Form
from diffpolicy.datasets.importers.hdf5 import Hdf5, is_hdf5, json_of, numbered, of_episode
from diffpolicy.util.errors import explain, require

_SUFFIXES = (".hdf5", ".h5")
_BLOCK = 64 * 2**20
"""Bytes of observations that are compared with the next ones at a time."""

_EXTRACT = "python -m robomimic.scripts.dataset_states_to_obs --dataset FILE --output_name obs.hdf5 --done_mode 2"
_FROM_ROBOSUITE = "python -m robomimic.scripts.conversion.convert_robosuite --dataset FILE"


@final
@dataclass(frozen=True)
class _Demo:
    """Where an episode lies."""

    file: int
    name: str
    length: int


@final
class RobomimicImporter(Importer):
    """One file with the groups data/demo_N, or a folder of such files, which LIBERO has one of for every task.

    Observations keep their names; actions are called "action"; rewards, dones, states and whatever else lies beside
    them are of role "other". Next observations are only compared with the observations.
    """

    summary: ClassVar[str] = "robomimic HDF5 files, MimicGen's and LIBERO's too, or a folder of them"
    usual_fps: ClassVar[str | None] = "robosuite runs at 20 Hz unless told otherwise"

    def __init__(self, path: Path, say: Say) -> None:
        super().__init__(path, say)
        self._files = _files(path)
        self._opened: tuple[int, Hdf5] | None = None
        try:
            self._attrs = self._read_attrs()
            self._demos = [demo for file in range(len(self._files)) for demo in self._find_demos(file)]
            self._forms = self._describe()
            self._unchecked = self._find_unchecked()
        except BaseException:
            self.close()
            raise

    @classmethod
    def recognize(cls, path: Path) -> str | None:
        files = _files(path)
        for file in files:
            try:
                made = _made_by(file)
            except ValueError:
                if path.is_file():
                    raise
                continue
            return made and (f"a {made} file" if path.is_file() else f"a folder of {len(files)} {made} files")
        return None

    @property
    def arrays(self) -> Mapping[str, Array]:
        return {name: form.array for name, (_, form) in self._forms.items()}

    @property
    def fps(self) -> float | None:
        rate = self._kwargs().get("control_freq")
        return float(rate) if isinstance(rate, (int, float)) and rate > 0 else None

    @property
    def attrs(self) -> Mapping[str, Any]:
        kept = ("env_name", "problem_info", "bddl_file_name", "macros_image_convention", "env_args")
        found = {name: self._attrs[name] for name in kept if name in self._attrs}
        for name in ("env_args", "problem_info"):
            if name in found:
                found[name] = json_of(found[name]) or found[name]
        actions = _kind_of_actions(self._kwargs())
        return {**found, **({"actions": actions} if actions else {})}

    def episodes(self) -> Sequence[Episode]:
        found, filters = [], [self._filters(file) for file in range(len(self._files))]
        for place, demo in enumerate(self._demos):
            number = place if len(self._files) > 1 else int(demo.name.removeprefix("demo_"))
            name = f"{self._files[demo.file].stem} {demo.name}" if len(self._files) > 1 else demo.name
            task, chosen = self._task(demo.file), tuple(filters[demo.file].get(demo.name, ()))
            found.append(Episode(number, name, demo.length or None, task, self._success(demo), chosen))
        return found

    def read(self, episode: Episode) -> dict[str, np.ndarray]:
        demo = self._demo(episode)
        with of_episode(self._files[demo.file], demo.name):
            opened, group = self._open(demo.file), f"data/{demo.name}"
            count = opened.attrs(group).get("num_samples", demo.length)
            says = f"num_samples is {count}, and there are {demo.length} actions"
            require(demo.length and count == demo.length, says, "equal numbers above 0")
            self._check_next(opened, group)
            found = {}
            for name, (inside, form) in self._forms.items():
                says = f"{name!r} has {opened.shape(f'{group}/{inside}')[:1]} frames"
                require(opened.shape(f"{group}/{inside}")[0] == demo.length, says, f"{demo.length}, as the actions")
                found[name] = form.bring(opened.read(f"{group}/{inside}"))
            if "dones" in found:
                require(np.isin(found["dones"], (0, 1)).all(), "dones hold other numbers than 0 and 1")
            return found

    def close(self) -> None:
        if self._opened is not None:
            self._opened[1].close()
        self._opened = None

    def _open(self, file: int) -> Hdf5:
        """One file is open at a time, of a folder of hundreds."""
        if self._opened is None or self._opened[0] != file:
            self.close()
            self._opened = (file, Hdf5(self._files[file]))
        return self._opened[1]

    def _demo(self, episode: Episode) -> _Demo:
        if len(self._files) > 1:
            return self._demos[episode.number]
        return next(demo for demo in self._demos if demo.name == episode.name)

    def _read_attrs(self) -> dict[str, Any]:
        for file in range(len(self._files)):
            try:
                return self._open(file).attrs("data")
            except ValueError as error:
                require(len(self._files) > 1, str(error))
        raise ValueError(explain(f"{self.path}: no file can be read"))

    def _kwargs(self) -> dict[str, Any]:
        found = json_of(self._attrs.get("env_args")).get("env_kwargs")
        return found if isinstance(found, dict) else {}

    def _find_demos(self, file: int) -> list[_Demo]:
        """The demonstrations of a file by number; what its own totals contradict is said."""
        path = self._files[file]
        try:
            opened = self._open(file)
            demos = [name for _, name in numbered(opened.names("data"), "demo_")]
            about = opened.attrs("data")
        except ValueError as error:
            require(len(self._files) > 1, str(error))
            self.say(f"left out: {error}")
            return []
        if file == 0:
            self._refuse_raw(opened, demos, about)
        found = [_Demo(file, demo, _length(opened, f"data/{demo}")) for demo in demos]
        total = sum(demo.length for demo in found)
        if about.get("total", total) != total:
            self.say(f"{path.name} has {total} frames in {len(found)} demonstrations, and states {about['total']}")
        if about.get("num_demos", len(found)) != len(found):
            self.say(f"{path.name} has {len(found)} demonstrations, and states {about['num_demos']}")
        if about.get("macros_image_convention") == "opengl":
            self.say("cameras follow the opengl convention: images may be upside down, as its simulator gives them")
        return found

    def _refuse_raw(self, opened: Hdf5, demos: Sequence[str], about: Mapping[str, Any]) -> None:
        require(demos, f"{opened.path}: data holds no demo_N", "data/demo_0 and so on")
        observed = any(opened.has(f"data/{demo}/obs") for demo in demos)
        cure = _EXTRACT if "env_args" in about else f"{_FROM_ROBOSUITE}, then {_EXTRACT}"
        says = f"{opened.path} holds states and actions without observations, as recorders of robosuite leave it"
        require(observed, says, "obs in every demonstration", f"add them by {cure} (images by --camera_names)")

    def _describe(self) -> dict[str, tuple[str, Form]]:
        """Name -> place in a demonstration and form, as most of the first ones have it."""
        said: Exception = ValueError("there is none")
        stored = []
        for demo in self._demos:
            try:
                stored.append(self._stored(demo))
            except ValueError as error:
                said = error
            if len(stored) == LOOKED_AT:
                break
        require(stored, f"{self.path}: no demonstration can be read ({said})")
        found = stored[typical(stored)]
        forms = {
            name: (place, Form.of(name, shape, dtype, role, self.say))
            for name, (place, role, shape, dtype) in found.items()
        }
        return {name: (place, form) for name, (place, form) in forms.items() if form is not None}

    def _stored(self, demo: _Demo) -> dict[str, tuple[str, str, tuple[int, ...], np.dtype]]:
        """Name -> place, role, shape of a frame and dtype of the arrays of a demonstration."""
        opened, group = self._open(demo.file), f"data/{demo.name}"
        found = {name.replace("/", "_"): (f"obs/{name}", "observation") for name in opened.datasets(f"{group}/obs")}
        for key in opened.names(group):
            if key != "actions" and not opened.is_group(f"{group}/{key}") and opened.shape(f"{group}/{key}"):
                found.setdefault(key, (key, "other"))
        found["action"] = ("actions", "action")
        return {
            name: (place, role, opened.shape(f"{group}/{place}")[1:], opened.dtype(f"{group}/{place}"))
            for name, (place, role) in found.items()
        }

    def _filters(self, file: int) -> dict[str, list[str]]:
        """Demonstration -> names of the filter keys that it belongs to."""
        found: dict[str, list[str]] = {}
        try:
            opened = self._open(file)
            for name in opened.names("mask") if opened.has("mask") else []:
                chosen = [_text(demo) for demo in opened.read(f"mask/{name}").ravel()]
                for demo in chosen:
                    found.setdefault(demo, []).append(name)
                there = {demo.name for demo in self._demos if demo.file == file}
                if unknown := sorted(set(chosen) - there):
                    self.say(
                        f"the filter {name!r} names {len(unknown)} demonstrations that are not there: {unknown[0]}"
                    )
        except ValueError as error:
            self.say(f"the filters are not known: {error}")
        return found

    def _task(self, file: int) -> str | None:
        """LIBERO's instruction."""
        try:
            text = json_of(self._open(file).attrs("data").get("problem_info")).get("language_instruction")
        except ValueError:
            return None
        text = " ".join(map(str, text)) if isinstance(text, list) else text
        return text.strip().strip('"') if isinstance(text, str) and text.strip() else None

    def _success(self, demo: _Demo) -> bool | None:
        """Whether it was rewarded, where the reward is 0 or 1, which is what success gives."""
        if "rewards" not in self._forms or (
            self._kwargs().get("reward_shaping") and "problem_info" not in self._attrs
        ):
            return None
        try:
            rewards = self._open(demo.file).read(f"data/{demo.name}/rewards")
        except ValueError:
            return None
        return bool((rewards == 1).any()) if np.isin(rewards, (0, 1)).all() else None

    def _find_unchecked(self) -> set[str]:
        """The next observations that are something else, as the first readable demonstration tells."""
        for demo in self._demos:
            if demo.length < 2:
                continue
            try:
                opened, group = self._open(demo.file), f"data/{demo.name}"
                wrong = {name: _next_differs(opened, group, name) for name in _compared(opened, group)}
            except ValueError:
                continue
            found = {name for name, (count, _) in wrong.items() if count > demo.length // 4}
            for name in sorted(found):
                self.say(f"next_obs/{name} is not the next obs/{name}, so it checks nothing")
            return found
        return set()

    def _check_next(self, opened: Hdf5, group: str) -> None:
        """next_obs[t] has to be obs[t + 1]: a number that differs in one of them was damaged."""
        for name in _compared(opened, group):
            if name not in self._unchecked:
                count, frame = _next_differs(opened, group, name)
                says = f"next_obs/{name} at frame {frame} differs from obs/{name} at frame {frame + 1}"
                require(not count, says, "the same numbers")


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path] if is_hdf5(path) else []
    return sorted(file for file in path.iterdir() if file.suffix in _SUFFIXES and is_hdf5(file))


def _made_by(file: Path) -> str | None:
    """The project that a file is from; None if it is laid out otherwise."""
    with Hdf5(file) as opened:
        demos = numbered(opened.names("data"), "demo_") if opened.has("data") else []
        if not demos:
            return None
        if "problem_info" in opened.attrs("data"):
            return "LIBERO"
        return "MimicGen" if opened.has(f"data/{demos[0][1]}/datagen_info") else "robomimic"


def _length(opened: Hdf5, group: str) -> int:
    """The number of actions; 0 where they cannot be read, which is said when the episode is."""
    try:
        return opened.shape(f"{group}/actions")[0]
    except (ValueError, IndexError):
        return 0


def _compared(opened: Hdf5, group: str) -> list[str]:
    """The observations that are there a second time, as the next ones."""
    if not opened.has(f"{group}/next_obs"):
        return []
    return [name for name in opened.datasets(f"{group}/next_obs") if opened.has(f"{group}/obs/{name}")]


def _next_differs(opened: Hdf5, group: str, name: str) -> tuple[int, int]:
    """Number of frames of which next_obs is not, byte for byte, the next one of obs; the first of them, or -1."""
    now, after = f"{group}/obs/{name}", f"{group}/next_obs/{name}"
    shape, dtype = opened.shape(now), opened.dtype(now)
    says = f"next_obs/{name} has shape {opened.shape(after)} and dtype {opened.dtype(after)}"
    require((opened.shape(after), opened.dtype(after)) == (shape, dtype), says, f"{shape} {dtype}, as obs/{name}")
    frames = max(1, _BLOCK // max(1, dtype.itemsize * int(np.prod(shape[1:]))))
    count, first = 0, -1
    for start in range(0, shape[0] - 1, frames):
        stop = min(start + frames, shape[0] - 1)
        pair = opened.read(now, start + 1, stop + 1), opened.read(after, start, stop)
        one, other = (values.view(np.uint8).reshape(len(values), -1) for values in pair)
        differs = (one != other).any(axis=1)
        first = start + int(np.argmax(differs)) if first < 0 and differs.any() else first
        count += int(differs.sum())
    return count, first


def _kind_of_actions(kwargs: Mapping[str, Any]) -> str | None:
    """Whether the controllers of a robosuite environment take poses or differences; None if that is not said."""
    text = json.dumps(kwargs.get("controller_configs") or {})
    if '"control_delta": false' in text or '"input_type": "absolute"' in text:
        return ABSOLUTE
    return RELATIVE if '"control_delta": true' in text or '"input_type": "delta"' in text else None


def _text(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)
