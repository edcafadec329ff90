"""Recordings of other formats: random damages, the speed of converting, and of reading for training.

python scripts/lab/benchmarks/recordings.py fuzz --fixtures FOLDER --damages 500 --out fuzz.json
python scripts/lab/benchmarks/recordings.py conversion --out conversion.json
python scripts/lab/benchmarks/recordings.py reading --out reading.json

`fuzz` damages copies of all recordings below a folder, converts each, and compares what comes out with what the whole
one gives. It counts what crashed, what was found (refused, or said), what was harmless (equal numbers), what is
renumbered (two files changed places, and neither says whose it is), what changed numbers by rounding or pixels
by less than a codec does, and what changed them more and said nothing (silent).
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch

from diffpolicy.config.commands import ConvertConfig, ExportDatasetConfig
from diffpolicy.config.execute import MENDABLE
from diffpolicy.datasets.buffer import ReplayBuffer
from diffpolicy.datasets.convert import convert
from diffpolicy.datasets.exporters.lerobot import export_dataset
from diffpolicy.datasets.frames import ZarrFrames
from diffpolicy.datasets.image_windows import ImageWindows
from diffpolicy.datasets.importers import recognize
from diffpolicy.datasets.streaming import WindowStream
from diffpolicy.datasets.writer import EpisodeWriter
from diffpolicy.datasets.zarr_layout import ENDS, ZarrArchive
from diffpolicy.evaluation.report import provenance
from diffpolicy.util.errors import require
from diffpolicy.util.files import write_json

ROUNDING = 1e-6  # of an array's largest number
CODEC_MSE = 45.0  # levels² of a frame: videos of LeRobot's own differ by 4 to 44 from the same pictures in PNG
SECONDS = 120  # for one damaged recording
VGA, FPS, EPISODE, CODECS = (480, 640), 30, 100, ("av1", "h264")
BATCH, HORIZONS, EPOCHS = 16, (16, 2, 8), 4
KINDS = ("flip", "truncate", "delete", "swap")


def find_recordings(folder: Path) -> list[Path]:
    """Return every recording below a folder: what is recognized, the outermost first.

    Of a folder whose files are recordings of their own each of them is one: that one is gone, nothing can tell.
    """
    found: list[Path] = []
    for path in sorted(folder.rglob("*")):
        if any(one in path.parents for one in found) or not _is_recording(path):
            continue
        files = [one for one in path.iterdir() if one.is_file()] if path.is_dir() else []
        if not files or not all(_is_recording(one) for one in files):
            found.append(path)
    return found


def _is_recording(path: Path) -> bool:
    try:
        return path.suffix not in (".py", ".md") and bool(recognize(path))
    except (ValueError, OSError):
        return False


def settings_of(path: Path) -> dict[str, Any]:
    """Return what a recording needs to be converted: where it has no action, the first array one frame later."""
    reader, _ = recognize(path)
    try:
        with reader(path, lambda _: None) as importer:
            arrays = importer.arrays
    except MENDABLE:
        return {}
    if "action" in arrays:
        return {}
    vectors = [name for name, array in arrays.items() if array.role == "observation" and not array.image]
    return {"action": f"next:{vectors[0]}"} if vectors else {}


def converted(path: Path, out: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Convert, and return what came of it: an error that a user can mend, or arrays by episode, and findings."""
    try:
        done = convert(ConvertConfig(str(path), str(out), **settings), progress=False)
    except MENDABLE as error:
        return {"error": f"{type(error).__name__}: {error}"}
    with ZarrArchive(out) as archive:
        ends, attrs = archive.read(ENDS), archive.attrs()
        numbers = archive.read("meta/source_episode").tolist()
        arrays = {name: archive.read(f"data/{name}") for name in archive.names()}
        tasks, success = (archive.read(f"meta/{name}").tolist() for name in ("task", "success"))
    episodes = {}
    for i, number in enumerate(numbers):
        part = slice(int(ends[i - 1]) if i else 0, int(ends[i]))
        text = attrs["tasks"][tasks[i]] if tasks[i] >= 0 else None
        said = {"task": text, "success": success[i], "fps": attrs.get("fps")}
        episodes[number] = ({name: values[part] for name, values in arrays.items()}, said)
    return {"episodes": episodes, "findings": list(done.findings)}


