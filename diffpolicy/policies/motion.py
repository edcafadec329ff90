"""How what is observed follows the actions, so that pending actions can be looked ahead.

A robot that goes where it is told answers an action with a delay of its own. Near any posture it is a linear system
of second order, whose numbers follow x_{k+1} = c₁·x_k + c₂·x_{k-1} + b₀·a_k + b₁·a_{k-1}; the four are fitted to the
recording. Rolling the robot's own numbers forward so, and leaving the rest of the observation as it is, is what VLASH
(2025) does for delays.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import numpy as np

from diffpolicy.datasets.spec import Observation
from diffpolicy.policies.chunking import Decided
from diffpolicy.util.errors import require


@final
@dataclass(frozen=True)
class Motion:
    """Which numbers of the observation's vector follow the action, and how.

    Args:
        columns: of the vector, one for each number of the action.
        response: (A, 4), c₁, c₂, b₀ and b₁ of each; None if it was not fitted.
        error: (A,), root mean square of what the fit leaves of a step, in the numbers' units.
    """

    columns: tuple[int, ...]
    response: np.ndarray | None = None
    error: np.ndarray | None = None

    @classmethod
    def fit(cls, columns: Sequence[int], episodes: Sequence[tuple[np.ndarray, np.ndarray]]) -> Motion:
        """Return the motion of recorded observations (L, D) and actions (L, A), by least squares.

        Raises:
            ValueError: no episode of three steps.
        """
        long = [(obs[:, list(columns)].astype(np.float64), acts) for obs, acts in episodes if len(obs) > 2]
        require(long, "no episode of at least three steps", "a recording to fit the robot's motion to")
        parts = [(np.stack([x[1:-1], x[:-2], a[1:-1], a[:-2]], -1), x[2:]) for x, a in long]
        given, after = (np.concatenate(part) for part in zip(*parts, strict=True))
        response = np.stack([np.linalg.lstsq(given[:, i], after[:, i], rcond=None)[0] for i in range(len(columns))])
        left = after - np.einsum("nai,ai->na", given, response)
        return cls(tuple(columns), response, np.sqrt(np.square(left).mean(0)))

    def forward(self, vectors: np.ndarray, decided: Decided) -> np.ndarray:
        """Return the last observations (T_o, D) as they will be when the pending actions have been executed.

        Args:
            vectors: (T_o, D), oldest first.
            decided: what was executed and is pending.
        """
        assert self.response is not None
        columns, pending = list(self.columns), np.asarray(decided.pending, np.float64)
        now = vectors[-1, columns].astype(np.float64)
        before = vectors[-2, columns].astype(np.float64) if len(vectors) > 1 else now
        last = np.asarray(decided.executed[-1], np.float64) if len(decided.executed) else now  # at rest
        path = [before, now]
        for action in pending:
            seen = np.stack([path[-1], path[-2], action, last], -1)
            path.append((seen * self.response).sum(-1))
            last = action
        count = len(vectors)
        ahead = np.concatenate([vectors, np.repeat(vectors[-1:], len(pending), axis=0)])[-count:]
        ahead[:, columns] = np.concatenate([vectors[:, columns], np.reshape(path[2:], (-1, len(columns)))])[-count:]
        return ahead


def rolled_forward(motion: Motion | None, obs: Observation, decided: Sequence[Decided | None]) -> np.ndarray:
    """Return the observations (B, T_o, D) of episodes as of the step after their last pending action.

    Raises:
        ValueError: the motion is not known, or was not fitted.
    """
    given, cure = "execution.roll_forward, and it is not known which numbers follow the action", "leave it out"
    fitted = motion is not None and motion.response is not None
    require(fitted, given, 'an environment that declares "follows" in its task', cure)
    assert motion is not None and isinstance(obs, np.ndarray)
    pairs = zip(obs, decided, strict=True)
    return np.stack([motion.forward(own, one) if one is not None and len(one.pending) else own for own, one in pairs])


def after_pending(actions: np.ndarray, decided: Sequence[Decided | None] | None) -> np.ndarray:
    """Return the actions (B, n, A) from now on, of chunks that were planned from the last pending action on."""
    if decided is None:
        return actions
    none = actions[0, :0]
    pending = [none if one is None else one.pending for one in decided]
    return np.stack([np.concatenate([*both])[: actions.shape[1]] for both in zip(pending, actions, strict=True)])
