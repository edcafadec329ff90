"""Improving a policy: rounds of rolling out and training, and what each cost."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diffpolicy import checkpoint as checkpoints
from diffpolicy import registry
from diffpolicy.config import LAST, load_config, plain
from diffpolicy.config.commands import REPORT_SEED, ImproveConfig
from diffpolicy.config.schema import effective
from diffpolicy.evaluation import policy_env
from diffpolicy.evaluation.evaluate import check_policy
from diffpolicy.evaluation.report import provenance
from diffpolicy.improvement.base import Improvement, Train, Work
from diffpolicy.improvement.experience import APART
from diffpolicy.policies import load_policy
from diffpolicy.util import files
from diffpolicy.util.errors import Interrupted, require

RESULT = "improvement.json"
_WHO = {
    "success_before": "the policy before",
    "success_of_retries": "a retry of what had failed",
    "success_of_expert": "the expert",
}
_TESTS = 100_000  # seeds from REPORT_SEED on that are kept for tests


def improve(config: ImproveConfig, train: Train) -> dict[str, Any]:
    """Improve a policy and return the contents of improvement.json, and "checkpoint", the path of the new one.

    Args:
        config: of the command.
        train: trains what a run's config describes.

    Raises:
        ValueError: settings that are unknown or do not fit the policy, no environment, one that does not fit the
            policy, or rollouts of which nothing can be learned.
        FileExistsError: `config.run_dir` holds a run with other settings.
        BrokenEnvironment: the environment broke off all of many episodes.
    """
    method = _method(config)
    saved = checkpoints.read(config.checkpoint)
    run = load_config(saved.config)
    policy = load_policy(saved.path)
    make_env, task = None, None
    if method.rolls_out:
        make_env = policy_env(run, given=config.env, line=f"diffpolicy improve checkpoint={config.checkpoint}")
        task = check_policy(policy, make_env)
    method.check(policy, make_env, task)
    folder = Path(config.run_dir)
    settings = {
        **effective(config),
        "checkpoint": dict(saved.sha256),
        "env": plain(make_env.config if make_env else run.env),
    }
    settings = json.loads(json.dumps(settings, default=str))
    rounds: list[dict[str, Any]] = []
    with files.lock(_prepared(folder, settings) / ".lock", f"another process improves into {folder}"):
        current = saved
        for number in range(1, config.rounds + 1):
            first_seed = config.first_seed + (number - 1) * config.episodes
            work = Work(config, number, current, folder / f"round_{number}", make_env, task, first_seed, train)
            work.folder.mkdir(exist_ok=True)
            try:
                done = method.improve(work)
            except Interrupted as stopped:
                says = f"stopped in round {number}; the same command continues"
                raise Interrupted(says, stopped.code) from stopped
            rounds.append({"costs": done.costs, **done.found})
            current = checkpoints.read(done.checkpoint)
        result = {"settings": settings, "rounds": rounds, "total": _total(rounds), **provenance()}
        groups = {name: current.tensors(name) for name in ("ema", "normalizer")}
        written = checkpoints.write(folder / "checkpoints", current.step, groups, current.config, current.state)
        files.write_json(folder / RESULT, result)
    return {**result, "checkpoint": str(written)}


def describe(result: Mapping[str, Any], run_dir: str | Path) -> str:
    """Return what to say about an improvement.

    Args:
        result: as `improve` returns it.
        run_dir: folder of the run.
    """
    total, lines = result["total"], []
    for number, one in enumerate(result["rounds"], 1):
        for name in (name for name in _WHO if name in one):
            rate = "{mean:.1%} [{low:.1%}, {high:.1%}]".format(**one[name])
            lines.append(f"round {number}: {_WHO[name]} succeeded in {rate}")
    minutes = (total["rollout_seconds"] + total["training_seconds"]) / 60
    steps, calls = total["environment_steps"], total["network_calls"]
    lines += [
        f"{steps:.0f} environment steps, {calls:.0f} network calls, {minutes:.1f} minutes",
        f"improved: {result['checkpoint']}",
        "",
        "evaluate it:",
        f"  diffpolicy evaluate checkpoint={run_dir} out={run_dir}/evaluation",
    ]
    return "\n".join(lines)


def _method(config: ImproveConfig) -> Improvement:
    counts = {"rounds": config.rounds, "episodes": config.episodes, "envs": config.envs}
    given = ", ".join(f"{name}={value}" for name, value in counts.items())
    require(min(counts.values()) >= 1, given, "at least 1 of each")
    chosen = f"training.choose={config.training.choose}"
    require(config.training.choose == LAST, chosen, LAST, "evaluate the improved policy on seeds of your own")
    method = registry.build("improvement", {"name": config.method, **config.options})
    once = method.rolls_out or (config.rounds == 1 and config.rollouts is None)
    given = f"rounds={config.rounds}, rollouts={config.rollouts} of method={config.method}, which rolls nothing out"
    require(once, given, "one round and no rollouts")
    last = config.first_seed + config.rounds * config.episodes
    apart = config.first_seed >= REPORT_SEED + _TESTS or last <= REPORT_SEED
    given = f"first_seed={config.first_seed}: episodes up to {last}"
    within = last <= APART
    require(within, f"first_seed={config.first_seed}: episodes up to {last}", f"seeds below {APART}")
    require(config.first_seed >= 0 and apart, given, f"none of {REPORT_SEED} to {REPORT_SEED + _TESTS}, which test")
    return method


def _prepared(folder: Path, settings: Mapping[str, Any]) -> Path:
    """The folder of a run, claimed for these settings.

    Raises:
        FileExistsError: it holds something else.
    """
    noted = folder / "settings.json"
    if folder.exists() and any(folder.iterdir()):
        there = json.loads(noted.read_text(encoding="utf-8")) if noted.exists() else {}
        other = sorted(name for name in {*there, *settings} if there.get(name) != settings.get(name))
        why = f": other {', '.join(other)}" if there else ""
        says = f"{folder} holds something else than this improvement{why}"
        require(not other, says, cure="choose another run_dir", error=FileExistsError)
    folder.mkdir(parents=True, exist_ok=True)
    files.write_json(noted, settings)
    return folder


def _total(rounds: list[dict[str, Any]]) -> dict[str, float]:
    names = dict.fromkeys(name for one in rounds for name in one["costs"])
    return {name: sum(one["costs"].get(name, 0) for one in rounds) for name in names}
