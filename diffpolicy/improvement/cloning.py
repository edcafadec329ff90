"""Training on with more episodes: the step that filtered cloning and corrections share."""

from __future__ import annotations

import functools
from dataclasses import replace
from pathlib import Path

import numpy as np

from diffpolicy.config import DatasetConfig, FoundInData, ObservationConfig
from diffpolicy.datasets import ReplayBuffer, load_training_episodes
from diffpolicy.evaluation.observers import ACTION
from diffpolicy.improvement.base import Work, begun, trained
from diffpolicy.policies import Policy
from diffpolicy.policies.models.best_of import BestOfModel
from diffpolicy.util.errors import require


def train_on(work: Work, more: ReplayBuffer | None, demonstrations: bool, from_scratch: bool) -> tuple[Path, float]:
    """Clone the demonstrations and more episodes, and return the checkpoint and the seconds of training.

    The demonstrations are those that the policy was trained on, with their mirror images and what else was made of
    them; of a policy that was improved before, they hold the episodes of the earlier rounds too. All are written to
    one recording, `data.zarr` in the round's folder, which the config of the new checkpoint names.

    Args:
        work: the round.
        more: further episodes with the policy's observations and "action"; None adds none.
        demonstrations: whether to go on cloning what was cloned before.
        from_scratch: start with new weights, and a normalizer of all the data, rather than with the policy's.

    Raises:
        ValueError: nothing to train on.
    """
    settings, policy = work.settings, work.policy()
    path = work.folder / "data.zarr"
    if not path.exists():
        before = load_training_episodes(work.config) if demonstrations else None
        parts = [part for part in (before, more) if part is not None]
        require(parts, "no demonstrations, and no other episodes", cure="roll out more of them by episodes=…")
        _joined(parts, work, policy).save(path)
    config = work.config
    observed = ObservationConfig(vectors=list(config.observation.vectors), ranges=config.observation.ranges)
    data = replace(
        config.dataset,
        name=DatasetConfig().name,
        path=str(path),
        episodes=None,
        action_key=ACTION,
        short="skip",
        validation=0.0,
        transforms=[],
    )
    run = replace(
        config,
        run_dir=str(work.folder),
        seed=settings.seed,
        resume=begun(work.folder),
        max_minutes=None,
        init_from=None if from_scratch else str(work.start.path),
        device=settings.device,
        speed=settings.speed,
        evaluation_workers=settings.workers,
        observation=observed,
        dataset=data,
        env=work.make_env.config,
        training=settings.training,
        found=FoundInData(),
    )
    return trained(work.folder, settings.training.steps, functools.partial(work.train, run))


def check_clonable(policy: Policy) -> None:
    """Refuse a policy that is not changed by cloning more episodes.

    Raises:
        ValueError: says why.
    """
    model = policy.model
    given = f"{type(model).__name__} is not trained on demonstrations"
    cure = "improve the policy that it was made of"
    require(model.learns and not isinstance(model, BestOfModel), given, cure=cure)


def _joined(parts: list[ReplayBuffer], work: Work, policy: Policy) -> ReplayBuffer:
    """All episodes of the policy's arrays, the actions under their usual name."""
    names = {name: name for name in work.config.observation.vectors} | {ACTION: work.config.dataset.action_key}
    data = {new: np.concatenate([part[old if old in part else new] for part in parts]) for new, old in names.items()}
    offsets = np.cumsum([0, *(part.n_steps for part in parts[:-1])])
    ends = np.concatenate([part.episode_ends + offset for part, offset in zip(parts, offsets, strict=True)])
    units = {name: unit for name, one in policy.observation.items() if (unit := one.unit) is not None}
    return ReplayBuffer(data, ends, {"fps": work.task.fps, **({"units": units} if units else {})})
