"""Training and evaluation as functions: what the commands call, and what a notebook calls.

from diffpolicy import evaluate_policy, train_policy

best = train_policy(["task=pusht_expert", "training.steps=2700", "run_dir=runs/demo"])
result = evaluate_policy(best, "runs/demo/evaluation", episodes=50)
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from diffpolicy import checkpoint as checkpoints
from diffpolicy.config import (
    EnvConfig,
    ExecutionConfig,
    FoundInData,
    RunConfig,
    SamplerConfig,
    load_config,
    plain,
    typed,
)
from diffpolicy.config.commands import REPORT_SEED, ImproveConfig
from diffpolicy.config.given import env_of, execution_of
from diffpolicy.control.guard import Limits
from diffpolicy.datasets import BatchSampler, Windows, load_demonstrations, load_windows, open_batches
from diffpolicy.datasets.catalog import ImageSource, open_source
from diffpolicy.datasets.images import LabeledImages
from diffpolicy.datasets.normalizer import Normalizer
from diffpolicy.datasets.stream_settings import fitted
from diffpolicy.evaluation import (
    INFERENCE_BLOCK,
    VALIDATION_SEED,
    compare,
    episode_resets,
    policy_env,
)
from diffpolicy.evaluation.adapters import names_env
from diffpolicy.evaluation.evaluate import (
    check_comparison,
    check_fit,
    check_policy,
    evaluate,
    validation_metrics,
    write_report,
)
from diffpolicy.evaluation.following import motion_of
from diffpolicy.evaluation.measure_modes import check_modes, measure_modes
from diffpolicy.evaluation.report import draw_training
from diffpolicy.evaluation.rollout import finished_episodes
from diffpolicy.images import build_autoencoder, found_by_autoencoder, prepared
from diffpolicy.improvement.improve import improve
from diffpolicy.nets.base import Model
from diffpolicy.nets.text import vocabulary
from diffpolicy.policies import Agent, ChunkModel, build_model, build_policy, load_policy
from diffpolicy.policies.instructions import reader
from diffpolicy.policies.io import method_class
from diffpolicy.policies.models import Remembers
from diffpolicy.policies.texts import check_words, text_identity
from diffpolicy.training import train
from diffpolicy.training.distributed import Ranks, process_group
from diffpolicy.training.log import read_metrics
from diffpolicy.util.errors import explain, require
from diffpolicy.util.files import write_json

VALIDATION_SAMPLES = 1024
VALIDATION_IMAGE_SAMPLES = 128  # whose images are read from disk


def train_policy(config: RunConfig | Sequence[str]) -> Path | None:
    """Train what a config describes, a policy or a generator of images, and return the path of its checkpoint.

    Args:
        config: a `RunConfig`, or settings as the command takes them: `["task=pusht_expert", "run_dir=runs/demo"]`.

    Returns:
        The checkpoint that `training.choose` names, or the last one where none was rolled out yet; None on all ranks
        but the first.

    Raises:
        ValueError: unknown settings, or settings that do not fit together or the data.
        FileExistsError: `run_dir` holds a run already and `resume` is off.
        NonFiniteLossError: the gradient became NaN or infinite.
    """
    if not isinstance(config, RunConfig):
        from diffpolicy.config.compose import compose

        config = compose(config)
    if config.text.get("path"):  # a checkpoint names it, wherever it is used from
        config = replace(config, text={**config.text, "path": str(Path(config.text["path"]).expanduser().resolve())})
    with process_group(config.device) as (ranks, device):
        ranks.shard(config.training.batch_size)  # refused here, before anything is opened
        source = open_source(config)
        if isinstance(source, ImageSource):
            last = _train_images(source, config, ranks, device)
        else:
            last = _train_on_demonstrations(config, ranks, device)
    if not ranks.writes:
        return None
    run_dir = Path(config.run_dir)
    draw_training(run_dir / "training.png", read_metrics(run_dir / "metrics.jsonl"))
    best = last.parent / "best"
    return best if best.exists() else last


def evaluate_policy(
    checkpoint: str | Path,
    out: str | Path | None = None,
    *,
    episodes: int = 50,
    seeds: str | int = REPORT_SEED,
    solver: str | None = None,
    steps: int | None = None,
    grid: str | None = None,
    solver_options: Mapping[str, Any] | None = None,
    action_horizon: int | None = None,
    execution: Mapping[str, Any] | ExecutionConfig | None = None,
    weights: str = "ema",
    device: str = "auto",
    envs: int = 64,
    workers: int | None = None,
    videos: int = 3,
    modes: bool = False,
    compare_to: str | Path | None = None,
    overwrite: bool = False,
    env: EnvConfig | str | Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Roll the policy of a checkpoint out in an environment, by default its own, and return the results.

    The arguments are those of `diffpolicy.config.commands.EvaluateConfig`. `env` may also be an id, or a mapping of
    settings, all of which are put over those of the training; of an `EnvConfig`, those not at their defaults.

    Returns:
        The contents of evaluation.json: metrics with 95% intervals, settings, versions, one result per episode.
        With `out` they are written there, beside plots, videos and report.html. "errors" lists the episodes that the
        environment broke off, which count for no metric.

    Raises:
        BrokenEnvironment: the environment broke off every episode.
        FileExistsError: `out` holds an evaluation and `overwrite` is off.
        ValueError: settings that the policy cannot use, no environment, or one that does not fit the policy.
    """
    asked = env_of(env)
    settings = {**locals(), "execution": execution_of(execution), "env": plain(asked)}
    del settings["asked"]
    result_file = Path(out) / "evaluation.json" if out is not None else None
    if result_file is not None and result_file.exists() and not overwrite:
        raise FileExistsError(explain(f"{result_file} exists", cure="choose another out, or overwrite=true"))
    policy = load_policy(
        checkpoint,
        SamplerConfig(solver, steps, grid, dict(solver_options or {}) or None),
        action_horizon=action_horizon,
        weights=weights,
        device=device,
        block=INFERENCE_BLOCK,
        execution=settings["execution"],
    )
    saved = checkpoints.read(checkpoint)
    config = load_config(saved.config)
    make_env = policy_env(config, given=asked, line=f"diffpolicy evaluate checkpoint={checkpoint}")
    agent, task = Agent(policy), check_policy(policy, make_env)
    policy.motion = motion_of(task, make_env.config, config, policy)
    used = {**plain(make_env.config), "given_by_hand": names_env(asked)}
    if modes:
        check_modes(task, make_env.id)
    resets = episode_resets(seeds, episodes, task)
    other = json.loads(Path(compare_to).read_text()) if compare_to else None
    check_comparison(other, seeds, resets, used)

    recorded = {key: str(value) if isinstance(value, Path) else value for key, value in settings.items()}
    recorded |= {"execution": plain(settings["execution"]), "sampler": policy.model.sampler}
    evaluated = {"step": saved.step, "sha256": saved.sha256, "config": plain(config)}
    result, rolled_out = evaluate(agent, make_env, resets, task, recorded, evaluated, envs=envs, workers=workers)
    result["env"] = used
    if make_env.config.estimator is not None:
        told_by = checkpoints.read(make_env.config.estimator)
        result["estimator"] = {"step": told_by.step, "sha256": told_by.sha256}
    seeds_left, theirs = ({one["seed"] for one in (each or {}).get("episodes", ())} for each in (result, other))
    if seeds_left & theirs:  # the environment may have broken off those that were in common
        result["difference"] = compare(result, other or {})
    elif other is not None:
        result["no_difference"] = f"no episode in common with {compare_to} is left: the environment broke them off"
    folder = None if out is None else Path(out)
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / "evaluation.json", result)  # what follows rolls out again, which may fail
    if modes:
        buffer = load_demonstrations(config)
        result["modes"] = measure_modes(agent, make_env, buffer, resets, rolled_out, folder, workers)
    if folder is not None:
        write_json(folder / "evaluation.json", result)
        write_report(folder, result, checkpoint, agent, make_env, resets, rolled_out, task, videos)
    return result


