"""Commands that fit what was evaluated, for the end of its page."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from diffpolicy import registry
from diffpolicy.config import ExecutionConfig, plain
from diffpolicy.config.words import env_words, words
from diffpolicy.evaluation.adapters import OBS_MODE, bare_id
from diffpolicy.evaluation.metrics import evaluated_env
from diffpolicy.evaluation.task import TaskSpec


class NextStep(NamedTuple):
    """What a command is for, and the command."""

    purpose: str
    command: str


def next_steps(result: Mapping[str, Any], checkpoint: str | Path, out: str | Path, task: TaskSpec) -> list[NextStep]:
    """Return commands to go on with after an evaluation.

    Args:
        result: contents of evaluation.json.
        checkpoint: folder of the checkpoint.
        out: folder of the evaluation.
        task: what was evaluated.
    """
    settings, config = result["settings"], result["checkpoint"]["config"]
    env = _env(result)
    evaluate = " ".join([f"diffpolicy evaluate checkpoint={checkpoint}", *_changed(settings), *env_words(env)])
    same = " ".join(env_words(_without_display(env, task)))
    episodes = len(result["episodes"])
    steps = [
        NextStep(
            "More episodes, for narrower intervals:", f"{evaluate} episodes={4 * episodes} out={out}_{4 * episodes}"
        ),
        NextStep(
            "Another policy on the same initial states, with the paired difference:",
            f"diffpolicy evaluate checkpoint=OTHER/checkpoints/best {same} seeds={settings['seeds']} "
            f"episodes={episodes} compare_to={Path(out) / 'evaluation.json'} out={out}_other",
        ),
    ]
    if result["checkpoint"]["step"] and "training" in config:
        says = "Train longer: your training command, with these settings at its end:"
        longer = (
            f"run_dir={Path(checkpoint).parent.parent} resume=true training.steps={3 * config['training']['steps']}"
        )
        steps.append(NextStep(says, longer))
    sampler = settings.get("sampler")
    if sampler and sampler["steps"] > 1:
        half = sampler["steps"] // 2
        steps.append(NextStep("Fewer network calls per chunk:", f"{evaluate} steps={half} out={out}_{half}_steps"))
    if task.modes and "modes" not in result:
        says = "In which modes the policy does this task, beside its demonstrations:"
        steps.append(NextStep(says, f"{evaluate} modes=true out={out}_modes"))
    if bare_id(env["id"]) in registry.known("expert"):
        says = "More demonstrations by the expert of this environment:"
        steps.append(NextStep(says, f"diffpolicy record {' '.join(env_words(env))} episodes=500 out=DEMOS"))
    steps.append(
        NextStep(
            "The policy as one file for onnxruntime:", f"diffpolicy export checkpoint={checkpoint} out=policy.onnx"
        )
    )
    return steps


def _env(result: Mapping[str, Any]) -> dict[str, Any]:
    """What was rolled out in, without the mode of observation that a policy asks for by itself."""
    env = dict(evaluated_env(result))
    kwargs = dict(env.pop("options", None) or env.get("kwargs") or {})
    mode = result["checkpoint"]["config"].get("observation", {}).get("mode")
    if mode is not None and kwargs.get(OBS_MODE) == mode:
        del kwargs[OBS_MODE]
    return {**env, "kwargs": kwargs}


def _without_display(env: Mapping[str, Any], task: TaskSpec) -> dict[str, Any]:
    """The same for a policy that may observe something else."""
    kept = {name: value for name, value in env.items() if name not in ("obs_keys", "image_range", "estimator")}
    shown = {name: value for name, value in env["kwargs"].items() if name not in task.display_options}
    return {**kept, "kwargs": shown}


def _changed(settings: Mapping[str, Any]) -> list[str]:
    """The settings of an evaluation that are not the defaults and change what the policy does."""
    given = {name: settings.get(name) for name in ("solver", "grid", "action_horizon")}
    given |= {f"solver_options.{name}": value for name, value in (settings.get("solver_options") or {}).items()}
    return words({name: value for name, value in given.items() if value is not None} | executed(settings))


def executed(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of an evaluation's `execution` that are not the defaults, by what they are typed as."""
    usual = plain(ExecutionConfig())
    given = settings.get("execution", usual).items()
    return {f"execution.{name}": value for name, value in given if value != usual.get(name)}