def damage(path: Path, kind: str, rng: random.Random) -> str:
    """Damage one file of a recording, and return how."""
    files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
    file = rng.choice(files)
    content = bytearray(file.read_bytes())
    name = file.relative_to(path).as_posix() if path.is_dir() else file.name
    if kind == "delete" or not content:
        file.unlink()
        return f"delete {name}"
    if kind == "truncate":
        kept = rng.randrange(len(content))
        file.write_bytes(content[:kept])
        return f"truncate {name} to {kept} of {len(content)} bytes"
    if kind == "swap" and len(files) > 1:
        alike = [one for one in files if one != file and one.suffix == file.suffix]
        other = rng.choice(alike or [one for one in files if one != file])
        file.write_bytes(other.read_bytes())
        other.write_bytes(content)
        return f"swap {name} and {other.relative_to(path).as_posix()}"
    place, bit = rng.randrange(len(content)), rng.randrange(8)
    content[place] ^= 1 << bit
    file.write_bytes(content)
    return f"flip bit {bit} of byte {place} of {name}"


def verdict(whole: Mapping[str, Any], found: Mapping[str, Any]) -> tuple[str, str]:
    """Return what became of a damaged recording, and the worst of it in words."""
    if "error" in found:
        return "found", str(found["error"])
    if "error" in whole:
        return "silent", "the whole recording is refused, and the damaged one is not"
    if said := [one for one in found["findings"] if one not in whole["findings"]]:
        return "found", said[0]
    if found["episodes"].keys() != whole["episodes"].keys():
        return "silent", f"episodes {sorted(found['episodes'])} of {sorted(whole['episodes'])}"
    if _renumbered(whole["episodes"], found["episodes"]):
        return "renumbered", "the same episodes under each other's numbers"
    worst = ("harmless", "")
    for number, (arrays, said) in found["episodes"].items():
        before, told = whole["episodes"][number]
        if said != told:
            return "silent", f"episode {number}: {said} rather than {told}"
        if {n: (v.shape, v.dtype) for n, v in arrays.items()} != {n: (v.shape, v.dtype) for n, v in before.items()}:
            return "silent", f"episode {number} has other arrays"
        for name, values in arrays.items():
            kind, says = _changed(values, before[name])
            if ("harmless", "rounding", "silent").index(kind) > ("harmless", "rounding", "silent").index(worst[0]):
                worst = kind, f"episode {number}: {name}: {says}"
    return worst


def _renumbered(whole: Mapping[int, Any], found: Mapping[int, Any]) -> bool:
    """Whether episodes are the same, every one of them once, and in another order."""
    left = dict(whole)
    for arrays, said in found.values():
        same = [n for n, (before, told) in left.items() if said == told and _equal(arrays, before)]
        if not same:
            return False
        left.pop(same[0])
    return any(not _equal(arrays, whole[number][0]) for number, (arrays, _) in found.items())


def _equal(arrays: Mapping[str, np.ndarray], before: Mapping[str, np.ndarray]) -> bool:
    return arrays.keys() == before.keys() and all(np.array_equal(arrays[name], before[name]) for name in arrays)


def _changed(values: np.ndarray, before: np.ndarray) -> tuple[str, str]:
    if np.array_equal(values, before):
        return "harmless", ""
    off = np.abs(values.astype(np.float64) - before.astype(np.float64))
    if values.ndim == 4 and values.dtype == np.uint8:
        squares = (off**2).reshape(len(off), -1).mean(1)
        says = f"{int((squares > 0).sum())} frames, at worst a mean square of {squares.max():.1f} levels²"
        return ("rounding" if squares.max() <= CODEC_MSE else "silent"), says
    share = off.max() / max(float(np.abs(before).max()), 1e-30)
    return ("rounding" if share <= ROUNDING else "silent"), f"by {off.max():.3g}, {share:.3g} of the largest"


def _one(path: Path, whole_file: Path, settings: dict[str, Any], kind: str, seed: int) -> dict[str, str]:
    """Damage a copy, convert it, and compare: in a process of its own, which may crash."""
    whole = _load(whole_file)
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder, path.name)
        shutil.copytree(path, copy) if path.is_dir() else shutil.copyfile(path, copy)
        for file in [copy, *copy.rglob("*")]:
            file.chmod(0o755 if file.is_dir() else 0o644)
        how = damage(copy, kind, random.Random(seed))
        before = time.perf_counter()
        try:
            result, says = verdict(whole, converted(copy, Path(folder, "out"), settings))
        except Exception as error:  # whatever no user could mend
            result, says = "crashed", f"{type(error).__name__}: {error}"
        says = says.replace(folder, "…")
        return {"how": how, "result": result, "says": says, "seconds": f"{time.perf_counter() - before:.2f}"}


def _save(file: Path, whole: Mapping[str, Any]) -> None:
    """Keep what a whole recording gives, for the processes that compare."""
    episodes = whole.get("episodes", {})
    said = {number: told for number, (_, told) in episodes.items()}
    arrays = {f"{number}/{name}": one for number, (values, _) in episodes.items() for name, one in values.items()}
    np.savez(file, **arrays)
    rest = {key: value for key, value in whole.items() if key != "episodes"}
    file.with_suffix(".json").write_text(json.dumps({**rest, "said": said}))


