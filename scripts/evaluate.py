"""Roll a trained policy out and report its score:

diffpolicy-evaluate checkpoint=RUN/checkpoints/best episodes=200 seeds=200000 out=OUT
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from omegaconf import MISSING

from diffpolicy import checkpoint, load_policy
from diffpolicy.evaluation import check_comparable, compare, environment, episode_resets, rollout
from diffpolicy.evaluation.report import draw_fan, draw_scores, evaluation, write_json, write_video
from diffpolicy.evaluation.rollout import INFERENCE_BLOCK, REPORT_SEED
from diffpolicy.scripts._hydra import command


@dataclass
class Config:
    """Settings of an evaluation.

    checkpoint, out: a checkpoint's folder, and the folder for the results.
    episodes, seeds: how many, and "paper" or the first of consecutive seeds.
    solver, steps, grid, solver_options, action_horizon: of the policy; null keeps the training's.
    envs, workers: environments side by side, processes that step them; neither changes a result.
    videos: how many episodes to film. compare_to: another evaluation.json, for the paired difference.
    """

    checkpoint: str = MISSING
    out: str = MISSING
    episodes: int = 50
    seeds: Any = REPORT_SEED
    solver: str | None = None
    steps: int | None = None
    grid: str | None = None
    solver_options: dict[str, Any] = field(default_factory=dict)
    action_horizon: int | None = None
    weights: str = "ema"
    device: str = "auto"
    envs: int = 64
    workers: int = 0
    videos: int = 3
    compare_to: str | None = None
    overwrite: bool = False


def run(config: Config) -> None:
    out = Path(config.out)
    result_file = out / "evaluation.json"
    if result_file.exists() and not config.overwrite:
        raise FileExistsError(f"{result_file} exists; choose another out, or say overwrite=true")
    resets = episode_resets(config.seeds, config.episodes)
    other = json.loads(Path(config.compare_to).read_text()) if config.compare_to else None
    if other is not None:
        check_comparable(config.seeds, [seed for seed, _ in resets], other)
    device = ("cuda" if torch.cuda.is_available() else "cpu") if config.device == "auto" else config.device
    policy = load_policy(
        config.checkpoint,
        config.solver,
        config.steps,
        config.grid,
        config.solver_options or None,
        config.action_horizon,
        config.weights,
        device,
        INFERENCE_BLOCK,
    )
    saved = checkpoint.read(config.checkpoint)
    env = saved.config["env"]
    if env["id"] is None:
        raise ValueError(f"{config.checkpoint} was trained without an environment: there is nothing to roll out in")
    out.mkdir(parents=True, exist_ok=True)

    began = time.monotonic()
    how = {"envs": config.envs, "workers": config.workers, "progress": True}
    episodes = rollout(policy, environment(env["id"], env["options"]), resets, **how)
    minutes = (time.monotonic() - began) / 60
    settings = asdict(config) | {"sampler": policy.actor.sampler}
    measured = {
        "network_calls": policy.actor.calls,
        "minutes": minutes,
        "checkpoint": {"step": saved.step, "sha256": saved.sha256, "config": saved.config},
    }
    result = evaluation(episodes, settings, measured)
    if other is not None:
        result["difference"] = compare(result, other)
    write_json(result_file, result)
    draw_scores(out / "scores.png", result)
    if config.videos:
        # Filmed afterwards, the same episodes over: so that keeping frames slows no measurement.
        filming = environment(env["id"], env["options"], "rgb_array")
        films = rollout(policy, filming, resets[: config.videos], film=config.videos, envs=config.videos)
        for film in films:
            write_video(out / f"episode_{film.seed}.mp4", film.frames)
        draw_fan(out / "fan.png", policy, films[0])
    for name in ("score", "final_coverage", "success"):
        value = result[name]
        print(f"{name}: {value['mean']:.3f}  [{value['low']:.3f}, {value['high']:.3f}]")
    if other is not None:
        value = result["difference"]["score"]
        print(f"score, paired difference: {value['mean']:+.3f}  [{value['low']:+.3f}, {value['high']:+.3f}]")
    print(f"{len(episodes)} episodes, {result['network_calls']} network calls a chunk: {result_file}")


main = command("evaluate", Config, run)

if __name__ == "__main__":
    main()
