"""A trained policy for others: its weights, its config without private paths, and a card with its results."""

from __future__ import annotations

import functools
import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from diffpolicy import checkpoint
from diffpolicy.config import RunConfig, load_config
from diffpolicy.config.commands import PushConfig
from diffpolicy.config.schema import paths, plain
from diffpolicy.config.sections import ObservationConfig
from diffpolicy.util import hub
from diffpolicy.util.errors import require
from diffpolicy.util.files import write_json

_PATHS = ("checkpoint", "out", "compare_to")  # settings of an evaluation that are places on a disk
_ACTS = ("ema", "normalizer")  # what a policy needs to act

_CARD = """\
---
library_name: diffpolicy
pipeline_tag: robotics
tags:
- robotics
- imitation-learning
- diffusion-policy
---

# {name}

A policy trained with [diffpolicy](https://pypi.org/project/diffpolicy): method `{method}`, network `{net}`, {step:,}
steps, observing {observed}.

```python
from diffpolicy import load_policy

policy = load_policy("{address}")
actions = policy.predict(obs)  # the last {obs_horizon} observations (B, T_o, …) -> the next {action_horizon} actions
```
{results}
"""

_RESULTS = """
## Results

{episodes} episodes in `{env}`, seeds {first} to {last}, mean with its 95% interval. `evaluation.json` holds every
episode.

| metric | mean | interval |
|---|---|---|
{lines}
{videos}"""


def push(config: PushConfig) -> str:
    """Upload a policy to the hub, and return what to say about it. Only `ema` weights and the normalizer go.

    Raises:
        CheckpointError: no checkpoint at `config.source`.
        FileNotFoundError: no evaluation at `config.evaluation`, or no right to write to `config.to`.
        ValueError: an address of another form, or an evaluation of another checkpoint.
        OSError: the hub cannot be reached.
    """
    hub.parse(config.to)
    hub.library()
    with tempfile.TemporaryDirectory() as folder:
        staged = stage(config, Path(folder))
        listed = ", ".join(sorted(file.name for file in staged.iterdir()))
        if config.dry_run:
            return f"would upload to {config.to}: {listed}"
        where = hub.upload(staged, config.to, "model", config.message, config.private)
    return f"uploaded {listed}\n{where}"


def stage(config: PushConfig, folder: Path) -> Path:
    """Write what is to be uploaded below `folder`, and return where it is. Raises as `push`."""
    saved = checkpoint.read(config.source)
    run = load_config(saved.config)
    require(run.found.kind == "policy", f"{saved.path} is a checkpoint of {run.found.kind}", "one of a policy")
    evaluation = _evaluation(config, saved)
    tensors = {group: saved.tensors(group) for group in _ACTS}
    staged = checkpoint.write(folder, saved.step, tensors, plain(without_paths(run)), {})
    videos: list[str] = []
    if evaluation is not None:
        source = Path(str(config.evaluation)).expanduser()
        write_json(staged / "evaluation.json", evaluation)
        for video in sorted(source.glob("*.mp4")):
            shutil.copy(video, staged)
            videos.append(video.name)
    (staged / "README.md").write_text(_card(config.to, saved, run, evaluation, videos), encoding="utf-8")
    return staged


def without_paths(run: RunConfig) -> RunConfig:
    """Return a config in which paths are their last part: where files lay on the machine that trained is private."""
    values = plain(run)
    for place in (*paths(RunConfig), "dataset.episodes", "encoder.weights", "text.path"):
        *sections, name = place.split(".")
        section = functools.reduce(lambda node, key: node[key], sections, values)
        if isinstance(section.get(name), str):
            section[name] = _last_part(section[name])
    return load_config(values)


def _evaluation(config: PushConfig, saved: checkpoint.Checkpoint) -> dict[str, Any] | None:
    if config.evaluation is None:
        return None
    file = Path(config.evaluation).expanduser() / "evaluation.json"
    require(file.is_file(), f"no evaluation at {file}", cure="run diffpolicy evaluate first", error=FileNotFoundError)
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    of = found.get("checkpoint", {})
    same = of.get("sha256", {}).get("ema.safetensors") == saved.sha256["ema.safetensors"]
    require(same, f"{file} is of another checkpoint than {saved.path}", cure="evaluate this one")
    config_of = plain(without_paths(load_config(of["config"])))
    settings = {key: value for key, value in found.get("settings", {}).items() if key not in _PATHS}
    for env in (found.get("env", {}), settings.get("env") or {}):
        if isinstance(env, dict) and env.get("estimator") is not None:
            env["estimator"] = _last_part(env["estimator"])
    return {**found, "checkpoint": {**of, "config": config_of}, "settings": settings}


def _last_part(path: str) -> str:
    return path if hub.is_address(path) else Path(path).name


def _card(
    address: str,
    saved: checkpoint.Checkpoint,
    run: RunConfig,
    evaluation: Mapping[str, Any] | None,
    videos: list[str],
) -> str:
    observed = ", ".join(f"`{key}`" for key in _observed(run.observation))
    return _CARD.format(
        name=hub.parse(address).repo.partition("/")[2],
        address=address,
        method=run.method.get("name"),
        net=run.net.get("name", "none"),
        step=saved.step,
        observed=observed,
        obs_horizon=run.policy.obs_horizon,
        action_horizon=run.policy.action_horizon,
        results="" if evaluation is None else _results(evaluation, videos),
    )


def _observed(observation: ObservationConfig) -> Iterator[str]:
    yield from (*observation.vectors, *observation.images, *observation.texts, *observation.goals)


def _results(evaluation: Mapping[str, Any], videos: list[str]) -> str:
    metrics = {
        name: value
        for name, value in evaluation.items()
        if isinstance(value, Mapping) and {"mean", "low", "high"} <= value.keys()
    }
    lines = [f"| {name} | {m['mean']:.3f} | {m['low']:.3f} to {m['high']:.3f} |" for name, m in metrics.items()]
    seeds = [episode["seed"] for episode in evaluation["episodes"]]
    env = evaluation.get("env") or evaluation["checkpoint"]["config"]["env"]
    clips = "\n".join(f'<video controls src="{name}"></video>' for name in videos)
    return _RESULTS.format(
        episodes=len(seeds),
        env=env["id"] or env["factory"],
        first=seeds[0],
        last=seeds[-1],
        lines="\n".join(lines),
        videos=clips and f"\n{clips}\n",
    )
