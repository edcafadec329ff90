"""Measuring mode coverage: rollouts of a policy beside its demonstrations, from all starts and from one."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from diffpolicy.datasets.buffer import ReplayBuffer
from diffpolicy.evaluation.adapters import EnvFactory
from diffpolicy.evaluation.demonstrators import STATE
from diffpolicy.evaluation.episode import Episode, Reset
from diffpolicy.evaluation.experts import ExpertAgent
from diffpolicy.evaluation.modes import compare_modes
from diffpolicy.evaluation.observers import States
from diffpolicy.evaluation.report import draw_modes
from diffpolicy.evaluation.rollout import rollout
from diffpolicy.evaluation.task import TaskSpec
from diffpolicy.policies.controller import Controller
from diffpolicy.util.errors import require
from diffpolicy.util.stats import wilson

DRAWN = 150
"""Paths in a plot, at most."""


def measure_modes(
    agent: Controller,
    make: EnvFactory,
    buffer: ReplayBuffer,
    resets: Sequence[Reset],
    episodes: Sequence[Episode],
    out: Path | None = None,
    workers: int | None = 0,
) -> dict[str, Any]:
    """Return in which modes the demonstrations and the rollouts did the task, from all starts and from one.

    Args:
        agent: that was rolled out.
        make: makes its environment.
        buffer: all demonstrations of the recording, with their array "state".
        resets: initial states of `episodes`. From one start, the first demonstration's, as many are rolled out again
            and demonstrated by the expert.
        episodes: rollouts from `resets`.
        out: folder for modes.png; None draws nothing.
        workers: see `rollout`.

    Raises:
        ValueError: a task without modes or without an expert, or a recording without states.
    """
    with closing(make()) as env:
        task = TaskSpec.of(env)
        check_modes(task, make.id)
        expert = ExpertAgent(make.id, make.kwargs)
        require(STATE in buffer, f"the data set has no array {STATE!r}, from which modes follow")
        mode_of = env.unwrapped.mode_of
        demonstrated = [mode_of(buffer[STATE][part]) for part in buffer.episode_slices()]
        start = buffer[STATE][0].tolist()
        fixed = [Reset(how.seed, options={"state": start}) for how in resets]
    watching = {"observers": [States(first=DRAWN)], "workers": workers, "progress": True}
    again = rollout(agent, make, fixed, **watching)
    kept = {name: value for name, value in make.kwargs.items() if name not in task.display_options}
    shown = [
        episode for episode in rollout(expert, make.with_kwargs(kept), fixed, **watching) if episode.success_at_end
    ]
    if out is not None:
        draw_modes(out / "modes.png", _paths(shown), _paths(again), task)
    return {
        "all_starts": _measured(demonstrated, episodes, task),
        "fixed_start": {"state": start, **_measured([episode.mode for episode in shown], again, task)},
        "expert": expert.settings,
    }


def check_modes(task: TaskSpec, env_id: str) -> None:
    """Raise ValueError unless a task can be done in several modes."""
    require(task.modes, f"{env_id} declares no modes", cure="evaluate with modes=false")


def _paths(episodes: Sequence[Episode]) -> list[tuple[np.ndarray, str | None]]:
    return [(e.observed[States.name], e.mode) for e in episodes if States.name in e.observed]


def _measured(demonstrated: Sequence[str | None], episodes: Sequence[Episode], task: TaskSpec) -> dict[str, Any]:
    whole = [episode for episode in episodes if episode.error is None]
    success = wilson(sum(bool(episode.success) for episode in whole), len(whole))
    return {"success": success, **compare_modes(demonstrated, [episode.mode for episode in whole], task.modes)}
