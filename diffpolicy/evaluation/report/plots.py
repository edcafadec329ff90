"""Plots of an evaluation and of a training run, as PNG files.

Figures are made without pyplot, so that no display and no backend of a notebook is involved.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from diffpolicy.datasets.spec import stack
from diffpolicy.evaluation.episode import Episode
from diffpolicy.evaluation.metrics import PROPORTIONS, SUCCESS, metric_names
from diffpolicy.evaluation.observers import Observations, Video
from diffpolicy.evaluation.report.curves import history_at
from diffpolicy.evaluation.task import TaskSpec
from diffpolicy.policies.policy import Policy

_DPI = 110
_EVALUATION = "evaluation/"  # prefix of rolled-out metrics in a training log


def can_draw_chunks(task: TaskSpec, policy: Policy) -> bool:
    """Return whether two numbers of an action are a position in a frame, so that chunks can be drawn over it."""
    return task.extent is not None and len(task.plane(policy.action_dim)) == 2


def draw_fan(
    path: Path, policy: Policy, episode: Episode, task: TaskSpec, moments: int = 4, samples: int = 48
) -> None:
    """Draw how sampled chunks fan out over the scene at a few moments of an episode.

    Args:
        path: of the PNG file.
        policy: whose alternatives are drawn.
        episode: watched by `Video` and `Observations`.
        task: see `can_draw_chunks`.
        moments: how many, spread over the episode.
        samples: chunks at each.
    """
    frames, observations = (episode.observed[kind.name] for kind in (Video, Observations))
    picked = [round(i * max(len(frames) - 1, 0) / moments) for i in range(moments)]
    figure = Figure(figsize=(4 * moments, 4.4), layout="constrained")
    for axes, k in zip(figure.subplots(1, moments, squeeze=False)[0], picked, strict=True):
        history = history_at(observations, k, policy.obs_horizon)
        chunks = policy.predict(stack([history] * samples), seed=episode.seed)
        draw_chunks(axes, frames[k], chunks[..., list(task.plane(policy.action_dim))], task)
        axes.set_title(f"step {k}")
    figure.suptitle(f"{samples} sampled chunks of {policy.action_horizon} actions each, early (dark) to late (light)")
    figure.savefig(path, dpi=_DPI)


def draw_chunks(axes: Axes, frame: np.ndarray, chunks: np.ndarray, task: TaskSpec) -> None:
    """Draw chunks (B, T, 2) of positions over a frame, early actions dark and late ones light."""
    axes.imshow(frame, extent=tuple(task.extent or ()))
    axes.plot(*chunks.transpose(2, 1, 0), color="black", linewidth=0.4, alpha=0.35)
    steps = chunks.shape[1]
    for step, color in enumerate(matplotlib.colormaps["plasma"](np.linspace(0, 0.9, steps))):
        axes.scatter(*chunks[:, step].T, s=5, color=color, zorder=3)
    axes.set(xticks=[], yticks=[])


def draw_metric(path: Path, result: Mapping[str, Any]) -> None:
    """Draw the distribution of the main metric over episodes, with its mean and interval.

    Args:
        path: of the PNG file.
        result: contents of evaluation.json.
    """
    name = metric_names(result["episodes"])[0]
    values, mean = np.array([one[name] for one in result["episodes"]], float), result[name]
    low, high = (0.0, 1.0) if values.min() >= 0 and values.max() <= 1 else (values.min(), values.max())
    figure = Figure(figsize=(7, 3.2), layout="constrained")
    axes = figure.subplots()
    axes.hist(values, bins=np.linspace(low, max(high, low + 1e-9), 41), color="slategray")
    axes.axvspan(mean["low"], mean["high"], color="tab:green", alpha=0.3, label="95% interval of the mean")
    axes.axvline(mean["mean"], color="tab:green", label=f"mean {mean['mean']:.3f}")
    axes.set(xlabel=name.replace("_", " "), ylabel="episodes", title=_headline(result))
    axes.legend()
    figure.savefig(path, dpi=_DPI)


def _headline(result: Mapping[str, Any]) -> str:
    names = metric_names(result["episodes"])
    said = [f"{len(result['episodes'])} episodes: {_interval(names[0], result[names[0]], '{:.3f}')}"]
    said += [_interval(name, result[name], "{:.0%}") for name in PROPORTIONS if name in names[1:]]
    return ", ".join(said)


def _interval(name: str, value: Mapping[str, float], form: str) -> str:
    mean, low, high = (form.format(value[key]) for key in ("mean", "low", "high"))
    return f"{name.replace('_', ' ')} {mean} [{low}, {high}]"


def draw_training(path: Path, metrics: Sequence[Mapping[str, float]]) -> None:
    """Draw losses and validation rollouts against steps.

    Args:
        path: of the PNG file.
        metrics: the lines of a run's metrics.jsonl.
    """
    rolled_out = list(dict.fromkeys(key for line in metrics for key in line if key.startswith(_EVALUATION)))
    figure = Figure(figsize=(9 if rolled_out else 4.5, 3.2), layout="constrained")
    losses, *others = figure.subplots(1, 2 if rolled_out else 1, squeeze=False)[0]
    _curves(losses, metrics, ("loss", "validation_loss"))
    # a negative log-likelihood passes 0
    positive = all(line.get(name, 1.0) > 0 for line in metrics for name in ("loss", "validation_loss"))
    losses.set(xlabel="step", ylabel="loss", yscale="log" if positive else "linear")
    for axes in others:
        shown = [rolled_out[0], *(key for key in rolled_out[1:] if key == _EVALUATION + SUCCESS)]
        _curves(axes, metrics, shown, marker="o")
        axes.set(xlabel="step", title="validation rollouts")
        if all(0 <= line[key] <= 1 for line in metrics for key in shown if key in line):
            axes.set_ylim(0, 1.02)
    for axes in (losses, *others):
        if axes.lines:
            axes.legend()
    figure.savefig(path, dpi=_DPI)


def _curves(axes: Axes, metrics: Sequence[Mapping[str, float]], keys: Sequence[str], **style: Any) -> None:
    for key in keys:
        points = [(line["step"], line[key]) for line in metrics if key in line]
        if points:
            label = key.removeprefix(_EVALUATION).replace("_", " ")
            axes.plot(*zip(*points, strict=True), label=label, **style)


def draw_modes(
    path: Path,
    demonstrated: Sequence[tuple[np.ndarray, str | None]],
    rolled_out: Sequence[tuple[np.ndarray, str | None]],
    task: TaskSpec,
) -> None:
    """Draw paths from one start, a color for each mode: demonstrations left, rollouts right.

    Args:
        path: of the PNG file.
        demonstrated: (states (L, D), mode) of demonstrations.
        rolled_out: the same of rollouts.
        task: declares modes, paths and extent.
    """
    figure = Figure(figsize=(10, 5.4), layout="constrained")
    colors: Mapping[str | None, Any] = dict(zip(task.modes, matplotlib.colormaps["tab10"].colors, strict=False))
    left, right, bottom, top = task.extent or (None, None, None, None)
    sides = (("demonstrations", demonstrated), ("rollouts", rolled_out))
    for axes, (title, episodes) in zip(figure.subplots(1, 2), sides, strict=True):
        for states, mode in episodes:
            for columns in task.paths.values():
                axes.plot(*states[:, list(columns)].T, color=colors.get(mode, "black"), linewidth=0.6, alpha=0.5)
        for mode in task.modes:
            axes.plot([], [], color=colors[mode], label=f"{mode}: {sum(m == mode for _, m in episodes)}")
        axes.set(xlim=(left, right), ylim=(bottom, top), aspect="equal", xticks=[], yticks=[], title=title)
        axes.legend(loc="lower left")
    moving = " and ".join(task.paths)
    figure.suptitle(
        f"paths of {moving} from one start, {len(demonstrated)} demonstrations, {len(rolled_out)} rollouts"
    )
    figure.savefig(path, dpi=_DPI)
