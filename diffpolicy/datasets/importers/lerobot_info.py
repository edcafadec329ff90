"""What a LeRobot data set says of itself in `meta/info.json`: rate, paths of its files, and features."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np

from diffpolicy.datasets.importers.base import Array, Say
from diffpolicy.util.errors import explain, require

INFO = "meta/info.json"
_INFO_V1 = "meta_data/info.json"
VERSIONS = ("v3.0", "v2.1", "v2.0")
CHECKS = {
    "timestamp": "float32",
    "frame_index": "int64",
    "episode_index": "int64",
    "index": "int64",
    "task_index": "int64",
}
"""Columns of every data set that count, which are compared and not kept, with their dtypes."""

SUCCESS = "next.success"
_NUMBERS = re.compile(r"float(16|32|64)|u?int(8|16|32|64)|bool")
_PLACE = re.compile(r"\{(\w+)(?::0?(\d*)d?)?\}")
_DEPTH = ("depth_min", "depth_max", "shift", "use_log")
_MOST_SIDE = 16384  # pixels; more is a damaged number


@final
@dataclass(frozen=True)
class Quantized:
    """How depth was put into the few bits of a video, in meters.

    Args:
        low: depth of code 0.
        high: depth of the largest code.
        shift: added before the logarithm.
        log: whether codes are equally spaced in the logarithm.
    """

    low: float
    high: float
    shift: float
    log: bool

    def millimeters(self, codes: np.ndarray, largest: int) -> np.ndarray:
        """Return the depth of codes 0 … `largest`, uint16."""
        share = codes.astype(np.float32) / largest
        if self.log:
            first, last = np.log(self.low + self.shift), np.log(self.high + self.shift)
            meters = np.exp(first + share * np.float32(last - first)) - np.float32(self.shift)
        else:
            meters = self.low + share * np.float32(self.high - self.low)
        return np.rint(np.clip(meters, self.low, self.high) * 1000).clip(0, 65535).astype(np.uint16)


@final
@dataclass(frozen=True)
class Feature:
    """One feature that is read.

    Args:
        column: its name in the files.
        kind: "numbers", "image" (a picture in the parquet file) or "video".
        array: what comes of it.
        quantized: how its depth was quantized, if it was.
    """

    column: str
    kind: str
    array: Array
    quantized: Quantized | None = None


@final
@dataclass(frozen=True)
class Info:
    """The content of `meta/info.json`.

    Args:
        version: "v3.0", "v2.1" or "v2.0".
        fps: frames per second.
        data_path: template of the data files.
        video_path: template of the video files; None without videos.
        chunk: files, or episodes, in a folder.
        features: those that are read, by name in the recording.
        described: the names of all features.
        content: all of it.
    """

    version: str
    fps: float
    data_path: str
    video_path: str | None
    chunk: int
    features: Mapping[str, Feature]
    described: frozenset[str]
    content: Mapping[str, Any]

    @property
    def count(self) -> int | None:
        """The number of episodes, if it is stated."""
        count = self.content.get("total_episodes")
        return count if isinstance(count, int) else None

    @property
    def frames(self) -> int | None:
        """The number of frames of all episodes together, if it is stated."""
        count = self.content.get("total_frames")
        return count if isinstance(count, int) else None

    def splits(self, number: int) -> tuple[str, ...]:
        """Return the names of the splits that an episode belongs to."""
        splits = self.content.get("splits")
        found = []
        for name, text in (splits if isinstance(splits, dict) else {}).items():
            ends = re.fullmatch(r"(\d+):(\d+)", str(text))
            if ends and int(ends[1]) <= number < int(ends[2]):
                found.append(str(name))
        return tuple(found)


def version_of(path: Path) -> str | None:
    """Return the version of the LeRobot data set at `path`; None if it is something else."""
    if (path / _INFO_V1).is_file() and (path / "train").is_dir():
        return "v1"
    try:
        text = (path / INFO).read_bytes().decode(errors="replace")
    except OSError:
        text = ""
    if found := re.search(r'"codebase_version"\s*:\s*"v?([^"]*)"', text):
        return f"v{found[1]}"
    looks = (path / "meta").is_dir() and any((path / "data").glob("chunk-*/*.parquet"))
    return f"with a damaged {INFO}" if looks else None


def read_info(path: Path, say: Say) -> Info:
    """Return what the data set at `path` says of itself.

    Raises:
        ValueError: a damaged file, a version that cannot be read, or no feature that can.
    """
    content = {"codebase_version": "v1"} if version_of(path) == "v1" else _content(path / INFO)
    version = str(content.get("codebase_version"))
    if version.startswith("v1"):
        cure = "convert it first with LeRobot's own scripts (convert_dataset_v1_to_v2, in LeRobot 0.1 to 0.3)"
        raise ValueError(explain(f"LeRobot {version} is not read", ", ".join(VERSIONS), cure))
    require(version in VERSIONS, f"LeRobot codebase_version {version!r}", f"one of {', '.join(VERSIONS)}")
    fps = content.get("fps")
    right = isinstance(fps, int | float) and not isinstance(fps, bool) and 0 < fps < 1e5
    require(right, f"{INFO}: fps={fps!r}", "frames per second")
    templates = [content.get("data_path"), content.get("video_path")]
    for template in templates:
        inside = template is None or (isinstance(template, str) and _is_inside(template))
        require(inside, f"{INFO} has the path {template!r}", "a path inside the data set")
    require(templates[0] is not None, f"{INFO} has no data_path", cure="copy it again")
    chunk = content.get("chunks_size", 1000)
    require(isinstance(chunk, int) and chunk >= 1, f"{INFO}: chunks_size={chunk!r}", "1 or more")
    described = content.get("features")
    require(isinstance(described, dict) and described, f"{INFO} has no features", cure="copy it again")
    assert isinstance(described, dict) and isinstance(fps, int | float)
    features = _features(described, say)
    return Info(version, float(fps), str(templates[0]), templates[1], chunk, features, frozenset(described), content)


def fill(template: str, **values: object) -> str:
    """Return a template with its {places} filled; numbers are padded as it says.

    Raises:
        ValueError: a place that is not among the values.
    """

    def put(place: re.Match[str]) -> str:
        require(place[1] in values, f"{INFO}: unknown {place[0]} in {template!r}", f"{', '.join(values)}")
        return str(values[place[1]]).zfill(int(place[2] or 0))

    return _PLACE.sub(put, template)


def matching(path: Path, template: str) -> list[Path]:
    """Return the files that a template may stand for, sorted."""
    return sorted(file for file in path.glob(_PLACE.sub("*", template)) if file.is_file())


def _content(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(explain(f"{file} is damaged ({error})", cure="copy it again")) from error
    require(isinstance(content, dict), f"{file} holds no JSON object", cure="copy it again")
    return dict(content)


def _is_inside(template: str) -> bool:
    return not Path(template).is_absolute() and ".." not in Path(template).parts


def _features(described: Mapping[str, Any], say: Say) -> dict[str, Feature]:
    found: dict[str, Feature] = {}
    actions = [name for name in ("action", "actions") if name in described]
    for column, said in described.items():
        if column in CHECKS:
            continue
        require(isinstance(said, dict), f"{INFO}: feature {column!r} is {said!r}", "a description")
        key = "action" if [column] == actions[:1] else column.replace("/", ".")
        feature = _feature(column, key, said)
        if feature is None:
            say(f"left out: {column!r} holds {said.get('dtype')} of shape {said.get('shape')}, which is not kept")
        else:
            found[key] = feature
    require(found, f"{INFO}: no feature of numbers or images", cure="copy it again")
    return found


def _feature(column: str, key: str, said: Mapping[str, Any]) -> Feature | None:
    """A feature as it is described; None for text and the like."""
    dtype, shape = str(said.get("dtype")), said.get("shape")
    right = isinstance(shape, list) and all(type(n) is int and 1 <= n <= 2**24 for n in shape)
    require(right, f"{INFO}: feature {column!r} has shape {shape!r}", "a list of sizes")
    assert isinstance(shape, list)
    if dtype in ("image", "video"):
        return _camera(column, dtype, shape, said)
    if not _NUMBERS.fullmatch(dtype):
        return None
    if len(shape) == 3:  # images as plain numbers; other arrays of three dimensions would be taken for some
        image = dtype == "uint8" and shape[2] in (1, 3, 4)
        return Feature(column, "numbers", Array(tuple(shape), np.dtype(dtype), image=True)) if image else None
    if key == "action":
        role = "action"
    else:
        role = "observation" if key.split(".")[0] in ("observation", "observations", "obs") else "other"
    unit = said.get("unit")
    names = _names(said.get("names"), shape)
    array = Array(tuple(shape), np.dtype(dtype), role, unit=unit if isinstance(unit, str) else None, names=names)
    return Feature(column, "numbers", array)


def _camera(column: str, kind: str, shape: list[int], said: Mapping[str, Any]) -> Feature:
    info = {**(said.get("video_info") or {}), **(said.get("info") or {})}
    names = [str(name) for name in said["names"]] if isinstance(said.get("names"), list) else []
    shape = [*shape, 1] if len(shape) == 2 else shape
    require(len(shape) == 3 and max(shape) <= _MOST_SIDE, f"{INFO}: camera {column!r} of shape {shape}", "(H, W, C)")
    first = names[:1] in (["channel"], ["channels"]) if names else shape[0] in (1, 3, 4) and shape[2] not in (1, 3, 4)
    height, width, channels = (shape[1], shape[2], shape[0]) if first else shape
    require(channels in (1, 3, 4), f"{INFO}: camera {column!r} of {channels} channels", "1, 3 or 4")
    key = column.replace("/", ".")
    if not (info.get("is_depth_map") or info.get("video.is_depth_map")) or _few_bits(info):
        return Feature(column, kind, Array((height, width, channels), np.dtype(np.uint8), image=True))
    given = {name: info.get(name, info.get(f"video.{name}")) for name in _DEPTH}
    known = kind == "video" and all(value is not None for value in given.values())
    quantized = Quantized(*(float(given[name]) for name in _DEPTH[:3]), bool(given["use_log"])) if known else None
    if quantized:
        least = quantized.low + (quantized.shift if quantized.log else 0)
        right = least > 0 if quantized.log else True
        require(right and quantized.high > quantized.low, f"{INFO}: depth {key!r} between {quantized}")
    unit = "mm" if quantized else info.get("depth_unit")
    array = Array((height, width, 1), np.dtype(np.uint16), image=True, unit=unit if isinstance(unit, str) else None)
    return Feature(column, kind, array, quantized)


def _few_bits(info: Mapping[str, Any]) -> bool:
    """Whether a video of depth has eight bits, and so is what any camera gives."""
    pixels = info.get("video.pix_fmt", info.get("pix_fmt"))
    return isinstance(pixels, str) and not re.search(r"(9|10|12|14|16)(le|be)?$", pixels)


def _names(said: object, shape: list[int]) -> tuple[str, ...] | None:
    """The names of the dimensions, in a list or in lists by group; None unless there is one for each."""
    while isinstance(said, dict):
        said = [name for group in said.values() for name in (group if isinstance(group, list) else [group])]
    if isinstance(said, list) and len(said) == 1 and isinstance(said[0], list):
        said = said[0]
    fits = isinstance(said, list) and len(shape) == 1 and len(said) == shape[0]
    return tuple(str(name) for name in said) if fits and isinstance(said, list) else None
