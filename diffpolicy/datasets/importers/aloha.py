"""Folders of ACT and ALOHA: an HDF5 file an episode, its cameras as arrays or as JPEG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, final

import numpy as np

from diffpolicy.datasets.importers.base import LOOKED_AT, Array, Episode, Importer, Say, typical
from diffpolicy.datasets.importers.forms import Form
from diffpolicy.datasets.importers.hdf5 import Hdf5, is_hdf5, numbered, of_episode
from diffpolicy.datasets.importers.pictures import decode_image
from diffpolicy.util.errors import require

_JOINTS = ("waist", "shoulder", "elbow", "forearm_roll", "wrist_angle", "wrist_rotate", "gripper")
_ARMS = tuple(f"{side}_{joint}" for side in ("left", "right") for joint in _JOINTS)
_BASE = ("base_linear_velocity", "base_angular_velocity")
_RATES = ("fps", "frequency", "control_freq")
_END_OF_JPEG = b"\xff\xd9"


@final
class AlohaImporter(Importer):
    """A folder with episode_0.hdf5, episode_1.hdf5, …, or one such file.

    qpos, qvel, effort and the cameras keep their names. The speed of a mobile base, `base_action`, is joined behind
    the action. Cameras that are stored as JPEG have the colors that the JPEG says.
    """

    summary: ClassVar[str] = "folders of ACT and ALOHA, episode_N.hdf5 each"
    usual_fps: ClassVar[str | None] = "ALOHA records at 50 Hz"

    def __init__(self, path: Path, say: Say) -> None:
        super().__init__(path, say)
        self._files = dict(_files(path))
        self._attrs: dict[str, Any] = {}
        self._places: dict[str, str] = {}
        self._forms = self._describe()
        if missing := sorted(set(range(max(self._files) + 1)) - self._files.keys()) if path.is_dir() else []:
            self.say(f"{path.name} has no episode {', '.join(map(str, missing[:5]))}{', …' * (len(missing) > 5)}")

    @classmethod
    def recognize(cls, path: Path) -> str | None:
        files = _files(path)
        if not files:
            return None
        for _, file in files:
            try:
                with Hdf5(file) as opened:
                    if not (opened.has("action") and opened.has("observations") and opened.is_group("observations")):
                        return None
            except ValueError:
                if path.is_file():
                    raise
                continue
            return "an ALOHA file" if path.is_file() else f"a folder of {len(files)} ALOHA files"
        return None

    @property
    def arrays(self) -> Mapping[str, Array]:
        return {name: form.array for name, form in self._forms.items()}

    @property
    def fps(self) -> float | None:
        rate = next((self._attrs[name] for name in _RATES if name in self._attrs), None)
        return float(rate) if isinstance(rate, (int, float)) and rate > 0 else None

    @property
    def attrs(self) -> Mapping[str, Any]:
        return self._attrs

    def episodes(self) -> Sequence[Episode]:
        found = []
        for number, file in self._files.items():
            try:
                with Hdf5(file) as opened:
                    about, length = opened.attrs(), opened.shape("action")[0]
            except (ValueError, IndexError):
                about, length = {}, None
            success, task = about.get("success"), about.get("task", about.get("language_instruction"))
            done = bool(success) if isinstance(success, (bool, int, float)) else None
            found.append(Episode(number, file.stem, length, task if isinstance(task, str) else None, done))
        return found

    def read(self, episode: Episode) -> dict[str, np.ndarray]:
        file = self._files[episode.number]
        with of_episode(file, episode.name), Hdf5(file) as opened:
            found, lengths = {}, []
            for name, form in self._forms.items():
                place = self._places[name]
                if form.array.image:
                    images, sizes = _images(opened, place)
                    found[name] = form.bring(images)
                    lengths += [sizes] if sizes is not None else []
                else:
                    found[name] = form.bring(_action(opened) if place == "action" else opened.read(place))
            _check_lengths(opened, lengths)
            return found

    def _describe(self) -> dict[str, Form]:
        """What most of the first files hold."""
        said: Exception = ValueError("there is none")
        found: list[tuple[Path, dict[str, Any]]] = []
        for file in self._files.values():
            try:
                with Hdf5(file) as opened:
                    require(opened.shape("action")[:1] > (0,), f"{file}: action is empty")
                    found.append((file, {name: opened.dtype(name) for name in opened.datasets("")}))
            except ValueError as error:
                said = error
            if len(found) == LOOKED_AT:
                break
        require(found, f"{self.path}: no episode can be read ({said})")
        with Hdf5(found[typical([names for _, names in found])][0]) as opened:
            self._attrs = opened.attrs()
            return self._forms_of(opened)

    def _forms_of(self, opened: Hdf5) -> dict[str, Form]:
        places: dict[str, tuple[str, str]] = {}
        for inside in opened.datasets("observations"):
            name = inside.removeprefix("images/").replace("/", "_")
            name = inside.replace("/", "_") if name in places else name
            places[name] = (f"observations/{inside}", "observation")
        for key in opened.names():
            if key not in ("action", "base_action", "compress_len", "observations") and not opened.is_group(key):
                places.setdefault(key, (key, "other"))
        places["action"] = ("action", "action")
        forms: dict[str, Form] = {}
        frames = opened.shape("action")[0]
        for name, (place, role) in places.items():
            if (form := self._form(opened, name, place, role, frames)) is not None:
                forms[name], self._places[name] = form, place
        return forms

    def _form(self, opened: Hdf5, name: str, place: str, role: str, frames: int) -> Form | None:
        if "/images/" in place:
            images, encoded = _images(opened, place, 1)
            if encoded is not None:
                self.say(
                    "cameras hold JPEG and get the colors that it says; where a recorder gave RGB to OpenCV, red and "
                    "blue are swapped: look at them by diffpolicy inspect"
                )
            return Form.of(name, images.shape[1:], images.dtype, role, self.say)
        shape = opened.shape(place)
        if not shape or (role == "other" and shape[0] != frames):
            return None
        if name != "action":
            form = Form.of(name, shape[1:], opened.dtype(place), role, self.say)
            arms = form is not None and form.array.shape == (len(_ARMS),)
            return form.named(names=_ARMS) if form and arms and name in ("qpos", "qvel", "effort") else form
        values = _action(opened)
        form = Form.of(name, values.shape[1:], values.dtype, role, self.say)
        require(form is not None and len(shape) == 2, f"{self.path}: action has shape {shape}", "(frames, numbers)")
        names = _ARMS if shape[1] == len(_ARMS) else tuple(f"action_{i}" for i in range(shape[1]))
        if values.shape[1] > shape[1]:
            self.say(f"base_action ({values.shape[1] - shape[1]} numbers) is joined behind action")
            names += _BASE if values.shape[1] == shape[1] + 2 else ()
        return form.named(names=names) if form and len(names) == values.shape[1] else form


def _files(path: Path) -> list[tuple[int, Path]]:
    """The episodes at `path` by number; a file that is no HDF5 file any more is damaged, and one of them."""
    if path.is_file():
        number = next((number for number, _ in numbered([path.stem], "episode_")), 0)
        return [(number, path)] if is_hdf5(path) else []
    names = [file.stem for file in path.glob("episode_*.hdf5")]
    return [(number, path / f"{name}.hdf5") for number, name in numbered(names, "episode_")]


def _action(opened: Hdf5) -> np.ndarray:
    """The actions, those of a mobile base behind them."""
    arms = opened.read("action")
    if not opened.has("base_action"):
        return arms
    base = opened.read("base_action")
    says = f"base_action has shape {base.shape}"
    require(base.ndim == 2 and len(base) == len(arms), says, f"({len(arms)}, numbers), as long as action")
    return np.concatenate([arms, base.astype(arms.dtype)], axis=1)


def _images(opened: Hdf5, place: str, stop: int | None = None) -> tuple[np.ndarray, np.ndarray | None]:
    """Frames of a camera, and the bytes of each where they are JPEG, padded by zeros or of various lengths."""
    values = opened.read(place, 0, stop)
    if values.dtype != object and values.ndim != 2:
        return values, None
    contents = [np.asarray(value, np.uint8).tobytes().rstrip(b"\0") for value in values]
    whole = [content.endswith(_END_OF_JPEG) or content.startswith(b"\x89PNG") for content in contents]
    says = f"{place} has an image at frame {whole.index(False) if False in whole else 0} that was cut off"
    require(contents and all(whole), says, "JPEG, padded by zeros")
    images = [decode_image(content, f"{place} at frame {i}") for i, content in enumerate(contents)]
    odd = next((i for i, image in enumerate(images) if image.shape != images[0].shape), 0)
    says = f"{place} has images of {images[0].shape}, and at frame {odd} of {images[odd].shape}"
    require(not odd, says, "equal sizes")
    return np.stack(images), np.array([len(content) for content in contents])


def _check_lengths(opened: Hdf5, lengths: Sequence[np.ndarray]) -> None:
    """compress_len has the bytes of every image, a row a camera, in an order that the file does not say."""
    if not lengths or not opened.has("compress_len"):
        return
    stated = opened.read("compress_len")
    for sizes in lengths:
        says = f"compress_len has shape {stated.shape}, and no row with the bytes of a camera's images"
        fits = stated.ndim == 2 and any(np.array_equal(row[: len(sizes)], sizes) for row in stated)
        require(fits, says, "a row of bytes a camera")
