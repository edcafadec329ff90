"""Training on with more episodes: the step that filtered cloning and corrections share."""

from __future__ import annotations

import functools
from dataclasses import replace
from pathlib import Path

from diffpolicy.config import DatasetConfig, FoundInData, ObservationConfig
from diffpolicy.datasets import ReplayBuffer, load_training_episodes
from diffpolicy.evaluation.observers import ACTION
from diffpolicy.improvement.base import Work, trained
from diffpolicy.policies import Policy
from diffpolicy.policies.models.around import AroundModel
from diffpolicy.util.errors import require


def train_on(work: Work, more: ReplayBuffer, demonstrations: bool, from_scratch: bool) -> tuple[Path, float]:
    """Clone the demonstrations and more episodes, and return the checkpoint and the seconds of training.

    The demonstrations are those that the policy was trained on, with their mirror images and what else was made of
    them; of a policy that was improved before, they hold the episodes of the earlier rounds too. All are written to
    one recording, `data.zarr` in the round's folder, which the config of the new checkpoint names.

    Args:
        work: the round.
        more: further episodes with the policy's observations and "action".
        demonstrations: whether to go on cloning what was cloned before.
        from_scratch: start with new weights, and a normalizer of all the data, rather than with the policy's.
    """
    settings, policy = work.settings, work.policy()
    path = work.folder / "data.zarr"
    if not path.exists():
        _data(work, policy, more, demonstrations).save(path)
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
        resume=True,
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
    require(model.learns and not isinstance(model, AroundModel), given, cure=cure)


def _data(work: Work, policy: Policy, more: ReplayBuffer, demonstrations: bool) -> ReplayBuffer:
    """All episodes to clone: the policy's arrays, with the actions under their usual name."""
    keys = work.config.observation.vectors
    whole = more.with_arrays({name: more[name] for name in (*keys, ACTION)})
    if demonstrations:
        before = load_training_episodes(work.config)
        actions = before[work.config.dataset.action_key]
        whole = before.with_arrays({**{name: before[name] for name in keys}, ACTION: actions}).joined(whole)
    units = {name: unit for name, one in policy.observation.items() if (unit := one.unit) is not None}
    attrs = {"fps": work.task.fps, **({"units": units} if units else {})}
    return ReplayBuffer({name: whole[name] for name in whole.keys()}, whole.episode_ends, attrs)  # noqa: SIM118
