"""ManiSkill's trajectories: an HDF5 file, and a JSON file beside it that says which environment it is from."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, final

import numpy as np

from diffpolicy.datasets.importers.base import ABSOLUTE, LOOKED_AT, RELATIVE, Array, Episode, Importer, Say, typical
from diffpolicy.datasets.importers.forms import Form
from diffpolicy.datasets.importers.hdf5 import Hdf5, is_hdf5, numbered, of_episode
from diffpolicy.util.errors import require

_REPLAY = "python -m mani_skill.trajectory.replay_trajectory --traj-path {} --obs-mode state --save-traj"
_PER_STEP = ("rewards", "success", "fail", "terminated", "truncated")


@final
class ManiSkillImporter(Importer):
    """One `trajectory.MODE.CONTROL.BACKEND.h5` with its `.json`, or a folder that holds one such pair.

    Observations in groups are called by the names on the way joined by "_": `agent_qpos`. The last observation, which
    no action follows, is dropped. States of the simulator, parameters of cameras, rewards and flags are of role
    "other"; depth is in millimeters.
    """

    summary: ClassVar[str] = "ManiSkill's trajectory.h5 with its json"
    usual_fps: ClassVar[str | None] = "ManiSkill runs at 20 Hz unless told otherwise"

    def __init__(self, path: Path, say: Say) -> None:
        super().__init__(path, say)
        self._about = _json(path)
        if not self._about:
            say(f"{path.with_suffix('.json').name} is missing or cannot be read: environment and seeds are not known")
        self._file = Hdf5(_h5(path))
        try:
            self._names = dict(numbered(self._file.names(), "traj_"))
            self._forms = self._describe()
            self._count()
        except BaseException:
            self.close()
            raise

    @classmethod
    def recognize(cls, path: Path) -> str | None:
        files = _candidates(path)
        if not files:
            return None
        one = len(files) == 1
        says = f"{path} holds {len(files)} files of ManiSkill with observations"
        require(one, says, "one", f"name one of them, such as {files[0].name}")
        return f"a ManiSkill file, {files[0].name}" if path.is_dir() else "a ManiSkill file"

    @property
    def arrays(self) -> Mapping[str, Array]:
        return {name: form.array for name, (_, form) in self._forms.items()}

    @property
    def fps(self) -> float | None:
        kwargs = self._env().get("env_kwargs")
        settings = kwargs.get("sim_config") if isinstance(kwargs, dict) else None
        rate = settings.get("control_freq") if isinstance(settings, dict) else None
        return float(rate) if isinstance(rate, (int, float)) and rate > 0 else None

    @property
    def attrs(self) -> Mapping[str, Any]:
        kept = {name: self._about[name] for name in ("env_info", "source_type", "source_desc") if name in self._about}
        mode = str((self._env().get("env_kwargs") or {}).get("control_mode", ""))
        kind = RELATIVE if "delta" in mode else ABSOLUTE if mode else None
        return {**kept, **({"actions": kind} if kind else {})}

    def episodes(self) -> Sequence[Episode]:
        known = {entry.get("episode_id"): entry for entry in self._entries()}
        found = []
        for number, name in self._names.items():
            entry = known.get(number, {})
            extra = {key: entry[key] for key in ("episode_seed", "control_mode") if key in entry}
            found.append(Episode(number, name, self._length(name), None, self._success(name, entry), extra=extra))
        return found

    def read(self, episode: Episode) -> dict[str, np.ndarray]:
        with of_episode(self._file.path, episode.name):
            return self._read(episode)

    def close(self) -> None:
        self._file.close()

    def _read(self, episode: Episode) -> dict[str, np.ndarray]:
        length, found = self._length(episode.name), {}
        require(length, "actions are missing or empty")
        entry = next((entry for entry in self._entries() if entry.get("episode_id") == episode.number), {})
        stated = entry.get("elapsed_steps", length)
        require(stated == length, f"{length} actions, where the json states {stated} steps", "equal numbers")
        for name, (place, form) in self._forms.items():
            values = self._file.read(f"{episode.name}/{place}")
            count = length if place in ("actions", *_PER_STEP) else length + 1
            says = f"{place} has {len(values)} frames, and there are {length} actions"
            require(len(values) == count, says, f"{count}")
            found[name] = form.bring(values[:length])
        return found

    def _describe(self) -> dict[str, tuple[str, Form]]:
        """Name -> place in an episode and form, of the first one that can be read."""
        said: Exception = ValueError("there is none")
        names = list(self._names.values())
        observed = any(self._file.has(f"{name}/obs") for name in names)
        cure = f"replay them with observations: {_REPLAY.format(self._file.path)} (or --obs-mode rgb)"
        require(observed, f"{self._file.path} holds actions without observations", "obs in every traj_N", cure)
        looked = []
        for name in names:
            try:
                looked.append(self._stored(name))
            except ValueError as error:
                said = error
            if len(looked) == LOOKED_AT:
                break
        require(looked, f"{self.path}: no episode can be read ({said})")
        found = {}
        for place, (role, frame, dtype) in looked[typical(looked)].items():
            own = "action" if place == "actions" else place.removeprefix("obs/").replace("/", "_")
            depth = "mm" if place.rpartition("/")[2] == "depth" and len(frame) == 3 else None
            if (form := Form.of(own, frame, dtype, role, self.say, depth=depth)) is not None:
                found[own] = (place, form)
        return found

    def _stored(self, name: str) -> dict[str, tuple[str, tuple[int, ...], np.dtype]]:
        """Dataset of an episode -> role, shape of a frame and dtype."""
        return {
            place: (role, self._file.shape(f"{name}/{place}")[1:], self._file.dtype(f"{name}/{place}"))
            for place, role in self._places(name).items()
        }

    def _places(self, name: str) -> dict[str, str]:
        """Dataset of an episode -> role."""
        found = {"actions": "action"}
        inside = self._file.datasets(f"{name}/obs") if self._file.is_group(f"{name}/obs") else None
        for place in ["obs"] if inside is None else [f"obs/{one}" for one in inside]:
            privileged = place.startswith("obs/sensor_param/") or place.endswith("/segmentation")
            found[place] = "other" if privileged else "observation"
        if self._file.has(f"{name}/env_states"):
            found |= {f"env_states/{one}": "other" for one in self._file.datasets(f"{name}/env_states")}
        return found | {key: "other" for key in _PER_STEP if self._file.has(f"{name}/{key}")}

    def _count(self) -> None:
        stated = {entry.get("episode_id") for entry in self._entries()}
        if stated and (lost := sorted(stated - self._names.keys(), key=str)):
            self.say(f"the json names {len(lost)} episodes that {self._file.path.name} lacks: {lost[0]}")

    def _length(self, name: str) -> int:
        try:
            return self._file.shape(f"{name}/actions")[0]
        except (ValueError, IndexError):
            return 0

    def _success(self, name: str, entry: Mapping[str, Any]) -> bool | None:
        """What the json says, or else the last step."""
        if isinstance(entry.get("success"), bool):
            return bool(entry["success"])
        try:
            flags = self._file.read(f"{name}/success").ravel()
        except ValueError:
            return None
        return bool(flags[-1]) if flags.size else None

    def _entries(self) -> list[dict[str, Any]]:
        found = self._about.get("episodes")
        return [entry for entry in found if isinstance(entry, dict)] if isinstance(found, list) else []

    def _env(self) -> dict[str, Any]:
        found = self._about.get("env_info")
        return found if isinstance(found, dict) else {}


def _candidates(path: Path) -> list[Path]:
    """The file at `path`; of a folder, those with observations, or without if no other is there."""
    files = [path] if path.is_file() else sorted(path.glob("*.h5"))
    found: dict[Path, bool] = {}
    for file in files:
        if not is_hdf5(file):
            continue
        try:
            with Hdf5(file) as opened:
                names = numbered(opened.names(), "traj_")
                if names and opened.has(f"{names[0][1]}/actions"):
                    found[file] = any(opened.has(f"{name}/obs") for _, name in names[:3])
        except ValueError:
            if path.is_file():
                raise
    return [file for file, observed in found.items() if observed] or list(found)


def _h5(path: Path) -> Path:
    found = [path] if path.is_file() else _candidates(path)
    require(found, f"{path} holds no file of ManiSkill", "a .h5 file with traj_0 and so on")
    return found[0]


def _json(path: Path) -> dict[str, Any]:
    """What stands in the json beside the file; nothing if it is missing or broken."""
    try:
        found = json.loads(_h5(path).with_suffix(".json").read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
