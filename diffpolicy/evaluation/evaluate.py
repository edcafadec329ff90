"""The pieces of an evaluation: roll out, summarize, write videos, plots and the page."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from diffpolicy.config import LAST, RunConfig
from diffpolicy.datasets.spec import ObservationSpec
from diffpolicy.evaluation.adapters import EnvFactory
from diffpolicy.evaluation.contract import BrokenEnvironment, MakeEnv
from diffpolicy.evaluation.episode import (
    VALIDATION_EPISODES,
    VALIDATION_SEED,
    Episode,
    Reset,
    episode_resets,
    episode_rows,
)
from diffpolicy.evaluation.fit import check_said, fitting_task
from diffpolicy.evaluation.metrics import PROPORTIONS, SUCCESS, check_comparable, metric_names, summarize
from diffpolicy.evaluation.report import (
    Image,
    draw_metric,
    draw_training,
    next_steps,
    provenance,
    write_page,
    write_videos,
)
from diffpolicy.evaluation.report.videos import ACTIONS, FAN
from diffpolicy.evaluation.rollout import require_whole, rollout
from diffpolicy.evaluation.task import NO_SUCCESS, SCORE, TaskSpec
from diffpolicy.policies.agent import Agent
from diffpolicy.policies.policy import Policy
from diffpolicy.policies.texts import learns_words
from diffpolicy.training.log import read_metrics
from diffpolicy.util import names
from diffpolicy.util.errors import require


def check_fit(
    config: RunConfig,
    make_env: MakeEnv,
    spec: ObservationSpec,
    action_dim: int,
    texts: Mapping[str, Sequence[str]] | None = None,
) -> TaskSpec:
    """Return the task of an environment that shows and takes what the demonstrations hold, before any training.

    Args:
        config: of the run.
        make_env: makes its environment.
        spec: what the demonstrations show.
        action_dim: numbers per action of the demonstrations.
        texts: by key, what they say.

    Raises:
        ValueError: it does not fit or is broken, it says on the validation seeds what no demonstration did, there are
            fewer of these than evaluation episodes, or `training.choose` is no metric of its task.
        TypeError: it is no environment, or its `reset` takes no `seed` or `options`.
    """
    given, cure = f"evaluation_episodes={config.evaluation_episodes}", "take env.id=null to roll nothing out"
    fits = 1 <= config.evaluation_episodes <= VALIDATION_EPISODES
    require(fits, given, f"1 to {VALIDATION_EPISODES}, the validation seeds", cure)
    says = f"{config.env.id or config.env.factory} with {config.env.kwargs}"
    cure = "let observation and env.kwargs agree, or take env.id=null"
    task = fitting_task(make_env, spec, action_dim, says, "the demonstrations have", cure)
    success = () if task.success_key == NO_SUCCESS else PROPORTIONS
    names.check("training.choose", config.training.choose, dict.fromkeys([LAST, SCORE, *task.metrics, *success]))
    if texts and learns_words(config.text):
        check_said(make_env, action_dim, texts, episode_resets(VALIDATION_SEED, config.evaluation_episodes))
    return task


def check_policy(policy: Policy, make_env: EnvFactory) -> TaskSpec:
    """Return the task of an environment that shows and takes what a policy does, before any rollout.

    Raises:
        ValueError: it does not fit or is broken.
        TypeError: it is no environment, or its `reset` takes no `seed` or `options`.
    """
    says, cure = f"{make_env.id} with {make_env.kwargs}", "choose with env.kwargs and env.obs_keys what it shows"
    return fitting_task(make_env, policy.observation, policy.action_dim, says, "the policy has", cure)


def check_comparison(
    other: Mapping[str, Any] | None, seeds: str | int, resets: Sequence[Reset], env: Mapping[str, Any]
) -> None:
    """Raise ValueError unless an evaluation to compare with is of the same task and has some seeds in common.

    Args:
        other: contents of its evaluation.json; None compares nothing.
        seeds: as they were asked for.
        resets: what they stand for.
        env: of the environment, as plain data of an `EnvConfig`.
    """
    if other is not None:
        check_comparable(seeds, [how.seed for how in resets], env, other)


def evaluate(
    agent: Agent,
    make_env: MakeEnv,
    resets: Sequence[Reset],
    task: TaskSpec,
    settings: Mapping[str, Any],
    checkpoint: Mapping[str, Any],
    *,
    envs: int = 64,
    workers: int | None = None,
    progress: bool = True,
) -> tuple[dict[str, Any], list[Episode]]:
    """Roll an agent out and return the contents of evaluation.json, and the episodes.

    Args:
        agent: to be evaluated.
        make_env: makes the environment.
        resets: one per episode.
        task: what results mean.
        settings: of the evaluation, as plain data.
        checkpoint: what was evaluated: {"step", "sha256", "config"}.
        envs: see `rollout`.
        workers: see `rollout`.
        progress: see `rollout`.
    """
    began = time.monotonic()
    episodes = rollout(agent, make_env, resets, envs=envs, workers=workers, progress=progress, task=task)
    minutes = (time.monotonic() - began) / 60
    results = episode_rows(episodes)
    return {
        **summarize(results),
        "network_calls": agent.calls,
        "minutes": minutes,
        "checkpoint": dict(checkpoint),
        "settings": dict(settings),
        **provenance(),
        "metrics": {name: one for name, one in task.plain_metrics().items() if name in results[0]},
        "episodes": results,
        "errors": [episode.row() for episode in episodes if episode.error is not None],
    }, episodes


def validation_metrics(episodes: Sequence[Episode], main: str, say: bool = True) -> dict[str, float]:
    """Return what training logs of its rollouts: the main metric as "score", all means, and what broke off.

    Args:
        episodes: on the validation seeds.
        main: the metric that is the score.
        say: whether to print why episodes were broken off.

    Raises:
        BrokenEnvironment: the environment broke all of them off.
    """
    try:
        require_whole(episodes)
    except BrokenEnvironment as error:
        raise BrokenEnvironment(f"{error}; mend it and continue with resume=true") from error
    errors = [episode.error for episode in episodes if episode.error is not None]
    if errors and say:
        tqdm.write(f"{len(errors)} of {len(episodes)} validation episodes broken off, the first: {errors[0]}")
    means = {name: value["mean"] for name, value in summarize(episode_rows(episodes)).items()}
    return {SCORE: means[main], **means, **({"broken_off": len(errors)} if errors else {})}


def write_report(
    out: Path,
    result: Mapping[str, Any],
    checkpoint: str | Path,
    agent: Agent,
    make_env: EnvFactory,
    resets: Sequence[Reset],
    episodes: Sequence[Episode],
    task: TaskSpec,
    videos: int,
) -> None:
    """Write plots, videos and report.html of an evaluation.

    Args:
        out: folder; videos of an earlier evaluation there are removed.
        result: contents of evaluation.json.
        checkpoint: folder of the checkpoint, beside whose run the training's log is found.
        agent: that was evaluated.
        make_env: makes the environment.
        resets: of the evaluation.
        episodes: of the evaluation.
        task: what results mean.
        videos: number of successes and number of failures to make videos of.
    """
    out.mkdir(parents=True, exist_ok=True)
    rolled_out = (resets, episodes, task)
    clips, trouble = write_videos(out, agent, make_env, make_env.rendering(), *rolled_out, videos)
    images = _plots(out, result, checkpoint)
    steps = next_steps(result, checkpoint, out, task)
    write_page(out / "report.html", result, images, clips, steps, no_videos=trouble)


def _plots(out: Path, result: Mapping[str, Any], checkpoint: str | Path) -> list[Image]:
    draw_metric(out / "scores.png", result)
    metrics = Path(checkpoint).resolve().parent.parent / "metrics.jsonl"
    if metrics.exists():
        draw_training(out / "training.png", read_metrics(metrics))
    main = metric_names(result["episodes"])[0].replace("_", " ")
    images = [
        Image(f"Distribution of {main}", out / "scores.png", "Over episodes; the mean of few is a rough guide."),
        Image(
            "Learning curve",
            out / "training.png",
            "Left, the loss on the batches and on validation episodes; right, rollouts on the validation seeds.",
        ),
        Image(
            "Actions over time",
            out / ACTIONS,
            "Of the episodes below. Jumps between steps, and long stretches at a bound, are worth a look.",
        ),
        Image(
            "What the policy considers",
            out / FAN,
            "Action chunks sampled at a few moments of the first of these episodes: together where the task decides, "
            "apart where there are several good modes.",
        ),
        Image(
            "Modes", out / "modes.png", "Paths from one start, a color for each mode: demonstrations and rollouts."
        ),
    ]
    return [image for image in images if image.file.exists()]


def describe(result: Mapping[str, Any], out: str | Path | None = None) -> str:
    """Return the results as lines for the terminal.

    Args:
        result: contents of evaluation.json.
        out: folder that they were written to.
    """
    metrics, errors = metric_names(result["episodes"]), result.get("errors", [])
    lines = [_line(name, result[name], ".3f") for name in metrics]
    if errors:
        lines[0] += f", without the {_episodes(len(errors))} broken off"
    if "difference" in result:
        lines.append(_line(f"{metrics[0]}, paired difference", result["difference"][metrics[0]], "+.3f"))
    if "no_difference" in result:
        lines.append(result["no_difference"])
    if "modes" in result:
        lines += _describe_modes(result["modes"])
    lines.append(f"{_episodes(len(result['episodes']))}, {result['network_calls']} network calls per chunk")
    if errors:
        lines.append(f"{len(errors)} more broken off by the environment, the first: {errors[0]['error']}")
    if out is not None:
        lines += [f"results: {Path(out) / 'evaluation.json'}", f"page: {Path(out) / 'report.html'}"]
    return "\n".join(lines)


def _episodes(count: int) -> str:
    return f"{count} episode{'s' if count > 1 else ''}"


def _line(name: str, interval: Mapping[str, float], form: str) -> str:
    mean, low, high = (format(interval[key], form) for key in ("mean", "low", "high"))
    return f"{name}: {mean}  [{low}, {high}]"


def _describe_modes(found: Mapping[str, Any]) -> list[str]:
    lines = []
    for name in ("all_starts", "fixed_start"):
        success, distance = found[name][SUCCESS]["mean"], found[name]["total_variation"]
        lines.append(f"modes, {name.replace('_', ' ')}: success {success:.1%}, total variation {distance:.3f}")
        for who in ("demonstrations", "rollouts"):
            fractions = ", ".join(f"{mode} {part:.1%}" for mode, part in found[name][who]["fractions"].items())
            lines.append(f"  {who}: {fractions}; entropy {found[name][who]['entropy']:.2f} bits")
    return lines
