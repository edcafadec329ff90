"""Train a policy from demonstrations, or a generator of images:

diffpolicy-train task=pusht_keypoints method=flow run_dir=RUN max_minutes=15 seed=0
diffpolicy-train task=mnist method=flow run_dir=RUN

With several processes: torchrun --nproc-per-node 2 -m diffpolicy.scripts.train …
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from omegaconf import MISSING

from diffpolicy import checkpoint
from diffpolicy.datasets.build import DatasetConfig, load_windows, open_batches
from diffpolicy.datasets.mnist import load_mnist
from diffpolicy.datasets.streaming import ImageWindows
from diffpolicy.datasets.windows import BatchSampler, WindowDataset
from diffpolicy.evaluation import EnvConfig, environment, episode_resets, rollout, summarize
from diffpolicy.evaluation.report import draw_training
from diffpolicy.evaluation.rollout import INFERENCE_BLOCK, VALIDATION_EPISODES, VALIDATION_SEED
from diffpolicy.images import ImageConfig, build_generator
from diffpolicy.policies import NearestActor, Policy, PolicyConfig, build_actor, observed_by
from diffpolicy.registry import takes
from diffpolicy.scripts._hydra import command
from diffpolicy.training import TrainConfig, train
from diffpolicy.training.distributed import Ranks, process_group
from diffpolicy.training.logging import read_metrics


@dataclass
class Config:
    """Everything a training run is made of.

    evaluation_episodes: validation rollouts, from seed 10000.
    evaluation_workers: processes that they are dealt out to; null is as many as pay on this machine, 0 none. It
        changes no result.
    """

    run_dir: str = MISSING
    seed: int = 0
    resume: bool = False
    device: str = "auto"
    speed: str = "auto"
    max_minutes: float | None = None
    data_root: str | None = None
    evaluation_episodes: int = 50
    evaluation_workers: int | None = None
    dataset: DatasetConfig = field(default_factory=DatasetConfig)
    env: EnvConfig = field(default_factory=EnvConfig)
    policy: PolicyConfig = field(default_factory=PolicyConfig)
    method: dict[str, Any] = field(default_factory=dict)
    images: ImageConfig = field(default_factory=ImageConfig)
    net: dict[str, Any] = field(default_factory=dict)
    encoder: dict[str, Any] = field(default_factory=dict)
    training: TrainConfig = field(default_factory=TrainConfig)


def run(config: Config) -> None:
    with process_group(config.device) as (ranks, device):
        ranks.rows(config.training.batch_size)  # refused here, before anything is opened
        (_images if config.dataset.name == "mnist" else _policy)(config, ranks, device)


def _images(config: Config, ranks: Ranks, device: torch.device) -> None:
    if config.dataset.path is not None:
        raise ValueError(
            "MNIST is read from mnist/ below data_root (or DIFFPOLICY_DATA); dataset.path is for task=own"
        )
    digits, held_out = (load_mnist(split, config.data_root).to(device) for split in ("train", "test"))
    torch.manual_seed(config.seed)
    record = dataclasses.asdict(config)
    for unused in ("policy", "env", "encoder", "evaluation_episodes", "evaluation_workers"):
        del record[unused]
    generator = build_generator(record)
    batches = BatchSampler(len(digits), config.training.batch_size, config.seed, device)
    rows = ranks.rows(config.training.batch_size)

    def batch_at(step: int) -> dict[str, torch.Tensor]:
        return digits.batch(batches[step][rows])

    def some_held_out() -> dict[str, torch.Tensor]:
        return held_out.batch(torch.arange(1024, device=device))

    _train(config, ranks, device, f"{len(digits)} images", generator, batch_at, record, validation=some_held_out)


def _policy(config: Config, ranks: Ranks, device: torch.device) -> None:
    horizons = dataclasses.asdict(config.policy)
    windows = load_windows(config.dataset, **horizons, data_root=config.data_root, device=device)
    torch.manual_seed(config.seed)
    record = dataclasses.asdict(config)
    del record["images"]
    cameras = windows.train.image_shapes if isinstance(windows.train, ImageWindows) else {}
    if cameras:
        record["cameras"] = {name: list(shape) for name, shape in cameras.items()}
    if not takes("model", config.method, "net"):
        del record["net"]
    if takes("model", config.method, "windows"):
        record["windows"] = len(windows.train)
    if config.env.id:
        _check_fit(config, windows.train, cameras)
    begins = not config.resume or checkpoint.latest(Path(config.run_dir) / "checkpoints") is None
    actor = build_actor(record, windows.train.obs_dim, windows.train.action_dim, begins=begins)

    def batch(raw: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        obs, action = (windows.normalizer.normalize(key, raw[key]) for key in ("obs", "action"))
        others = {name: values for name, values in raw.items() if name not in ("obs", "action")}
        return {"data": action, "cond": obs.flatten(1), **others}

    if isinstance(actor, NearestActor):
        every = torch.arange(len(windows.train), device=device)
        actor.remember(batch(windows.train.batch(part)) for part in every.split(4096))

    def evaluate(averaged: Any, step: int) -> dict[str, float]:
        policy = Policy(averaged, windows.normalizer, **horizons, block=INFERENCE_BLOCK, cameras=observed_by(record))
        make_env = environment(config.env.id, config.env.options)
        resets = ranks.deal(episode_resets(VALIDATION_SEED, config.evaluation_episodes))
        workers = config.evaluation_workers if ranks.world == 1 else 0  # the ranks are workers already
        episodes = rollout(policy, make_env, resets, workers=workers) if resets else []
        found = ranks.collect([episode.row() for episode in episodes])
        return {name: value["mean"] for name, value in summarize(found).items()}

    held_out = windows.validation

    @functools.cache  # pictures are read from disk once
    def some_held_out() -> dict[str, torch.Tensor]:
        count = min(len(held_out), 128 if cameras else 1024)
        return batch(held_out.batch(torch.linspace(0, len(held_out) - 1, count).long().to(device)))

    share = (ranks.rank, ranks.world)
    with open_batches(
        windows, config.training.batch_size, config.seed, config.dataset.stream, share, device
    ) as batch_at:
        _train(
            config,
            ranks,
            device,
            f"{len(windows.train)} windows",
            actor,
            lambda step: batch(batch_at(step)),
            record,
            extras={"normalizer": windows.normalizer.to_tensors()},
            validation=held_out and some_held_out,
            evaluate=evaluate if config.env.id else None,
        )


def _train(
    config: Config,
    ranks: Ranks,
    device: torch.device,
    data: str,
    model: torch.nn.Module,
    batch_at: Callable[[int], dict[str, torch.Tensor]],
    record: dict[str, Any],
    **watched: Any,
) -> None:
    if ranks.writes:
        print(
            f"{data}, {sum(p.numel() for p in model.parameters()) / 1e6:.1f} million parameters, on {ranks.world} × "
            f"{device.type}, into {config.run_dir}"
        )
    run_dir = Path(config.run_dir)
    last = train(
        model,
        lambda model, batch, generator: model.loss(batch, generator),
        batch_at,
        config.training,
        run_dir,
        seed=config.seed,
        record=record,
        device=device,
        speed=config.speed,
        ranks=ranks,
        resume=config.resume,
        max_minutes=config.max_minutes,
        **watched,
    )
    if ranks.writes:
        draw_training(run_dir / "training.png", read_metrics(run_dir / "metrics.jsonl"))
        best = last.parent / "best"
        print(f"trained: {best if best.exists() else last}")


def _check_fit(config: Config, windows: WindowDataset | ImageWindows, cameras: Mapping[str, tuple[int, ...]]) -> None:
    """Refuse an environment that shows or takes other numbers than the demonstrations, before any training."""
    if not 1 <= config.evaluation_episodes <= VALIDATION_EPISODES:
        raise ValueError(
            f"evaluation_episodes must lie in 1 to {VALIDATION_EPISODES}, the validation seeds; "
            f"given {config.evaluation_episodes}; env.id=null rolls nothing out"
        )
    env = environment(config.env.id, config.env.options)()
    space, action_shape = env.observation_space, env.action_space.shape
    env.close()
    shown = {name: part.shape for name, part in space.items()} if isinstance(space, gym.spaces.Dict) else space.shape
    expected: Any = (windows.obs_dim,)
    if cameras:
        expected = {**cameras, ", ".join(config.dataset.obs_keys): expected}
        numbers = [shown.get(key) for key in config.dataset.obs_keys] if isinstance(shown, dict) else [None]
        pictures = {name: shown.get(name) for name in cameras} if isinstance(shown, dict) else {}
        fits = None not in numbers and sum(map(math.prod, numbers)) == windows.obs_dim and pictures == cameras
    else:
        fits = shown == expected
    if not fits or action_shape != (windows.action_dim,):
        raise ValueError(
            f"the demonstrations have observations {expected} and actions of {windows.action_dim} numbers, and "
            f"{config.env.id} with {config.env.options} has {shown} and {action_shape}: let dataset.obs and "
            "env.options.obs_mode agree, or roll nothing out with env.id=null"
        )
    for name in cameras:
        if (part := space[name]).dtype != np.uint8:
            raise ValueError(
                f"{config.env.id} shows {name!r} as {part.dtype} from {part.low.min():g} to {part.high.max():g}, and "
                "pictures are uint8, 0 to 255: let the environment give them so, or roll nothing out with env.id=null"
            )


main = command("train", Config, run)

if __name__ == "__main__":
    main()
