"""How sure a policy is, by how far chunks are apart that it samples from one observation; and whom it then asks.

Where demonstrations agree, samples do, whatever noise they start from; where training saw little, they scatter.
Several ways of doing a task scatter, too, so that a threshold is to be found by what it does: see
`scripts/lab/study_doubt.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from torch import Tensor

from diffpolicy.util.errors import require

Ask = Callable[[int, Any], np.ndarray | None]
"""(environment, its observations) -> actions (n, A) from now on of whoever was asked, as many as a chunk's: T_a, and
the longest delay. Or None, and the robot holds."""


def spread_of(chunks: Tensor, candidates: int, count: int, start: int, steps: int) -> Tensor:
    """Return how far the candidates of each of `count` episodes are apart, (count,), in normalized units.

    It is the square root of their variance, averaged over the numbers of the actions that are executed.

    Args:
        chunks: (at least count·candidates, T_p, A), the candidates of an episode side by side.
        candidates: of each episode.
        count: of episodes.
        start: the first action that is executed, T_o - 1 and the longest delay.
        steps: T_a, how many are.
    """
    executed = chunks[: count * candidates, start : start + steps].unflatten(0, (count, candidates))
    return executed.var(1, correction=0).mean((1, 2)).sqrt()


def answered(
    env: int, obs: Any, actions: np.ndarray, ask: Ask | None, hold: np.ndarray | None, spread: float
) -> np.ndarray:
    """Return the actions (n, A) to execute in place of a chunk's that the policy is not sure of.

    Args:
        env: number of the environment.
        obs: the observations of the chunk.
        actions: (n, A) of the chunk.
        ask: who is asked; None is nobody, and the robot holds.
        hold: the action (A,) with which it does; None if that is not known.
        spread: of the chunk.

    Raises:
        ValueError: nobody answers, and it is not known how the robot holds; or an answer of another shape.
    """
    answer = None if ask is None else ask(env, obs)
    if answer is None:
        given = f"a chunk of environment {env} that the policy is not sure of (spread {spread:.3g}), and no answer"
        cure = "make Agent(policy, ask=FUNCTION), which returns actions"
        require(hold is not None, given, "an environment in which it is known how the robot holds", cure)
        answer = np.broadcast_to(np.asarray(hold), actions.shape)
    answer = np.asarray(answer, np.float32)
    require(answer.shape == actions.shape, f"an answer of shape {answer.shape}", f"{actions.shape}, from now on")
    require(np.isfinite(answer).all(), "an answer with NaN or infinity", "finite actions")
    return answer
