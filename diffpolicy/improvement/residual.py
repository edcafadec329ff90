"""A small network learns off-policy to change what a policy does, or the noise that it starts from, within bounds."""

from __future__ import annotations

import functools
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from diffpolicy.config import RunConfig
from diffpolicy.datasets import ReplayBuffer, load_training_episodes
from diffpolicy.evaluation import INFERENCE_BLOCK
from diffpolicy.evaluation.adapters import EnvFactory
from diffpolicy.evaluation.observers import ACTION
from diffpolicy.evaluation.task import TaskSpec
from diffpolicy.improvement.base import Improvement, Round, Work, kept, learn, trained
from diffpolicy.improvement.experience import DONE, ROLLOUTS, gather
from diffpolicy.improvement.replay import REWARDS, Replay, Source, chunks_of
from diffpolicy.policies import Agent, Policy, build_model, load_policy
from diffpolicy.policies.models.around import AroundModel
from diffpolicy.policies.models.residual import ResidualModel
from diffpolicy.util import names
from diffpolicy.util.device import pick_device
from diffpolicy.util.errors import require
from diffpolicy.util.stats import wilson

_NAME = "residual"
_CHUNKS = "chunks.safetensors"


class Residual(Improvement):
    """Learn a change of the policy's actions from its own rollouts, round by round; see `ResidualModel`.

    Args:
        explore: standard deviation of what is added to the change while rolling out, as a part of its bound.
        reward: "success", 1 when the task is done and 0 otherwise; or "environment", its own, see `replay.chunked`.
        discount: of a control step, in (0, 1).
        demonstrations: keep them in the replay, as episodes that succeed in the end; None does so where they fit:
            with reward=success, and actions that are changed.
        bound: see `ResidualModel`, and so the others; None is 0.1 for actions, and 1 for noise.
    """

    place, usual = "actions", 0.1

    def __init__(
        self,
        explore: float = 0.3,
        reward: str = "success",
        discount: float = 0.99,
        demonstrations: bool | None = None,
        bound: float | None = None,
        width: int = 256,
        warmup: int = 1000,
        keep: float = 0.03,
        smoothing: float = 0.1,
        rate: float = 0.005,
    ) -> None:
        require(0 < discount < 1, f"options.discount={discount}", "a number in (0, 1)")
        require(explore >= 0, f"options.explore={explore}", "a number from 0 on")
        names.check("options.reward", reward, REWARDS)
        fits = reward == "success" and self.place == "actions"
        given = f"options.demonstrations=true with reward={reward} and the {self.place} changed"
        require(fits or not demonstrations, given, "reward=success and the actions", "leave it out")
        self.explore, self.reward, self.discount = explore, reward, discount
        self.demonstrations = fits if demonstrations is None else demonstrations
        bound = self.usual if bound is None else bound
        self.options = {"bound": bound, "width": width, "warmup": warmup, "keep": keep}
        self.options |= {"smoothing": smoothing, "rate": rate}

    def check(self, policy: Policy, make_env: EnvFactory, task: TaskSpec) -> None:
        super().check(policy, make_env, task)
        model = policy.model
        own = isinstance(model, ResidualModel) and model.place == self.place
        given, cure = f"a policy of {type(model).__name__}", "improve the policy that it was made of"
        require(own or not isinstance(model, AroundModel), given, f"one whose {self.place} nothing changes", cure)
        draws = self.place != "noise" or "noise" in model.supported_execution
        require(draws, f"{type(model).__name__} does not start from noise", "a method that does, such as flow")

    def improve(self, work: Work) -> Round:
        run = self._run(work)
        policy = self._explorer(run, work)
        experience = gather(work, Agent(policy), by=self._by)
        found = {"success_before": wilson(int(experience.succeeded.sum()), experience.buffer.n_episodes)}
        train_it = functools.partial(self._train, work, run, policy)
        last, seconds = trained(work.folder, work.settings.training.steps, train_it)
        return Round(last, {**experience.costs, "training_seconds": seconds}, found)

    @property
    def _by(self) -> str:
        return f"the policy, its {self.place} explored by {self.explore} of {self.options['bound']}"

    def _run(self, work: Work) -> RunConfig:
        config, settings = work.config, work.settings
        base = config.method["base"] if config.method["name"] == _NAME else config.method
        method = {"name": _NAME, "base": base, "actions": config.policy.action_horizon, "place": self.place}
        run = replace(config, run_dir=str(work.folder), seed=settings.seed, training=settings.training)
        changed = {"method": {**method, **self.options}, "env": work.make_env.config}
        return replace(run, init_from=str(work.start.path), **changed)

    def _explorer(self, run: RunConfig, work: Work) -> Policy:
        """The policy of the round before, with a change, of no effect at first, that is explored."""
        torch.manual_seed(run.seed)
        policy = load_policy(work.start.path, device=work.settings.device, block=INFERENCE_BLOCK)
        before, model = policy.model, build_model(run, policy.observation, policy.action_dim)
        assert isinstance(model, ResidualModel)
        if isinstance(before, ResidualModel):
            model.load_state_dict(before.state_dict())
        else:
            model.base.load_state_dict(before.state_dict())
        model.explore = self.explore
        policy.model = model.to(before.device).eval()
        return policy

    def _train(self, work: Work, run: RunConfig, policy: Policy) -> Path:
        device = pick_device(work.settings.device)
        replay = Replay(self._parts(work, run, policy), device)
        return learn(work, run, policy.model, replay, device, "float32")

    def _parts(self, work: Work, run: RunConfig, policy: Policy) -> list[dict[str, Tensor]]:
        """The chunks of all rounds so far, and of the demonstrations; what was made of them before is read again."""
        root, found = work.folder.parent, []
        if self.demonstrations:
            path = root / f"demonstrations_{_CHUNKS}"
            found.append(
                kept(path, lambda: self._chunks(Source(_demonstrations(work.config), policy, rolled_out=False)))
            )
        for number in range(1, work.number + 1):
            folder = root / f"round_{number}"
            found.append(kept(folder / _CHUNKS, lambda folder=folder: self._rolled_out(folder, policy)))
        return found

    def _rolled_out(self, folder: Path, policy: Policy) -> dict[str, Tensor]:
        return self._chunks(Source(ReplayBuffer.open(folder / ROLLOUTS), policy))

    def _chunks(self, source: Source) -> dict[str, Tensor]:
        return chunks_of(source, self.discount, self.reward)


class Steering(Residual):
    """Learn a change of the noise that the policy starts from, so that every chunk stays one of its own."""

    place, usual = "noise", 1.0


def _demonstrations(config: RunConfig) -> ReplayBuffer:
    """The episodes that the policy was trained on, each of which does the task at its last step."""
    episodes = load_training_episodes(config)
    done = np.zeros(episodes.n_steps, np.uint8)
    done[np.asarray(episodes.episode_ends) - 1] = 1
    keys = config.observation.vectors
    arrays = {**{name: episodes[name] for name in keys}, ACTION: episodes[config.dataset.action_key], DONE: done}
    return episodes.with_arrays(arrays)
