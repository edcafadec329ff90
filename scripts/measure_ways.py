"""Measure in which ways a policy does a task that can be done in several, beside its demonstrations:

diffpolicy-measure-ways checkpoint=RUN/checkpoints/best episodes=500 out=OUT
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from omegaconf import MISSING

from diffpolicy import checkpoint, load_policy
from diffpolicy.datasets.build import DatasetConfig, load_buffer
from diffpolicy.envs.experts import EXPERTS
from diffpolicy.evaluation import compare_ways, environment, episode_resets, rollout, wilson
from diffpolicy.evaluation.report import provenance, write_json
from diffpolicy.evaluation.rollout import INFERENCE_BLOCK, REPORT_SEED, Episode
from diffpolicy.policies import Execution
from diffpolicy.scripts._hydra import command
from diffpolicy.scripts.make_demos import demonstrate

_DRAWN = 150  # paths in a picture
_SMALL = 16  # px: pictures nobody looks at, taken because filming keeps the states


@dataclass
class Config:
    """Settings of a measurement.

    checkpoint, out: a checkpoint's folder, and the folder for the results.
    episodes: rollouts from as many starts, beside all demonstrations of the recording, whatever part of it was
        trained on; and again from one start, the first demonstration's, where the expert then demonstrates as often.
    seeds: the first of consecutive seeds.
    action_horizon: null keeps the training's.
    execution: what binds a chunk to those before it, as of `diffpolicy-evaluate`.
    workers: processes that the episodes are dealt out to; null is as many as pay on this machine, 0 none. It changes
        no result.
    """

    checkpoint: str = MISSING
    out: str = MISSING
    episodes: int = 500
    seeds: int = REPORT_SEED
    action_horizon: int | None = None
    execution: dict[str, Any] = field(default_factory=lambda: asdict(Execution()))
    workers: int | None = None
    overwrite: bool = False


def run(config: Config) -> None:
    out = Path(config.out)
    if (out / "ways.json").exists() and not config.overwrite:
        raise FileExistsError(f"{out / 'ways.json'} exists; choose another out, or say overwrite=true")
    resets = episode_resets(config.seeds, config.episodes)
    saved = checkpoint.read(config.checkpoint)
    env_id, options = saved.config["env"]["id"], saved.config["env"]["options"]
    env = environment(env_id, options)().unwrapped if env_id else None
    if not getattr(env, "modes", ()):
        raise ValueError(f"{env_id} has no known ways; measure Detour or PushBlocks, or use evaluation.compare_ways")
    buffer = load_buffer(DatasetConfig(**saved.config["dataset"]))
    if "state" not in buffer:
        raise ValueError("which way a demonstration took follows from its states: the data set has no array 'state'")
    horizon, execution = config.action_horizon, Execution(**config.execution)
    policy = load_policy(config.checkpoint, action_horizon=horizon, block=INFERENCE_BLOCK, execution=execution)
    out.mkdir(parents=True, exist_ok=True)

    how = {"workers": config.workers, "progress": True}
    demonstrated = [env.mode_of(buffer["state"][part]) for part in buffer.episode_slices()]
    episodes = rollout(policy, environment(env_id, options), resets, **how)
    start = buffer["state"][0].tolist()
    fixed = [(seed, {"state": start}) for seed, _ in resets]
    small = environment(env_id, {**options, "render_size": _SMALL}, "rgb_array")
    again = rollout(policy, small, fixed, film=min(len(fixed), _DRAWN), **how)
    shown = [demonstrate(env_id, options, seed, reset=reset) for seed, reset in fixed]
    shown = [episode["state"] for episode in shown if episode]
    ways = [env.mode_of(states) for states in shown]
    result = {
        "all_starts": _measured(demonstrated, episodes, env.modes),
        "fixed_start": {"state": start, **_measured(ways, again, env.modes)},
        "settings": asdict(config) | {"sampler": policy.actor.sampler, "action_horizon": policy.action_horizon},
        "checkpoint": {"step": saved.step, "sha256": saved.sha256, "config": saved.config},
        "expert": EXPERTS[env_id].settings,
        **provenance(),
    }
    write_json(out / "ways.json", result)
    paths = [(np.array(episode.observations), episode.mode) for episode in again[:_DRAWN]]
    draw_ways(out / "ways.png", list(zip(shown, ways, strict=True))[:_DRAWN], paths, env.modes)
    for name in ("all_starts", "fixed_start"):
        found = result[name]
        print(f"{name}: success {found['success']['mean']:.1%}, total variation {found['total_variation']:.3f}")
        for who in ("demonstrations", "rollouts"):
            shares = ", ".join(f"{way} {share:.1%}" for way, share in found[who]["shares"].items())
            print(f"  {who}: {shares}; entropy {found[who]['entropy']:.2f} bits")
    print(f"{out / 'ways.json'}")


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


main = command("measure_ways", Config, run)

if __name__ == "__main__":
    main()
