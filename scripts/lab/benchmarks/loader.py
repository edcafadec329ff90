"""Image windows streamed from disk, on Linux.

`memory`: the peak resident memory of a process that streams through 1,000,000 frames of 96×96, as a multiple of that
for 10,000 frames. `throughput`: windows per second, as a multiple of those that a training step (image encoder and
temporal U-Net, batch 64) takes in the same time, from Push-T images as uint8 and as published, float32 (if
DIFFPOLICY_DATA names the folder, else from noise).
"""

from __future__ import annotations

import multiprocessing
import os
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
import zarr
from zarr.codecs import ZstdCodec

from benchmarks.paired import ratio, seconds
from benchmarks.train_step import chosen_speed, optimization
from diffpolicy.datasets import ReplayBuffer
from diffpolicy.datasets.downloads import resolve
from diffpolicy.datasets.frames import ZarrFrames
from diffpolicy.datasets.image_windows import ImageWindows
from diffpolicy.datasets.sources.pusht import PUSHT
from diffpolicy.datasets.streaming import WindowStream
from diffpolicy.nets import ImageEncoder
from diffpolicy.policies import ModelSpec
from diffpolicy.policies.encoders import EncodedModel
from diffpolicy.policies.models.generative import GenerativeModel

FRAMES = (10_000, 1_000_000)
SHAPE = (96, 96, 3)
CHUNK, EPISODE = 128, 200  # frames
DISTINCT = 4  # chunks of different content
POOLS = 6  # that a process streams through before its memory is read
BATCH, HORIZONS = 64, (16, 2, 8)
NET = {"name": "unet1d", "widths": [64, 128, 256]}
STEPS = 4  # training steps in a turn
NOISE_FRAMES = 8_000  # where there are no Push-T images


def _noise(frames: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (frames, *SHAPE), np.uint8)


def _numbers(frames: int) -> dict[str, np.ndarray]:
    numbers = np.arange(frames, dtype=np.float32)[:, None]
    return {"state": np.tile(numbers, 5), "action": np.tile(numbers, 2)}


