"""What an evaluation leaves behind: report, videos and plots; and what is checked before it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

from diffpolicy.config import EnvConfig, RunConfig
from diffpolicy.evaluation.metrics import check_comparable, compare
from diffpolicy.evaluation.page import write_page
from diffpolicy.evaluation.report import draw_fan, draw_scores, draw_training, write_video
from diffpolicy.evaluation.rollout import VALIDATION_EPISODES, Episode, environment, rollout
from diffpolicy.policies import Policy
from diffpolicy.training.logging import read_metrics


def check_comparison(other: Mapping[str, Any] | None, seeds: Any, resets: Sequence[Any], env: EnvConfig) -> None:
    """Raise ValueError unless an evaluation to compare with shares its task and some of its seeds."""
    if other is not None:
        check_comparable(seeds, [seed for seed, _ in resets], vars(env), other)


def write_report(
    out: Path,
    result: dict[str, Any],
    other: Mapping[str, Any] | None,
    policy: Policy,
    config: RunConfig,
    resets: Sequence[Any],
    episodes: Sequence[Episode],
    videos: int,
    checkpoint: str | Path,
) -> None:
    """Write plots, videos and the page of an evaluation into `out`; adds the paired difference to `result`."""
    if other is not None:
        result["difference"] = compare(result, other)
    draw_scores(out / "scores.png", result)
    filmed = _film(videos, policy, config.env, episodes, resets, out)
    commands = _commands(str(checkpoint), out, config)
    write_page(out / "report.html", result, _pictures(out, str(checkpoint)), filmed, commands)


def describe(result: Mapping[str, Any], out: str) -> str:
    """Return the results as lines for the terminal."""
    lines = []
    for name in ("score", "final_coverage", "success"):
        value = result[name]
        lines.append(f"{name}: {value['mean']:.3f}  [{value['low']:.3f}, {value['high']:.3f}]")
    if "difference" in result:
        value = result["difference"]["score"]
        lines.append(f"score, paired difference: {value['mean']:+.3f}  [{value['low']:+.3f}, {value['high']:+.3f}]")
    for name in ("all_starts", "fixed_start") if "modes" in result else ():
        found = result["modes"][name]
        lines.append(
            f"{name}: success {found['success']['mean']:.1%}, total variation {found['total_variation']:.3f}"
        )
        for who in ("demonstrations", "rollouts"):
            parts = ", ".join(f"{mode} {part:.1%}" for mode, part in found[who]["shares"].items())
            lines.append(f"  {who}: {parts}; entropy {found[who]['entropy']:.2f} bits")
    lines.append(f"{len(result['episodes'])} episodes, {result['network_calls']} network calls per chunk")
    lines += [f"results: {Path(out) / 'evaluation.json'}", f"page: {Path(out) / 'report.html'}"]
    return "\n".join(lines)


def _film(
    videos: int, policy: Policy, env: EnvConfig, episodes: Sequence[Episode], resets: Any, out: Path
) -> list[tuple[Path, dict[str, Any]]]:
    """Film some successes and some failures: the same episodes over, so that it slows no measurement."""
    for old in out.glob("episode_*.mp4"):
        old.unlink()  # of the evaluation that is being overwritten
    chosen = [i for good in (True, False) for i in [k for k, e in enumerate(episodes) if e.success is good][:videos]]
    if not chosen:
        return []
    filming = environment(env.id, env.options, "rgb_array")
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


def _commands(checkpoint: str, out: Path, trained: RunConfig) -> list[tuple[str, str]]:
    steps, method = trained.training.steps, trained.method
    other = "ddpm" if method.get("prediction") == "velocity" else "flow"
    own = [  # of the demo
        (
            f"Train longer ({steps} steps so far; the learning rate's schedule runs over all of them):",
            f"diffpolicy train task=pusht_expert run_dir=runs/longer training.steps={3 * steps}",
        ),
        ("Another method:", f"diffpolicy train task=pusht_expert method={other} run_dir=runs/{other}"),
    ]
    return [
        ("In the checkout, after scripts/demo.sh, this makes the commands below known:", "source .venv/bin/activate"),
        *(own if trained.dataset.name == "expert_pusht" else []),
        (
            "The human demonstrations (31 MB, downloaded on first use):",
            "diffpolicy train task=pusht run_dir=runs/human",
        ),
        (
            "Your own demonstrations, a replay buffer as the README's `ReplayBuffer` writes it:",
            "diffpolicy train task=own dataset.path=demos.zarr run_dir=runs/own",
        ),
        (
            "More episodes, for a narrower interval:",
            f"diffpolicy evaluate checkpoint={checkpoint} episodes=200 out={out}_200",
        ),
        (
            "Tasks with several right answers, and how often the policy gives each:",
            "diffpolicy train task=detour run_dir=runs/detour\n"
            "diffpolicy evaluate checkpoint=runs/detour/checkpoints/best modes=true out=runs/detour/modes",
        ),
    ]


def check_fit(config: RunConfig, windows: Any, observation: Mapping[str, Any]) -> None:
    """Refuse an environment that shows or takes other numbers than the demonstrations, before any training."""
    if not 1 <= config.evaluation_episodes <= VALIDATION_EPISODES:
        raise ValueError(
            f"evaluation_episodes must lie in 1 to {VALIDATION_EPISODES}, the validation seeds; "
            f"given {config.evaluation_episodes}; env.id=null rolls nothing out"
        )
    cameras = {key: tuple(one["shape"]) for key, one in observation.items() if one["kind"] == "image"}
    env = environment(config.env.id, config.env.options)()
    space, action_shape = env.observation_space, env.action_space.shape
    env.close()
    shown = {name: part.shape for name, part in space.items()} if isinstance(space, gym.spaces.Dict) else space.shape
    expected: Any = (windows.obs_dim,)
    if cameras:
        expected = {**cameras, ", ".join(config.observation.vectors): expected}
        numbers = [shown.get(key) for key in config.observation.vectors] if isinstance(shown, dict) else [None]
        pictures = {name: shown.get(name) for name in cameras} if isinstance(shown, dict) else {}
        fits = None not in numbers and sum(map(math.prod, numbers)) == windows.obs_dim and pictures == cameras
    else:
        fits = shown == expected
    if not fits or action_shape != (windows.action_dim,):
        raise ValueError(
            f"the demonstrations have observations {expected} and actions of {windows.action_dim} numbers, and "
            f"{config.env.id} with {config.env.options} has {shown} and {action_shape}: let observation and "
            "env.options agree, or roll nothing out with env.id=null"
        )
    for name in cameras:
        if (part := space[name]).dtype != np.uint8:
            raise ValueError(
                f"{config.env.id} shows {name!r} as {part.dtype} from {part.low.min():g} to {part.high.max():g}, and "
                "pictures are uint8, 0 to 255: let the environment give them so, or roll nothing out with env.id=null"
            )