def improve_policy(checkpoint: str | Path, run_dir: str | Path, **settings: Any) -> Path:
    """Improve the policy of a checkpoint by what it does itself, and return the path of the new one.

    Args:
        checkpoint: folder of the policy's checkpoint.
        run_dir: folder of the run.
        settings: the others of `diffpolicy.config.commands.ImproveConfig`, sections as mappings; `env` may also be an
            id.

    Raises:
        ValueError: settings that are unknown or do not fit the policy, no environment, one that does not fit the
            policy, or rollouts of which nothing can be learned.
        FileExistsError: `run_dir` holds a run with other settings.
        BrokenEnvironment: the environment broke off all of many episodes.
    """
    env = env_of(settings.pop("env", None))
    config = typed(ImproveConfig, {"checkpoint": str(checkpoint), "run_dir": str(run_dir), **settings})
    config.env = env
    return Path(improve(config, train_policy)["checkpoint"])


def _train_images(source: ImageSource, config: RunConfig, ranks: Ranks, device: torch.device) -> Path:
    images, held_out = (source.images(split).to(device) for split in ("train", "test"))
    torch.manual_seed(config.seed)
    record, generator = _untrained(_with_stream(config), images, source)
    if config.init_from is not None and source.texts:
        start = checkpoints.read(config.init_from)
        check_words(load_config(start.config).found, record.found, start.path)
    batches = BatchSampler(len(images), config.training.batch_size, config.seed, device)
    rows = ranks.shard(config.training.batch_size)

    def batch_at(step: int) -> dict[str, torch.Tensor]:
        return images.batch(batches[step][rows])

    def validation() -> dict[str, torch.Tensor]:
        return held_out.batch(torch.arange(min(len(held_out), VALIDATION_SAMPLES), device=device))

    _say(config, ranks, device, generator, f"{len(images)} images")
    return _train(config, ranks, device, generator, batch_at, record, validation=validation)


