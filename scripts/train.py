"""Train a policy from demonstrations:

diffpolicy-train task=pusht_keypoints method=flow run_dir=RUN max_minutes=15 seed=0

With several processes: torchrun --nproc-per-node 2 scripts/train.py …
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from omegaconf import MISSING

from diffpolicy.datasets.build import DatasetConfig, load_windows
from diffpolicy.datasets.windows import BatchSampler, WindowDataset
from diffpolicy.evaluation import EnvConfig, environment, episode_resets, rollout, summarize
from diffpolicy.evaluation.report import draw_training
from diffpolicy.evaluation.rollout import INFERENCE_BLOCK, VALIDATION_EPISODES, VALIDATION_SEED
from diffpolicy.policies import Policy, PolicyConfig, build_actor
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
    net: dict[str, Any] = field(default_factory=dict)
    training: TrainConfig = field(default_factory=TrainConfig)


def run(config: Config) -> None:
    with process_group(config.device) as (ranks, device):
        _run(config, ranks, device)


def _run(config: Config, ranks: Ranks, device: torch.device) -> None:
    horizons = dataclasses.asdict(config.policy)
    windows = load_windows(config.dataset, **horizons, data_root=config.data_root, device=device)
    torch.manual_seed(config.seed)
    record = dataclasses.asdict(config)
    if config.env.id:
        _check_fit(config, windows.train)
    actor = build_actor(record, windows.train.obs_dim, windows.train.action_dim)
    sampler = BatchSampler(len(windows.train), config.training.batch_size, config.seed, device)
    rows = ranks.rows(config.training.batch_size)

    def batch(source: WindowDataset, indices: torch.Tensor) -> dict[str, torch.Tensor]:
        raw = source.batch(indices)
        normalized = {key: windows.normalizer.normalize(key, value) for key, value in raw.items()}
        return {"data": normalized["action"], "cond": normalized["obs"].flatten(1)}

    def evaluate(averaged: Any, step: int) -> dict[str, float]:
        policy = Policy(averaged, windows.normalizer, **horizons, block=INFERENCE_BLOCK)
        make_env = environment(config.env.id, config.env.options)
        resets = ranks.deal(episode_resets(VALIDATION_SEED, config.evaluation_episodes))
        workers = config.evaluation_workers if ranks.world == 1 else 0  # the ranks are workers already
        episodes = rollout(policy, make_env, resets, workers=workers) if resets else []
        found = ranks.collect([episode.row() for episode in episodes])
        return {name: value["mean"] for name, value in summarize(found).items()}

    held_out = windows.validation
    if ranks.writes:
        print(
            f"{len(windows.train)} windows, {sum(p.numel() for p in actor.parameters()) / 1e6:.1f} million "
            f"parameters, on {ranks.world} × {device.type}, into {config.run_dir}"
        )
    run_dir = Path(config.run_dir)
    last = train(
        actor,
        lambda model, samples, generator: model.loss(samples, generator),
        lambda step: batch(windows.train, sampler[step][rows]),
        config.training,
        run_dir,
        seed=config.seed,
        record=record,
        extras={"normalizer": windows.normalizer.to_tensors()},
        validation=held_out and (lambda: batch(held_out, torch.arange(min(len(held_out), 1024), device=device))),
        evaluate=evaluate if config.env.id else None,
        device=device,
        speed=config.speed,
        ranks=ranks,
        resume=config.resume,
        max_minutes=config.max_minutes,
    )
    if ranks.writes:
        draw_training(run_dir / "training.png", read_metrics(run_dir / "metrics.jsonl"))
        best = last.parent / "best"
        print(f"trained: {best if best.exists() else last}")


def _check_fit(config: Config, windows: WindowDataset) -> None:
    """Refuse an environment that shows or takes other numbers than the demonstrations, before any training."""
    if not 1 <= config.evaluation_episodes <= VALIDATION_EPISODES:
        raise ValueError(
            f"evaluation_episodes must lie in 1 to {VALIDATION_EPISODES}, the validation seeds; "
            f"given {config.evaluation_episodes}; env.id=null rolls nothing out"
        )
    env = environment(config.env.id, config.env.options)()
    shapes = (env.observation_space.shape, env.action_space.shape)
    env.close()
    if shapes != ((windows.obs_dim,), (windows.action_dim,)):
        raise ValueError(
            f"the demonstrations have observations of {windows.obs_dim} and actions of {windows.action_dim} numbers, "
            f"and {config.env.id} with {config.env.options} has {shapes[0]} and {shapes[1]}: let dataset.obs and "
            "env.options.obs_mode agree, or roll nothing out with env.id=null"
        )


main = command("train", Config, run)

if __name__ == "__main__":
    main()
