"""What an evaluation leaves behind: evaluation.json, videos, and pictures."""

from __future__ import annotations

import importlib.metadata
import json
import platform
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import av
import matplotlib
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from diffpolicy.evaluation.metrics import summarize
from diffpolicy.evaluation.rollout import Episode
from diffpolicy.policies.observations import stack
from diffpolicy.policies.policy import Policy

_PACKAGES = ("diffpolicy", "torch", "numpy", "gymnasium", "pymunk", "zarr")
_SCENE = 512.0  # px, the side of the pushing environments' world


def provenance() -> dict[str, Any]:
    """Versions, processor and git commit, for a result that someone will want to run again."""
    return {
        "versions": {
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in _PACKAGES},
        },
        "processor": _processor(),
        "threads": torch.get_num_threads(),
        "commit": _commit(),
    }


def evaluation(
    episodes: Sequence[Episode], settings: Mapping[str, Any], measured: Mapping[str, Any]
) -> dict[str, Any]:
    """The contents of evaluation.json: summary with intervals, measurements, settings, provenance, episodes."""
    rows = [episode.row() for episode in episodes]
    return {
        **summarize(rows),
        **measured,
        "settings": dict(settings),
        **provenance(),
        "episodes": rows,
    }


def write_json(path: Path, contents: Mapping[str, Any]) -> None:
    """Write beside and rename, so that a reader never sees half a file."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(contents, indent=1) + "\n")
    partial.replace(path)


def write_video(path: Path, frames: Sequence[np.ndarray], fps: int = 10) -> None:
    """Frames (H, W, 3) uint8 as an H.264 file that browsers play; 10 frames a second is real time here."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=fps)
        height, width = frames[0].shape[:2]
        stream.width, stream.height, stream.pix_fmt = width - width % 2, height - height % 2, "yuv420p"
        stream.options = {"crf": "23"}
        for frame in frames:
            picture = av.VideoFrame.from_ndarray(frame[: stream.height, : stream.width], format="rgb24")
            container.mux(stream.encode(picture))
        container.mux(stream.encode())


def draw_fan(path: Path, policy: Policy, episode: Episode, moments: int = 4, samples: int = 48) -> None:
    """Draw how sampled action chunks fan out over the scene at a few moments of a filmed episode."""
    count = len(episode.frames)
    picked = [round(i * max(count - 1, 0) / moments) for i in range(moments)]
    figure = Figure(figsize=(4 * moments, 4.4), layout="constrained")
    for axes, k in zip(figure.subplots(1, moments, squeeze=False)[0], picked, strict=True):
        past = [max(0, k - i) for i in reversed(range(policy.obs_horizon))]
        history = stack([episode.observations[i] for i in past])
        policy.reset(range(samples), [episode.seed + i for i in range(samples)])
        chunks = policy.predict(stack([history] * samples))
        draw_chunks(axes, episode.frames[k], chunks)
        axes.set_title(f"step {k}")
    figure.suptitle(f"{samples} sampled chunks of {policy.action_horizon} actions each, early (dark) to late (light)")
    figure.savefig(path, dpi=110)


def draw_chunks(axes: Axes, frame: np.ndarray, chunks: np.ndarray) -> None:
    """Draw chunks (B, T, 2) of positions over the scene's picture, early actions dark and late ones light."""
    axes.imshow(frame, extent=(0, _SCENE, _SCENE, 0))
    axes.plot(*chunks.transpose(2, 1, 0), color="black", linewidth=0.4, alpha=0.35)
    steps = chunks.shape[1]
    for step, color in enumerate(matplotlib.colormaps["plasma"](np.linspace(0, 0.9, steps))):
        axes.scatter(*chunks[:, step].T, s=5, color=color, zorder=3)
    axes.set(xticks=[], yticks=[])


def draw_scores(path: Path, result: Mapping[str, Any]) -> None:
    """Draw the distribution of the episodes' scores, with the mean and its interval."""
    scores = [row["score"] for row in result["episodes"]]
    figure = Figure(figsize=(7, 3.2), layout="constrained")
    axes = figure.subplots()
    axes.hist(scores, bins=np.linspace(0, 1, 41), color="slategray")
    mean = result["score"]
    axes.axvspan(mean["low"], mean["high"], color="tab:green", alpha=0.3, label="95% interval of the mean")
    axes.axvline(mean["mean"], color="tab:green", label=f"mean {mean['mean']:.3f}")
    axes.set(xlabel="score (maximum over the episode)", ylabel="episodes", title=_headline(result))
    axes.legend()
    figure.savefig(path, dpi=110)


def draw_training(path: Path, metrics: Sequence[Mapping[str, float]]) -> None:
    """Draw losses and validation scores against steps, from the rows of a metrics file."""
    rolled_out = any("evaluation/score" in row for row in metrics)
    figure = Figure(figsize=(9 if rolled_out else 4.5, 3.2), layout="constrained")
    losses, *others = figure.subplots(1, 1 + rolled_out, squeeze=False)[0]
    for name in ("loss", "validation_loss"):
        rows = [(row["step"], row[name]) for row in metrics if name in row]
        if rows:
            losses.plot(*zip(*rows, strict=True), label=name.replace("_", " "))
    # a negative log-likelihood passes 0
    positive = all(row.get(name, 1.0) > 0 for row in metrics for name in ("loss", "validation_loss"))
    losses.set(xlabel="step", ylabel="loss", yscale="log" if positive else "linear")
    for scores in others:
        for name in ("score", "success"):
            rows = [(row["step"], row[key]) for row in metrics if (key := f"evaluation/{name}") in row]
            if rows:
                scores.plot(*zip(*rows, strict=True), marker="o", label=name)
        scores.set(xlabel="step", ylim=(0, 1.02), title="validation rollouts")
    for axes in (losses, *others):
        if axes.lines:
            axes.legend()
    figure.savefig(path, dpi=110)


def _headline(result: Mapping[str, Any]) -> str:
    score, success = result["score"], result["success"]
    return (
        f"{len(result['episodes'])} episodes: score {score['mean']:.3f} [{score['low']:.3f}, {score['high']:.3f}],"
        f" success {success['mean']:.0%} [{success['low']:.0%}, {success['high']:.0%}]"
    )


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _commit() -> str | None:
    """The commit of the checkout this code runs from; None when installed from a wheel."""
    try:
        here = {"cwd": Path(__file__).parent, "capture_output": True, "text": True, "timeout": 10}
        # Installed inside somebody's repository, git would answer with theirs.
        subprocess.run(["git", "ls-files", "--error-unmatch", Path(__file__).name], check=True, **here)
        found = subprocess.run(["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"], **here)
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip() or None if found.returncode == 0 else None