def _write(path: Path, frames: int, seed: int) -> None:
    """A recording of so many frames, whose chunk files of images are links to a few: on disk it is small."""
    numbers, ends = _numbers(frames), np.append(np.arange(EPISODE, frames, EPISODE), frames)
    ReplayBuffer(numbers, ends).save(path)
    array = zarr.open_group(path).create_array(
        "data/img",
        shape=(frames, *SHAPE),
        dtype=np.uint8,
        chunks=(CHUNK, *SHAPE),
        compressors=[ZstdCodec(checksum=True)],
    )
    array[: DISTINCT * CHUNK] = _noise(DISTINCT * CHUNK, seed)
    files = [path / "data/img" / array.metadata.encode_chunk_key((i, 0, 0, 0)) for i in range(-(-frames // CHUNK))]
    for number, file in enumerate(files[DISTINCT:]):
        file.parent.mkdir(parents=True, exist_ok=True)
        os.link(files[number % DISTINCT], file)


def _windows(path: Path) -> ImageWindows:
    frames = ZarrFrames(path, {"image": "img"})
    return ImageWindows(ReplayBuffer.open(path, ["state", "action"]), frames, ["state"], "action", *HORIZONS)


def _peak(path: Path) -> dict[str, float]:
    """MiB of this process at the most, and what the loader says its images take."""
    with _windows(path) as windows, WindowStream(windows, BATCH, 0) as stream:
        pools = (stream.pool_bytes // windows.frames.frame_bytes) * POOLS
        for step in range(pools // BATCH):
            stream[step]
        stated = stream.memory_bytes / 2**20
    lines = Path("/proc/self/status").read_text().splitlines()
    (peak,) = (int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))
    return {"peak": peak / 1024, "stated": stated}


def _memory(folder: Path, rounds: int, seed: int) -> dict[str, Any]:
    paths = [folder / f"{frames}.zarr" for frames in FRAMES]
    for path, frames in zip(paths, FRAMES, strict=True):
        _write(path, frames, seed)
    peaks: list[list[float]] = []
    for _ in range(rounds):
        found = []
        for path in paths:  # a fresh process each: what one before it has freed would hide what this one takes
            with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
                found.append(process.submit(_peak, path).result())
        peaks.append([one["peak"] for one in found])
    small, large = zip(*peaks, strict=True)
    more = float(np.median(np.subtract(large, small)))
    print(f"loader memory: {np.median(small):.0f} MiB and {np.median(large):.0f} MiB, {more:+.0f} MiB")
    mib = {f"{frames:,}": float(np.median(of)) for frames, of in zip(FRAMES, (small, large), strict=True)}
    stated = found[-1]["stated"]
    return {"peak_mib": mib, "difference_mib": more, "stated_mib": stated, "ratio": ratio(large, small)}


def _batches(stream: WindowStream, windows: int) -> Callable[[], None]:
    """A call that takes the stream's next batches of so many windows together."""
    steps = iter(range(10**9))

    def call() -> None:
        for _ in range(-(-windows // BATCH)):
            stream[next(steps)]

    return call


def _throughput(path: Path, rounds: int, seed: int) -> dict[str, Any]:
    torch.manual_seed(seed)
    with _windows(path) as windows, WindowStream(windows, BATCH, seed) as stream:
        raw, numbers = stream[0], HORIZONS[1] * windows.obs_dim
        batch = {
            "image": raw["image"],
            "action": torch.randn_like(raw["action"]),  # as if normalized
            "obs": torch.randn(BATCH, HORIZONS[1], windows.obs_dim),
        }
        encoder = ImageEncoder(SHAPE)
        cond_dim = numbers + HORIZONS[1] * encoder.features
        spec = ModelSpec(windows.action_dim, cond_dim, *HORIZONS[:2], NET)
        head = GenerativeModel(spec, {"name": "linear"}, prediction="velocity")
        learner = EncodedModel(head, {"image": encoder})
        speed = chosen_speed(learner, batch)
        train = optimization(learner, batch, speed)
        count = 2 * stream.pool_bytes // windows.frames.frame_bytes  # of every pool as much as comes to be decoded
        load = _batches(stream, count)
        turns = [(seconds(train, STEPS) / BATCH, seconds(load, 1) / count) for _ in range(rounds + 1)][1:]
    eaten, fed = (1 / np.array(of) for of in zip(*turns, strict=True))
    rates = {"loader": float(np.median(fed)), "training": float(np.median(eaten))}
    return {"windows_per_second": rates, "speed": str(speed), "ratio": ratio(fed, eaten)}


def _recordings(folder: Path, seed: int) -> Iterator[tuple[str, Path]]:
    if not os.environ.get("DIFFPOLICY_DATA"):
        ends = np.append(np.arange(EPISODE, NOISE_FRAMES, EPISODE), NOISE_FRAMES)
        noise = {**_numbers(NOISE_FRAMES), "img": _noise(NOISE_FRAMES, seed)}
        ReplayBuffer(noise, ends).save(folder / "noise.zarr")
        yield "noise, uint8", folder / "noise.zarr"
        return
    published = resolve(PUSHT)
    ReplayBuffer.open(published, ["img", "state", "action"]).save(folder / "pusht.zarr")
    yield "Push-T, uint8", folder / "pusht.zarr"
    yield "Push-T, published float32", published


def measure(rounds: int, seed: int) -> dict[str, Any]:
    """Return the memory, and the throughput of each recording that is streamed beside training."""
    with tempfile.TemporaryDirectory() as folder:
        found = {"memory, 1,000,000 / 10,000 frames": _memory(Path(folder), rounds, seed)}
        for name, path in _recordings(Path(folder), seed):
            found[f"throughput, {name}"] = _throughput(path, rounds, seed)
    return found
