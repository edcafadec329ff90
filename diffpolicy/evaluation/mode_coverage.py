"""Measure in which modes a policy does a task that can be done in several, beside its demonstrations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from diffpolicy.config import EnvConfig
from diffpolicy.datasets.replay_buffer import ReplayBuffer
from diffpolicy.envs.experts import EXPERTS
from diffpolicy.evaluation.record import demonstrate
from diffpolicy.evaluation.rollout import Episode, Reset, environment, rollout
from diffpolicy.evaluation.ways import compare_ways
from diffpolicy.policies import Policy
from diffpolicy.util.errors import require
from diffpolicy.util.stats import wilson

_DRAWN = 150  # paths in a plot
_SMALL = 16  # px: images nobody looks at, rendered because filming keeps the states


def measure_modes(
    policy: Policy,
    env_config: EnvConfig,
    buffer: ReplayBuffer,
    resets: Sequence[Reset],
    episodes: Sequence[Episode],
    out: Path | None,
    workers: int | None,
) -> dict[str, Any]:
    """Return which modes the demonstrations and the rollouts took, from all starts and from one start.

    Args:
        policy: what was rolled out.
        env_config: the environment.
        buffer: all demonstrations of the recording.
        resets: initial states of `episodes`; again from one start, the first demonstration's, as many are rolled out
            and demonstrated by the expert.
        episodes: rollouts from `resets`.
        out: folder for modes.png; None draws nothing.
        workers: see `rollout`.

    Raises:
        ValueError: a task without known modes, or a recording without states.
    """
    env_id, options = env_config.id, env_config.options
    env = environment(env_id, options)().unwrapped
    require(env.modes, f"{env_id} has no known modes", cure="evaluate with modes=false")
    require("state" in buffer, "the data set has no array 'state', from which modes follow")
    demonstrated = [env.mode_of(buffer["state"][part]) for part in buffer.episode_slices()]
    start = buffer["state"][0].tolist()
    fixed = [(seed, {"state": start}) for seed, _ in resets]
    small = environment(env_id, {**options, "render_size": _SMALL}, "rgb_array")
    again = rollout(policy, small, fixed, film=min(len(fixed), _DRAWN), workers=workers, progress=True)
    shown = [demonstrate(env_id, options, seed, reset=reset) for seed, reset in fixed]
    shown = [episode["state"] for episode in shown if episode]
    ways = [env.mode_of(states) for states in shown]
    if out is not None:
        paths = [(np.array(episode.observations), episode.mode) for episode in again[:_DRAWN]]
        draw_ways(out / "modes.png", list(zip(shown, ways, strict=True))[:_DRAWN], paths, env.modes)
    return {
        "all_starts": _measured(demonstrated, episodes, env.modes),
        "fixed_start": {"state": start, **_measured(ways, again, env.modes)},
        "expert": EXPERTS[env_id].settings,
    }


def _measured(demonstrated: Sequence[str], episodes: Sequence[Episode], known: Sequence[str]) -> dict[str, Any]:
    success = wilson(sum(episode.success for episode in episodes), len(episodes))
    return {"success": success, **compare_ways(demonstrated, [episode.mode for episode in episodes], known)}


def draw_ways(
    path: Path,
    demonstrated: Sequence[tuple[np.ndarray, str]],
    rolled_out: Sequence[tuple[np.ndarray, str]],
    known: Sequence[str],
) -> None:
    """Draw the pucks' paths from one start, a colour for each way: demonstrations left, rollouts right."""
    figure = Figure(figsize=(10, 5.4), layout="constrained")
    colors: Mapping[str, Any] = dict(zip(known, matplotlib.colormaps["tab10"].colors, strict=False))
    for axes, (title, episodes) in zip(
        figure.subplots(1, 2), (("demonstrations", demonstrated), ("rollouts", rolled_out)), strict=True
    ):
        for states, way in episodes:
            for puck in range(2, states.shape[1], 2):
                axes.plot(*states[:, puck : puck + 2].T, color=colors.get(way, "black"), linewidth=0.6, alpha=0.5)
        for way in known:
            axes.plot([], [], color=colors[way], label=f"{way}: {sum(w == way for _, w in episodes)}")
        axes.set(xlim=(0, 512), ylim=(512, 0), aspect="equal", xticks=[], yticks=[], title=title)
        axes.legend(loc="lower left")
    figure.suptitle(
        f"the pucks' paths from one start, {len(demonstrated)} demonstrations, {len(rolled_out)} rollouts"
    )
    figure.savefig(path, dpi=110)
