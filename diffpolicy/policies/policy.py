"""What a robot calls: an observation history in, a chunk of actions out.

    policy.reset(slots, seeds)                 slots: which of the robots or environments begin anew
    policy.predict(obs, slots) -> chunk        obs (B, T_o, D) -> (B, T_a, A), numpy, in the environment's units

An observation with pictures is a mapping: under each name (B, T_o, ...), pictures (B, T_o, H, W, C) uint8.
Row i of a call belongs to slot slots[i] (0 … B − 1 unless said otherwise). The noise of a chunk is a function of
its episode's seed and of its number within the episode alone, so that an episode does not depend on which others
were run beside it. A policy predicts T_p actions from T_o − 1 steps ago on, of which the T_a from now on are
returned to be executed before it is asked again (receding horizon control; Chi et al. 2023, section 2.3). What else
binds a chunk to those before it in its episode is said by an `execution.Execution`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from typing import final

import numpy as np
import torch
from torch import Tensor

from diffpolicy.datasets.normalizer import Normalizer
from diffpolicy.policies.actors import Actor
from diffpolicy.policies.execution import Execution, Executor
from diffpolicy.policies.observations import Cameras, Observation, described, stack


@final
class Policy:
    """An actor with its normaliser and horizons.

    Args:
        actor: draws normalised action trajectories.
        normalizer: fitted on "obs" and "action".
        obs_horizon, horizon, action_horizon: T_o, T_p, T_a in control steps; T_o - 1 + T_a <= T_p.
        block: rows per network call, the last block padded; None takes all rows at once. Arithmetic can differ
            in the last bit between batch sizes; with a fixed block it does not.
        cameras: what it sees beside numbers; None if that is nothing.
        execution: how chunks are executed beside T_a; None executes each as it was drawn.

    Raises:
        ValueError: horizons, or an execution, that do not fit together or the actor.
    """

    def __init__(
        self,
        actor: Actor,
        normalizer: Normalizer,
        obs_horizon: int = 2,
        horizon: int = 16,
        action_horizon: int = 8,
        block: int | None = None,
        cameras: Cameras | None = None,
        execution: Execution | None = None,
    ) -> None:
        if min(obs_horizon, action_horizon) < 1 or obs_horizon - 1 + action_horizon > horizon:
            raise ValueError(
                f"the executed actions must lie within the predicted ones: T_o - 1 + T_a <= T_p with all "
                f"positive; given T_o={obs_horizon}, T_p={horizon}, T_a={action_horizon}"
            )
        if block is not None and block < 1:
            raise ValueError(f"block must be a positive number of rows or None, not {block}")
        self.actor, self.normalizer = actor, normalizer
        self.obs_horizon, self.horizon, self.action_horizon = obs_horizon, horizon, action_horizon
        self.block, self.cameras = block, cameras
        # network calls of the last chunk; with a warm start, once there was one, of the last that followed another
        self.calls = 0
        self._executor = Executor(execution or Execution(), actor.takes, obs_horizon, horizon, action_horizon)
        self._episodes: dict[int, tuple[tuple[int, ...], int]] = {}  # slot -> (key of its episode, chunks so far)

    @property
    def execution(self) -> Execution:
        """How chunks are executed beside T_a."""
        return self._executor.execution

    @property
    def obs_dim(self) -> int:
        """D, numbers per observation."""
        return self.normalizer.dim("obs")

    @property
    def action_dim(self) -> int:
        """A, numbers per action."""
        return self.normalizer.dim("action")

    def reset(self, slots: Sequence[int] | None = None, seeds: Sequence[int] | None = None) -> None:
        """Begin new episodes in `slots` (all of them if None), whose noise is keyed by `seeds`.

        Without seeds an episode is keyed by its slot and by how many the slot had before it.

        Raises:
            ValueError: as many seeds as slots are needed, or a negative one.
        """
        if seeds is None:
            for slot in list(self._episodes) if slots is None else slots:
                (*_, count), _ = self._episodes.get(slot, ((slot, -1), 0))
                self._begin(slot, (slot, count + 1))
            return
        slots = range(len(seeds)) if slots is None else slots
        if len(seeds) != len(slots) or any(seed < 0 for seed in seeds):
            raise ValueError(f"need one seed >= 0 per slot; given {len(slots)} slots and seeds {list(seeds)[:8]}")
        for slot, seed in zip(slots, seeds, strict=True):
            self._begin(slot, (int(seed),))

    def _begin(self, slot: int, key: tuple[int, ...]) -> None:
        self._episodes[slot] = (key, 0)
        self._executor.forget(slot)

    def predict(self, obs: Observation, slots: Sequence[int] | None = None) -> np.ndarray:
        """The next chunk of actions for each row, all of which are to be executed before the call that follows.

        Args:
            obs: the last T_o observations, oldest first, (B, T_o, D), in the environment's units, or a mapping. At
                the start of an episode the first one stands for those before it.
            slots: the slot of each row; 0 … B - 1 if None.

        Returns:
            (B, T_a, A) float32 in the environment's units.

        Raises:
            ValueError: a wrong shape, or NaN or infinity in `obs`.
            TypeError: pictures that are not uint8, numbers alone where there are cameras, or a mapping where not.
        """
        _, actions = self._next(obs, slots)
        return self._in_units(actions)

    def trajectories(self, obs: Observation, slots: Sequence[int] | None = None) -> np.ndarray:
        """As `predict`, but the new chunk as drawn, (B, T_p, A): the first T_o - 1 actions are of steps gone by."""
        chunks, _ = self._next(obs, slots)
        return self._in_units(chunks)

    def _next(self, obs: Observation, slots: Sequence[int] | None) -> tuple[Tensor, Tensor]:
        """New chunks (B, T_p, A) and the actions to execute (B, T_a, A), normalised."""
        numbers, pictures = self.split(obs, self.obs_horizon)
        slots = _one_per_row(slots, len(numbers))
        generators = [self._next_generator(slot) for slot in slots]
        device = self.actor.device
        cond = self.normalizer.normalize("obs", torch.from_numpy(numbers).to(device)).flatten(1)
        seen = {"cond": cond} | {name: torch.from_numpy(values).to(device) for name, values in pictures.items()}
        chunks = cond.new_empty((len(cond), self.horizon, self.action_dim))
        for rows in self._executor.parts(slots):
            block = self.block or len(rows)
            for i in range(0, len(rows), block):
                part = rows[i : i + block]
                padded = part + part[:1] * (block - len(part))
                spare = [torch.Generator().manual_seed(0) for _ in padded[len(part) :]]
                plan = self._executor.plan([slots[row] for row in padded])
                given = {name: values[padded] for name, values in seen.items()}
                drawn = self.actor.act(
                    given if self.cameras else given["cond"], [generators[row] for row in part] + spare, plan
                )
                chunks[part] = drawn[: len(part)]
                if plan.start == self.execution.warm_start or not self.calls:
                    self.calls = self.actor.calls
        return chunks, self._executor.execute(slots, chunks)

    def _in_units(self, actions: Tensor) -> np.ndarray:
        return self.normalizer.unnormalize("action", actions).cpu().numpy()

    def _next_generator(self, slot: int) -> torch.Generator:
        episode, chunk = self._episodes.get(slot, ((slot, 0), 0))
        self._episodes[slot] = (episode, chunk + 1)
        if self.execution.noise == "episode":
            chunk = 0
        key = int(np.random.SeedSequence([*episode, chunk]).generate_state(1, np.uint64)[0])
        return torch.Generator().manual_seed(key)

    def split(self, obs: Observation, steps: int | None) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """The numbers of `steps` observations, (B, steps, D) float32, and their pictures; checked as by `predict`.

        For `steps`=None see `Cameras.split`.
        """
        obs, pictures = self.cameras.split(obs, steps) if self.cameras else (self.array(obs), {})
        expected = (steps or 1, self.obs_dim)
        if obs.ndim != 3 or obs.shape[1:] != expected:
            hint = "; add the batch axis with obs[None]" if obs.shape == expected else ""
            if self.cameras:
                hint = f", of {', '.join(map(repr, self.cameras.numbers))} together"
            raise ValueError(
                f"obs has shape {obs.shape}; this policy takes (B, T_o, D) = (B, {expected[0]}, {expected[1]})" + hint
            )
        obs = obs.astype(np.float32)
        if not np.isfinite(obs).all():
            row = int(np.argmax(~np.isfinite(obs).all(axis=(1, 2))))
            raise ValueError(f"obs holds NaN or infinity (row {row}); check the sensors before acting on it")
        return obs, pictures

    def array(self, obs: Observation) -> np.ndarray:
        """`obs` as an array, where this policy sees numbers alone; a TypeError for a mapping."""
        if isinstance(obs, Mapping):
            raise TypeError(
                f"this policy was trained without pictures: give one array of {self.obs_dim} numbers a row, not "
                f"{described(obs)}"
            )
        return np.asarray(obs)


def _one_per_row(slots: Sequence[int] | None, rows: int) -> Sequence[int]:
    slots = range(rows) if slots is None else slots
    if len(slots) != rows or len(set(slots)) != rows:
        raise ValueError(f"need one slot per row of obs, each once; given {list(slots)[:8]} for {rows} rows")
    return slots


@final
class ActionQueue:
    """One action at a time for one or many control loops: asks for a new chunk where a queue has run dry.

    queue = ActionQueue(policy); queue.reset(); action = queue.act(obs[None])[0]
    """

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self._history: dict[int, deque[Observation]] = {}
        self._chunks: dict[int, deque[np.ndarray]] = {}

    def reset(self, slots: Sequence[int] | None = None, seeds: Sequence[int] | None = None) -> None:
        """Begin new episodes in `slots` (all if None): forget their observations and actions. See `Policy.reset`."""
        self.policy.reset(slots, seeds)
        for slot in list(self._history) if slots is None else slots:
            self._history.pop(slot, None)
            self._chunks.pop(slot, None)

    def act(self, obs: Observation, slots: Sequence[int] | None = None) -> np.ndarray:
        """The next action of each row: obs (B, D), or a mapping, as just observed -> (B, A).

        To be called at every control step, since the history of observations is kept here.

        Raises:
            ValueError, TypeError: a wrong shape or non-finite values, as `Policy.predict`.
        """
        rows = self._seen(obs) if self.policy.cameras else self._numbers(obs)
        slots = _one_per_row(slots, len(rows))
        t_o = self.policy.obs_horizon
        for slot, row in zip(slots, rows, strict=True):
            past = self._history.setdefault(slot, deque([row] * t_o, maxlen=t_o))
            past.append(row)
        dry = [slot for slot in slots if not self._chunks.get(slot)]
        if dry:
            histories = stack([stack(self._history[slot]) for slot in dry])
            for slot, chunk in zip(dry, self.policy.predict(histories, dry), strict=True):
                self._chunks[slot] = deque(chunk)
        return np.stack([self._chunks[slot].popleft() for slot in slots])

    def _seen(self, obs: Observation) -> list[Observation]:
        numbers, _ = self.policy.split(obs, None)
        used = [*self.policy.cameras.numbers, *self.policy.cameras.shapes]
        # copies: a driver may fill the same buffers again
        return [{name: np.array(obs[name][row]) for name in used} for row in range(len(numbers))]

    def _numbers(self, obs: Observation) -> np.ndarray:
        obs = np.array(self.policy.array(obs), np.float32)  # a copy: a driver may fill the same buffer again
        if obs.ndim != 2 or obs.shape[1] != self.policy.obs_dim:
            raise ValueError(
                f"obs has shape {obs.shape}; expected (B, D) = (B, {self.policy.obs_dim}), one current "
                "observation per row"
            )
        if not np.isfinite(obs).all():
            raise ValueError("obs holds NaN or infinity; check the sensors before acting on it")
        return obs