def _untrained(config: RunConfig, images: LabeledImages, source: ImageSource) -> tuple[RunConfig, Model]:
    """Return a config with what was found in the images, and the model that it describes."""
    if config.method["name"] != "autoencoder":
        return prepared(config, images, source.classes, source.texts)
    config = replace(config, found=found_by_autoencoder(images))
    return config, build_autoencoder(config)


def _train_on_demonstrations(config: RunConfig, ranks: Ranks, device: torch.device) -> Path:
    start = _start(config)
    normalizer = None if start is None else Normalizer.from_tensors(start.tensors("normalizer"))
    if start is not None:
        before, now = load_config(start.config).dataset.representations, config.dataset.representations
        given = f"{start.path} was trained with dataset.representations={before}"
        require(before == now, given, str(now), "start from it with the same ones, or begin anew")
    windows = load_windows(config, device, normalizer)
    for note in [*windows.notes, *([] if start is None else [f"normalizer: that of {start.path}"])]:
        if ranks.writes:
            print(note)
    task = None
    if names_env(config.env):  # before the seed, since an environment may draw from torch's generator
        make_env = policy_env(config, given=config.env)
        task = check_fit(config, make_env, windows.spec, windows.train.action_dim, windows.texts)
    torch.manual_seed(config.seed)
    net = config.net if method_class(config).has_net else {}
    record = replace(_with_stream(config, windows, start), net=net, found=_found(config, windows))
    if start is not None:
        check_words(load_config(start.config).found, record.found, start.path)
    model = build_model(record, windows.spec, windows.train.action_dim, for_training=start is None)
    batch = reader(model, windows.texts, windows.normalized)
    if isinstance(model, Remembers):
        every = torch.arange(len(windows.train), device=device)
        model.remember(batch(windows.train.batch(part)) for part in every.split(4096))
    left_out = f" ({windows.short} short episodes left out)" if windows.short else ""
    _say(config, ranks, device, model, f"{len(windows.train)} windows{left_out}")
    shard = (ranks.rank, ranks.world)
    batching = (config.training.batch_size, config.seed, record.dataset.stream, shard, device)
    with open_batches(windows, *batching) as raw_batch_at:
        return _train(
            config,
            ranks,
            device,
            model,
            lambda step: batch(raw_batch_at(step)),
            record,
            extras={"normalizer": windows.normalizer.to_tensors()},
            validation=_validation(windows, batch, record, device),
            evaluate=None if task is None else _evaluation(windows, record, ranks, task.main),
        )


