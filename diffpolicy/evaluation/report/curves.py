"""Actions as curves over time, for those that are no positions in a frame."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from diffpolicy.datasets.spec import stack
from diffpolicy.evaluation.episode import Episode
from diffpolicy.evaluation.observers import Observations, Video
from diffpolicy.policies.policy import Policy

_DPI = 110
_MOST = 12  # numbers of an action that are drawn
_COLUMNS = 4
_ACTIONS = "actions"
_OUTCOMES = {True: ("tab:blue", "success"), False: ("tab:orange", "no success"), None: ("slategray", "episode")}


def draw_actions(path: Path, episodes: Sequence[Episode]) -> None:
    """Draw the actions of some episodes against the step, a panel for each number of an action.

    Args:
        path: of the PNG file.
        episodes: with `observed["actions"]` (steps, A), clipped to the bounds.
    """
    size = episodes[0].observed[_ACTIONS].shape[1]
    shown = min(size, _MOST)
    columns = min(shown, _COLUMNS)
    lines = -(-shown // columns)
    figure = Figure(figsize=(3 * columns, 2.1 * lines + 0.7), layout="constrained")
    panels = figure.subplots(lines, columns, squeeze=False, sharex=True)
    for number, axes in enumerate(panels.ravel()):
        axes.set_visible(number < shown)
        for episode in episodes if number < shown else ():
            color, label = _OUTCOMES[episode.success]
            axes.plot(episode.observed[_ACTIONS][:, number], color=color, linewidth=0.8, alpha=0.7, label=label)
        axes.set_title(f"action[{number}]", fontsize=9)
        axes.tick_params(labelsize=8)
    for axes in panels[-1]:
        axes.set_xlabel("step", fontsize=9)
    _legend(panels[0, 0])
    some = f", the first {shown} of {size} numbers" if shown < size else ""
    figure.suptitle(f"actions of {len(episodes)} episodes over time{some}", fontsize=10)
    figure.savefig(path, dpi=_DPI)


def draw_fan_curves(path: Path, policy: Policy, episode: Episode, moments: int = 4, samples: int = 48) -> None:
    """Draw how sampled chunks fan out over time, at a few moments of an episode.

    A row for each number of an action, below the frames where there are any.

    Args:
        path: of the PNG file.
        policy: whose alternatives are drawn.
        episode: watched by `Observations`, with `observed["actions"]`, and by `Video` where it was rendered.
        moments: how many, spread over the episode.
        samples: chunks at each.
    """
    observations, taken = episode.observed[Observations.name], episode.observed[_ACTIONS]
    frames = episode.observed.get(Video.name)
    spread = [round(i * max(len(observations) - 1, 0) / moments) for i in range(moments)]
    picked = [k - k % policy.action_horizon for k in spread]  # where chunks start
    shown = min(taken.shape[1], _MOST)
    rows = shown + (frames is not None)
    heights = ([2.2] if frames is not None else []) + [1.2] * shown
    figure = Figure(figsize=(3 * moments, sum(heights) + 0.9), layout="constrained")
    panels = figure.subplots(rows, moments, squeeze=False, height_ratios=heights)
    for column, k in zip(panels.T, picked, strict=True):
        if frames is not None:
            column[0].imshow(frames[k])
            column[0].set(xticks=[], yticks=[])
        column[0].set_title(f"step {k}", fontsize=9)
        chunks = policy.predict(stack([history_at(observations, k, policy.obs_horizon)] * samples), seed=episode.seed)
        steps = k + np.arange(chunks.shape[1])
        for number, axes in enumerate(column[rows - shown :]):
            axes.plot(steps, chunks[:, :, number].T, color="tab:blue", linewidth=0.5, alpha=0.3)
            axes.plot(steps[: len(taken) - k], taken[k : k + len(steps), number], color="black", linewidth=1.2)
            axes.tick_params(labelsize=7)
    _same_scales(panels[rows - shown :])
    figure.suptitle(
        f"{samples} sampled chunks of {policy.action_horizon} actions each (blue), and the actions taken (black)",
        fontsize=10,
    )
    figure.savefig(path, dpi=_DPI)


def _same_scales(rows: np.ndarray) -> None:
    """One scale for each number of an action, so that its moments can be compared."""
    for number, row in enumerate(rows):
        low, high = (pick(axes.get_ylim()[end] for axes in row) for end, pick in ((0, min), (1, max)))
        for axes in row:
            axes.set_ylim(low, high)
        for axes in row[1:]:
            axes.set_yticklabels([])
        row[0].set_ylabel(f"action[{number}]", fontsize=8)
        if number < len(rows) - 1:
            for axes in row:
                axes.set_xticklabels([])


def _legend(axes: Axes) -> None:
    by_label = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    if len(by_label) > 1:
        axes.legend(by_label.values(), by_label.keys(), fontsize=7)


def history_at(observations: Sequence[object], step: int, horizon: int) -> object:
    """Return what a policy sees at a step: the last `horizon` observations along a new first axis."""
    past = [max(0, step - i) for i in reversed(range(horizon))]
    return stack([observations[i] for i in past])
