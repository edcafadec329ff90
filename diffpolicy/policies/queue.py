"""The actions of one episode: what was executed, what is pending, and when the next chunk is asked for."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import final

import numpy as np
import torch

from diffpolicy.config import ExecutionConfig
from diffpolicy.datasets.spec import Observation, stack
from diffpolicy.policies.chunking import Decided
from diffpolicy.policies.execution import delay_of, longest_delay
from diffpolicy.policies.policy import Policy
from diffpolicy.util.seeds import generator


def hold(policy: Policy, obs: Observation) -> np.ndarray | None:
    """Return the action (A,) that holds a robot where it is, of what it observes now; None if that is not known."""
    if policy.motion is None:
        return None
    vector, _ = policy.observation.split(stack([obs]), None)
    return vector.reshape(-1)[list(policy.motion.columns)].astype(np.float32)


HELD = -1
"""The place of an action that no chunk planned."""


@final
class ActionQueue:
    """Executes chunks, each from its delay on; `due` counts the steps until the next one is asked for.

    Args:
        key: of the episode's random numbers.
        execution: how chunks are executed.
        action_dim: A.
        keep: T_o - 1, executed actions to remember.
        changes: whether actions are not carried out as they are planned, see `Corrects`.
    """

    def __init__(
        self, key: tuple[int, ...], execution: ExecutionConfig, action_dim: int, keep: int, changes: bool
    ) -> None:
        self.due = 0
        self._key, self._execution, self._dim = key, execution, action_dim
        self._delay = longest_delay(execution.delay)
        self._as_planned = not (self._delay or execution.action_noise or changes)
        self._pending: deque[tuple[int, np.ndarray]] = deque()  # with their places in their chunks, from now on
        self._executed: deque[np.ndarray] = deque(maxlen=keep)
        self._chunks = self._steps = 0

    def decided(self, hold: np.ndarray | None) -> Decided | None:
        """Return what was executed and is pending when a chunk is asked for; None where it is as it was planned.

        Args:
            hold: the action (A,) with which the robot stays where it is until the first chunk takes effect; None
                waits for that chunk.
        """
        if self._as_planned:
            return None
        if not self._chunks and hold is not None:
            self._pending = deque([(HELD, hold)] * self._delay)
        pending = [action for _, action in self._pending]
        return Decided(self._stack(self._executed), self._stack(pending[: self._delay]))

    def put(self, actions: np.ndarray, every: int) -> None:
        """Take a chunk's actions from now on, (T_a + delay, A), which take effect after the chunk's delay.

        Args:
            actions: of the chunk.
            every: T_a, steps until the next chunk is asked for.
        """
        kept = list(self._pending)[: delay_of(self._execution.delay, *self._key, self._chunks)]
        self._pending = deque([*kept, *list(enumerate(actions))[len(kept) :]])
        self._chunks, self.due = self._chunks + 1, every

    def next(self) -> tuple[int, np.ndarray]:
        """Return the next action (A,) as it was planned, and for how many steps after its chunk was asked for.

        HELD stands for an action of no chunk.
        """
        return self._pending.popleft()

    def carried_out(self, action: np.ndarray) -> np.ndarray:
        """Return an action (A,) with the error with which it is carried out, and remember it."""
        if noise := self._execution.action_noise:
            draw = generator("action noise", *self._key, self._steps)
            action = action + noise * torch.randn(self._dim, generator=draw).numpy()
        self._executed.append(action)
        self.due, self._steps = self.due - 1, self._steps + 1
        return action

    def _stack(self, actions: Sequence[np.ndarray] | deque[np.ndarray]) -> np.ndarray:
        return np.stack(list(actions)) if actions else np.empty((0, self._dim), np.float32)