def _load(file: Path) -> dict[str, Any]:
    content = json.loads(file.with_suffix(".json").read_text())
    said = content.pop("said")
    if "error" in content:
        return content
    with np.load(file, allow_pickle=False) as opened:
        split = [(*name.split("/", 1), opened[name]) for name in opened.files]
    episodes = {int(n): ({name: v for i, name, v in split if i == n}, told) for n, told in said.items()}
    return {**content, "episodes": episodes}


def _pool() -> ProcessPoolExecutor:
    return ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))  # a fork would lack the libraries' threads


def fuzz(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return counts of what became of random damages, and all that crashed or passed silently."""
    recordings = find_recordings(arguments.fixtures)
    if not recordings:
        sys.exit(f"no recording below {arguments.fixtures}")
    rng, results = random.Random(arguments.seed), []
    with tempfile.TemporaryDirectory() as folder:
        whole: dict[Path, tuple[Path, dict[str, Any]]] = {}
        for i, path in enumerate(recordings):
            settings = settings_of(path)
            _save(Path(folder, f"{i}.npz"), converted(path, Path(folder, f"whole{i}"), settings))
            whole[path] = Path(folder, f"{i}.npz"), settings
        pool = _pool()
        for number in range(arguments.damages):
            path = recordings[number % len(recordings)]
            kind = KINDS[0] if rng.random() < 0.6 else rng.choice(KINDS[1:])
            job = pool.submit(_one, path, *whole[path], kind, rng.randrange(2**31))
            try:
                found = job.result(SECONDS)
            except (BrokenProcessPool, TimeoutError) as error:
                found = {"how": kind, "result": "crashed", "says": type(error).__name__}
                for process in list(pool._processes.values()):
                    process.kill()
                pool = _pool()
            results.append({"recording": path.relative_to(arguments.fixtures).as_posix(), "kind": kind, **found})
            if found["result"] in ("crashed", "silent") or arguments.verbose:
                print(json.dumps(results[-1]), flush=True)
        pool.shutdown()
    counts = Counter(one["result"] for one in results)
    by_kind = {kind: dict(Counter(one["result"] for one in results if one["kind"] == kind)) for kind in KINDS}
    telling = [one for one in results if one["result"] in ("crashed", "silent", "renumbered", "rounding")]
    return {"recordings": len(recordings), "counts": dict(counts), "by_kind": by_kind, "telling": telling}


def _film(folder: Path, frames: int, codec: str) -> Path:
    """A LeRobot data set of VGA video, moving waves with a little noise, with 100 frames an episode."""
    rng = np.random.default_rng(0)
    y, x = np.meshgrid(np.linspace(0, 9, VGA[0]), np.linspace(0, 12, VGA[1]), indexing="ij")
    waves = np.stack([np.sin((c + 1) * x + y) + np.sin(x * y / 9 - c) for c in range(3)], -1)
    picture, grain = (127 + 55 * waves).astype(np.uint8), rng.integers(0, 7, (*VGA, 3), np.uint8)
    writer = EpisodeWriter(folder / "made", {"fps": FPS})
    for start in range(0, frames, EPISODE):
        numbers = np.arange(start, min(start + EPISODE, frames))
        moving = [np.roll(picture, 3 * i, axis=1) + np.roll(grain, 7 * i, axis=(0, 1)) for i in numbers]
        state = np.stack([np.sin(numbers / FPS), np.cos(numbers / FPS)], 1).astype(np.float32)
        writer.add({"camera": np.stack(moving), "state": state, "action": state})
    export_dataset(ExportDatasetConfig(str(folder / "made"), str(folder / "film"), codec=codec), progress=False)
    return folder / "film"


def _decode(film: Path) -> tuple[int, float]:
    """Frames and seconds of decoding all videos of a data set from front to back, to RGB."""
    count, before = 0, time.perf_counter()
    for file in sorted(film.rglob("*.mp4")):
        with av.open(str(file)) as container:
            container.streams.video[0].thread_type = "AUTO"
            for frame in container.decode(video=0):
                frame.to_ndarray(format="rgb24")
                count += 1
    return count, time.perf_counter() - before


def _as_lerobot(film: Path, samples: int, seed: int, reopen: bool) -> tuple[int, float]:
    """Frames and seconds of reading windows in random order as LeRobot does: seek, decode, keep what is nearest.

    Its backend "pyav" opens the file anew for every window (`reopen`); "torchcodec" keeps decoders open. Either gives
    floats in [0, 1], channels first.
    """
    (file,) = film.rglob("*.mp4")
    rng, count, before = np.random.default_rng(seed), 0, time.perf_counter()
    container = av.open(str(file))
    container.streams.video[0].thread_type = "AUTO"
    for first in rng.integers(0, container.streams.video[0].frames - HORIZONS[1], samples):
        if reopen:
            container.close()
            container = av.open(str(file))
        stream = container.streams.video[0]
        if reopen:
            stream.thread_type = "AUTO"
        times = [(first + i) / FPS for i in range(HORIZONS[1])]
        container.seek(int(times[0] / stream.time_base), stream=stream, backward=True)
        found = []
        for frame in container.decode(stream):
            time_of = float(frame.pts * frame.time_base)
            if time_of > times[0] - 0.5 / FPS:
                found.append(torch.from_numpy(frame.to_ndarray(format="rgb24")).permute(2, 0, 1))
            if time_of > times[-1] - 0.5 / FPS:
                break
        count += len(torch.stack(found).float() / 255)
    container.close()
    return count, time.perf_counter() - before


def conversion(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the frames a second that a data set of VGA video is converted at."""
    found = {}
    for codec in CODECS:
        with tempfile.TemporaryDirectory() as folder:
            film, rates = _film(Path(folder), arguments.frames, codec), []
            for turn in range(arguments.rounds):
                before = time.perf_counter()
                convert(ConvertConfig(str(film), str(Path(folder, f"out{turn}"))), progress=False)
                rates.append(arguments.frames / (time.perf_counter() - before))
            found[codec] = {"frames_per_second": float(np.median(rates)), "turns": rates}
    return {"conversion": found}


def reading(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return frames a second, in turn: of windows in random order from a converted data set over some epochs, of its
    video from front to back, and of windows in random order decoded as LeRobot does, in its two ways of opening."""
    found = {}
    for codec in CODECS:
        with tempfile.TemporaryDirectory() as folder:
            film = _film(Path(folder), arguments.frames, codec)
            convert(ConvertConfig(str(film), str(Path(folder, "out")), resize=arguments.resize), progress=False)
            buffer = ReplayBuffer.open(Path(folder, "out"), ["state", "action"])
            frames = ZarrFrames(Path(folder, "out"), {"camera": "camera"})
            turns: dict[str, list[float]] = {"decoded": [], "pyav": [], "cached": [], "read": []}
            with ImageWindows(buffer, frames, ["state"], "action", *HORIZONS) as windows:
                for turn in range(arguments.rounds):
                    count, seconds = _decode(film)
                    turns["decoded"].append(count / seconds)
                    for peer, reopen in (("pyav", True), ("cached", False)):
                        count, seconds = _as_lerobot(film, arguments.frames // 4, turn, reopen)
                        turns[peer].append(count / seconds)
                    with WindowStream(windows, BATCH, turn, memory=2048) as stream:
                        batches, before = EPOCHS * len(windows) // BATCH, time.perf_counter()
                        for step in range(batches):
                            stream[step]
                        seconds = time.perf_counter() - before
                    turns["read"].append(batches * BATCH * HORIZONS[1] / seconds)
            found[codec] = {f"{name}_per_second": float(np.median(of)) for name, of in turns.items()}
            for peer in ("decoded", "pyav", "cached"):
                found[codec][f"ratio_to_{peer}"] = float(np.median(np.divide(turns["read"], turns[peer])))
            found[codec]["turns"] = turns
    return {"reading": found}


PARTS: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
    "fuzz": fuzz,
    "conversion": conversion,
    "reading": reading,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--fixtures", type=Path, help="fuzz: folder below which all recordings are damaged")
    parser.add_argument("--damages", type=int, default=500, help="fuzz: how many (default: 500)")
    parser.add_argument("--verbose", action="store_true", help="fuzz: print every damage")
    parser.add_argument("--frames", type=int, default=600, help="conversion, reading: frames (default: 600)")
    parser.add_argument("--rounds", type=int, default=3, help="conversion, reading: turns (default: 3)")
    parser.add_argument("--resize", type=int, nargs=2, help="reading: height and width of the converted images")
    parser.add_argument("--seed", type=int, default=0, help="of everything random (default: 0)")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    arguments = parser.parse_args()
    require(arguments.part != "fuzz" or arguments.fixtures, "no --fixtures", "a folder of recordings")
    found = PARTS[arguments.part](arguments)
    settings = {name: value for name, value in vars(arguments).items() if name not in ("fixtures", "out", "verbose")}
    if arguments.out:
        write_json(arguments.out, {**found, "settings": settings, **provenance()})
    print(json.dumps({name: value for name, value in found.items() if name != "telling"}, indent=1))


if __name__ == "__main__":
    main()
