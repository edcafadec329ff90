"""Roll a trained policy out and report its score:

diffpolicy-evaluate checkpoint=RUN/checkpoints/best episodes=200 seeds=200000 out=OUT
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import MISSING

from diffpolicy import checkpoint, load_policy
from diffpolicy.evaluation import check_comparable, compare, environment, episode_resets, rollout
from diffpolicy.evaluation.page import write_page
from diffpolicy.evaluation.report import draw_fan, draw_scores, draw_training, evaluation, write_json, write_video
from diffpolicy.evaluation.rollout import INFERENCE_BLOCK, REPORT_SEED, Episode
from diffpolicy.policies import Execution, Policy
from diffpolicy.scripts._hydra import command, pick_device
from diffpolicy.training.logging import read_metrics


@dataclass
class Config:
    """Settings of an evaluation.

    checkpoint, out: a checkpoint's folder, and the folder for the results.
    episodes, seeds: how many, and "paper" or the first of consecutive seeds.
    solver, steps, grid, solver_options, action_horizon: of the policy; null keeps the training's.
    execution: what binds a chunk to those before it, see `diffpolicy.policies.execution`. noise: random, episode or
        zero; ensemble: a number or a list of weights, newest first; warm_start: a time between 0 and 1; inpaint: a
        number of control steps. With a warm start the reported network calls are a chunk's that follows another.
    envs: environments side by side, in each process.
    workers: processes that the episodes are dealt out to; null is as many as pay on this machine, 0 none. Neither
        this nor `envs` changes a result.
    videos: how many successes and how many failures to film.
    compare_to: another evaluation.json, for the paired difference.
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
    execution: dict[str, Any] = field(default_factory=lambda: asdict(Execution()))
    weights: str = "ema"
    device: str = "auto"
    envs: int = 64
    workers: int | None = None
    videos: int = 3
    compare_to: str | None = None
    overwrite: bool = False


def run(config: Config) -> None:
    out = Path(config.out)
    result_file = out / "evaluation.json"
    if result_file.exists() and not config.overwrite:
        raise FileExistsError(f"{result_file} exists; choose another out, or say overwrite=true")
    resets = episode_resets(config.seeds, config.episodes)
    execution = Execution(**config.execution)
    device = pick_device(config.device)
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
        execution=execution,
    )
    saved = checkpoint.read(config.checkpoint)
    env = saved.config["env"]
    if env["id"] is None:
        raise ValueError(f"{config.checkpoint} was trained without an environment: there is nothing to roll out in")
    other = json.loads(Path(config.compare_to).read_text()) if config.compare_to else None
    if other is not None:
        check_comparable(config.seeds, [seed for seed, _ in resets], env, other)
    out.mkdir(parents=True, exist_ok=True)

    began = time.monotonic()
    how = {"envs": config.envs, "workers": config.workers, "progress": True}
    episodes = rollout(policy, environment(env["id"], env["options"]), resets, **how)
    minutes = (time.monotonic() - began) / 60
    settings = asdict(config) | {"sampler": policy.actor.sampler}
    measured = {
        "network_calls": policy.calls,
        "minutes": minutes,
        "checkpoint": {"step": saved.step, "sha256": saved.sha256, "config": saved.config},
    }
    result = evaluation(episodes, settings, measured)
    if other is not None:
        result["difference"] = compare(result, other)
    write_json(result_file, result)
    draw_scores(out / "scores.png", result)
    films = _film(config, policy, env, episodes, resets, out)
    write_page(out / "report.html", result, _pictures(out, config.checkpoint), films, _commands(config, saved.config))
    for name in ("score", "final_coverage", "success"):
        value = result[name]
        print(f"{name}: {value['mean']:.3f}  [{value['low']:.3f}, {value['high']:.3f}]")
    if other is not None:
        value = result["difference"]["score"]
        print(f"score, paired difference: {value['mean']:+.3f}  [{value['low']:+.3f}, {value['high']:+.3f}]")
    print(f"{len(episodes)} episodes, {result['network_calls']} network calls a chunk: {result_file}")
    print(f"the page to look at: {out / 'report.html'}")


def _film(
    config: Config, policy: Policy, env: Mapping[str, Any], episodes: Sequence[Episode], resets: Any, out: Path
) -> list[tuple[Path, dict[str, Any]]]:
    """Film some successes and some failures: the same episodes over, so that it slows no measurement."""
    for old in out.glob("episode_*.mp4"):
        old.unlink()  # of the evaluation that is being overwritten
    chosen = [
        i for good in (True, False) for i in [k for k, e in enumerate(episodes) if e.success is good][: config.videos]
    ]
    if not chosen:
        return []
    filming = environment(env["id"], env["options"], "rgb_array")
    again = rollout(policy, filming, [resets[i] for i in chosen], film=len(chosen))
    films = []
    for film in again:
        films.append((out / f"episode_{film.seed}.mp4", film.row()))
        write_video(films[-1][0], film.frames)
    draw_fan(out / "fan.png", policy, again[0])
    return films


def _pictures(out: Path, run_checkpoint: str) -> list[tuple[str, Path, str]]:
    metrics = Path(run_checkpoint).resolve().parent.parent / "metrics.jsonl"
    if metrics.exists():
        draw_training(out / "training.png", read_metrics(metrics))
    pictures = [
        ("Scores", out / "scores.png", "How the episodes' scores are distributed; the mean of few is a rough guide."),
        (
            "Learning curve",
            out / "training.png",
            "Left, the loss on the batches and on episodes held out; right, rollouts on the validation seeds.",
        ),
        (
            "What the policy considers",
            out / "fan.png",
            "Action chunks sampled at a few moments of the first film: together where the task decides, apart where "
            "several ways are good.",
        ),
    ]
    return [picture for picture in pictures if picture[1].exists()]


def _commands(config: Config, trained: Mapping[str, Any]) -> list[tuple[str, str]]:
    steps, method = trained["training"]["steps"], trained["method"]
    other = "ddpm" if method.get("prediction") == "velocity" else "flow"
    own = [  # of the demo
        (
            f"Train longer ({steps} steps so far; the learning rate's schedule runs over all of them):",
            f"diffpolicy-train task=pusht_expert run_dir=runs/longer training.steps={3 * steps}",
        ),
        ("Another method:", f"diffpolicy-train task=pusht_expert method={other} run_dir=runs/{other}"),
    ]
    return [
        ("In the checkout, after scripts/demo.sh, this makes the commands below known:", "source .venv/bin/activate"),
        *(own if trained["dataset"]["name"] == "expert_pusht" else []),
        (
            "The human demonstrations (31 MB, downloaded on first use):",
            "diffpolicy-train task=pusht_keypoints run_dir=runs/human",
        ),
        (
            "Your own demonstrations, a replay buffer as the README's `ReplayBuffer` writes it:",
            "diffpolicy-train task=own dataset.path=demos.zarr run_dir=runs/own",
        ),
        (
            "More episodes, for a narrower interval:",
            f"diffpolicy-evaluate checkpoint={config.checkpoint} episodes=200 out={config.out}_200",
        ),
        (
            "Tasks with several right answers, and how often the policy gives each:",
            "diffpolicy-train task=detour run_dir=runs/detour\n"
            "diffpolicy-measure-ways checkpoint=runs/detour/checkpoints/best out=runs/detour/ways",
        ),
    ]


main = command("evaluate", Config, run)

if __name__ == "__main__":
    main()
