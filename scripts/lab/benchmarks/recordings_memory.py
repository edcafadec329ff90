"""Peak resident memory of what large recordings go through, each part in a process of its own, on Linux.

python scripts/lab/benchmarks/recordings_memory.py conversion recorder --episodes 40 400 --out memory.json

`conversion`: episodes of VGA frames in npz files, converted. `export`: what came of it, written as LeRobot's format.
`recorder`: the same kept by the `Recorder` of a rollout and added to a recording. `from_episodes`: the same joined in
memory, beside the bytes of the data. All but the last must not grow with the number of episodes. Files of the source
are made one by one; after the first few, as links.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from diffpolicy.config.commands import ConvertConfig, ExportDatasetConfig
from diffpolicy.datasets import EpisodeWriter, ReplayBuffer
from diffpolicy.datasets.convert import convert
from diffpolicy.datasets.exporters.lerobot import export_dataset
from diffpolicy.evaluation.observers import Recorder
from diffpolicy.evaluation.report import provenance
from diffpolicy.util.files import write_json

VGA = (480, 640, 3)
DISTINCT = 4
"""Files of different content."""

MIB = 2**20


def episode(number: int, frames: int) -> dict[str, np.ndarray]:
    """Return an episode of pictures with the noise of a camera, which do not compress well, and 7 numbers."""
    rng = np.random.default_rng(number)
    images = np.empty((frames, *VGA), np.uint8)
    ramp = np.add.outer(np.arange(VGA[0]), np.arange(VGA[1]))[..., None] // 8
    for i in range(frames):
        images[i] = ramp + i + rng.integers(0, 8, VGA, np.uint8)
    return {"camera": images, "qpos": rng.normal(size=(frames, 7)), "action": rng.normal(size=(frames, 7))}


def conversion(folder: Path, episodes: int, frames: int) -> dict[str, Any]:
    """Convert npz files, an episode each."""
    done = convert(ConvertConfig(str(folder / "source"), str(folder / "out")), progress=False)
    return {"frames": done.frames}


def export(folder: Path, episodes: int, frames: int) -> dict[str, Any]:
    """Write the converted recording in LeRobot's format."""
    done = export_dataset(ExportDatasetConfig(str(folder / "out"), str(folder / "lerobot"), fps=20), progress=False)
    return {"frames": done.frames}


def recorder(folder: Path, episodes: int, frames: int) -> dict[str, Any]:
    """Keep what a rollout shows, step by step, and add every episode to a recording."""
    writer = EpisodeWriter(folder / "out", {"fps": 20})
    for number in range(episodes):
        writer.add(_rolled_out(number % DISTINCT, frames), seeds=number)
    return {"frames": writer.frames}


def from_episodes(folder: Path, episodes: int, frames: int) -> dict[str, Any]:
    """Join all episodes in memory."""
    buffer = ReplayBuffer.from_episodes(episode(number, frames) for number in range(episodes))
    return {"frames": buffer.n_steps, "data_mib": round(sum(buffer[name].nbytes for name in buffer.keys()) / MIB)}  # noqa: SIM118


PARTS: dict[str, Callable[[Path, int, int], dict[str, Any]]] = {
    "conversion": conversion,
    "export": export,
    "recorder": recorder,
    "from_episodes": from_episodes,
}


def measured(part: str, folder: Path, episodes: int, frames: int) -> dict[str, Any]:
    """Return what a part did, and the memory that this process took before and at most, MiB."""
    before = _peak()
    found = PARTS[part](folder, episodes, frames)
    return {"part": part, "episodes": episodes, **found, "imported_mib": before, "peak_mib": _peak()}


def main() -> None:
    """Measure the parts that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="+", choices=PARTS)
    parser.add_argument("--episodes", type=int, nargs="+", default=[40, 400], help="how many (default: 40 400)")
    parser.add_argument("--frames", type=int, default=100, help="of an episode (default: 100)")
    parser.add_argument("--folder", type=Path, help="where files are made and removed (default: a temporary one)")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    arguments = parser.parse_args()
    found = []
    for part in arguments.parts:
        for count in arguments.episodes:
            with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
                if part in ("conversion", "export"):
                    _alone(_make_source, Path(name) / "source", count, arguments.frames)
                if part == "export":
                    _alone(conversion, Path(name), count, arguments.frames)
                found.append(_alone(measured, part, Path(name), count, arguments.frames))
            print(json.dumps(found[-1]), flush=True)
    if arguments.out:
        write_json(arguments.out, {"measured": found, "frames_per_episode": arguments.frames, **provenance()})


def _alone(function: Callable[..., Any], *arguments: Any) -> Any:
    """What a function returns in a new process."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def _make_source(folder: Path, episodes: int, frames: int) -> None:
    folder.mkdir()
    for number in range(episodes):
        file = folder / f"episode_{number}.npz"
        if number < DISTINCT:
            np.savez(file, **episode(number, frames))
        else:
            _link(folder / f"episode_{number % DISTINCT}.npz", file)


def _link(source: Path, file: Path) -> None:
    try:
        os.link(source, file)
    except OSError:  # a file system without links
        shutil.copy(source, file)


def _rolled_out(number: int, frames: int) -> dict[str, np.ndarray]:
    watch, kept = Recorder(), SimpleNamespace(number=0, observed={})
    watch.on_reset(kept, None, None, {})
    for obs in _steps(number, frames):
        watch.on_step(SimpleNamespace(episode=kept, obs=obs, action=np.zeros(7, np.float32)))
    watch.on_end(kept)
    return kept.observed[watch.name]


def _steps(number: int, frames: int) -> Iterator[dict[str, np.ndarray]]:
    rng = np.random.default_rng(number)
    for i in range(frames):
        yield {"camera": rng.integers(0, 8, VGA, np.uint8) + np.uint8(i), "qpos": rng.normal(size=7)}


def _peak() -> int:
    """The most memory that was resident in this process, MiB; that of its parent does not count, as in getrusage."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return round(next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) / 1024)


if __name__ == "__main__":
    main()