def _train(
    config: RunConfig,
    ranks: Ranks,
    device: torch.device,
    model: torch.nn.Module,
    batch_at: Callable[[int], Mapping[str, torch.Tensor]],
    record: RunConfig,
    **watched: Any,
) -> Path:
    return train(
        model,
        batch_at,
        config.training,
        Path(config.run_dir),
        seed=config.seed,
        record=record,
        device=device,
        speed=config.speed,
        ranks=ranks,
        resume=config.resume,
        start_from=config.init_from,
        max_minutes=config.max_minutes,
        **watched,
    )


def _start(config: RunConfig) -> checkpoints.Checkpoint | None:
    """The checkpoint whose weights and normalizer training begins with, if any: of the run, or of `init_from`."""
    own = checkpoints.latest(Path(config.run_dir) / "checkpoints") if config.resume else None
    return checkpoints.read(config.init_from) if own is None and config.init_from is not None else own


def _with_stream(
    config: RunConfig, windows: Windows | None = None, start: checkpoints.Checkpoint | None = None
) -> RunConfig:
    """The config with the numbers by which images are read, on which batches depend; a resumed run keeps its own."""
    stream = config.dataset.stream
    if start is not None and Path(config.run_dir).resolve() in start.path.resolve().parents:
        before = load_config(start.config).dataset.stream
        stream = replace(stream, pool=stream.pool or before.pool, run=stream.run or before.run)
    stream = fitted(stream, None if windows is None else windows.train)
    return replace(config, dataset=replace(config.dataset, stream=stream))


def _found(config: RunConfig, windows: Windows) -> FoundInData:
    count = None if method_class(config).learns else len(windows.train)
    known = {"observation": windows.spec.to_plain(), "action_dim": windows.train.action_dim, "windows": count}
    known["words"] = {key: vocabulary(text for text in texts if text) for key, texts in windows.texts.items()}
    known["text"] = text_identity(config.text) if windows.texts else None
    return FoundInData(digest=windows.digest, limits=Limits.of(windows.actions).to_plain(), **known)


def _validation(
    windows: Windows, batch: Callable[..., Any], record: RunConfig, device: torch.device
) -> Callable[[], Mapping[str, torch.Tensor]] | None:
    held_out = windows.validation
    if held_out is None:
        return None

    @functools.cache  # images are read from disk once
    def some() -> Mapping[str, torch.Tensor]:
        count = min(len(held_out), VALIDATION_IMAGE_SAMPLES if record.observation.images else VALIDATION_SAMPLES)
        return batch(held_out.batch(torch.linspace(0, len(held_out) - 1, count).long().to(device)))

    return some


def _evaluation(
    windows: Windows, record: RunConfig, ranks: Ranks, main: str
) -> Callable[[Any, int], dict[str, float]]:
    make_env, spec = policy_env(record, given=record.env), windows.spec

    def validate(averaged: ChunkModel, step: int) -> dict[str, float]:
        policy = build_policy(record, spec, averaged, windows.normalizer, block=INFERENCE_BLOCK)
        resets = ranks.deal(episode_resets(VALIDATION_SEED, record.evaluation_episodes))
        workers = record.evaluation_workers if ranks.world == 1 else 0  # the ranks are workers already
        agent = Agent(policy)
        episodes = list(finished_episodes(agent, make_env, resets, workers=workers)) if resets else []
        return validation_metrics(ranks.collect(sorted(episodes, key=lambda one: one.number)), main, ranks.writes)

    return validate


def _say(config: RunConfig, ranks: Ranks, device: torch.device, model: torch.nn.Module, data: str) -> None:
    if ranks.writes:
        million = sum(parameter.numel() for parameter in model.parameters()) / 1e6
        print(f"{data}, {million:.1f} million parameters, on {ranks.world} × {device.type}, into {config.run_dir}")
