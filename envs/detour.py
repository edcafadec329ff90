"""Detour: a puck to be pushed around an obstacle, left or right: the smallest task on which averaging fails."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .base import PushingEnv
from .geometry import Point, Region
from .phrases import Phrases
from .pucks import PUCK_RADIUS, ZONE_RADIUS, PuckEnv
from .tasks import SUCCESS_COVERAGE, task_facts
from .zones import disc_fraction

PHRASES = Phrases(
    words={"left": {"side": "left"}, "right": {"side": "right"}},
    taught=(
        "push the block around the obstacle on the {side}",
        "go {side}",
        "take the way on the {side} side",
        "pass the obstacle on its {side} side",
    ),
    held_out=("push the block around on the {side} side", "take the {side} way around the obstacle"),
)

ZONE: Point = (256.0, 100.0)
OBSTACLE = Region.of([[(221.0, 225.0), (291.0, 225.0), (291.0, 265.0), (221.0, 265.0)]])
MIDDLE_X, MIDDLE_Y = 256.0, 245.0
"""Center of the obstacle, px. A puck with a smaller y than MIDDLE_Y has passed it, on the side where it crossed."""


class DetourEnv(PuckEnv):
    """
    ## Description
    A round agent on a table of 512 × 512 px, seen from above, pushes a puck of radius 25 px into a round zone of
    radius 45 px behind an obstacle. Passing it on the left and on the right are equally good; the mean of the two
    runs into it. The y axis points down. The agent, a tool held from above, reaches over the obstacle, the puck does
    not. The puck does not turn and sticks to the agent that pushes it, so that the task is to choose a mode and not
    to balance. The agent follows its target by PD control; the puck moves only while it is pushed. One step is 0.1 s
    of control (10 Hz), ten physics steps of 0.01 s.

    ## Observation Space
    Chosen by `obs_mode`.

    `"state"`: `Box`, shape (4,), float32

    | Num | Observation | Min | Max | Unit |
    |-----|-------------|-----|-----|------|
    | 0   | agent x     | 0   | 512 | px   |
    | 1   | agent y     | 0   | 512 | px   |
    | 2   | puck x      | -70 | 582 | px   |
    | 3   | puck y      | -70 | 582 | px   |

    `"pixels"`: `Dict`

    | Key     | Observation                  | Shape       | Dtype   | Min | Max | Unit |
    |---------|------------------------------|-------------|---------|-----|-----|------|
    | `image` | RGB image from above         | (96, 96, 3) | uint8   | 0   | 255 | -    |
    | `agent` | agent x, y                   | (2,)        | float32 | 0   | 512 | px   |

    ## Action Space
    `Box(0, 512, (2,), float32)`: the agent's target x and y, px. Targets out of range are clipped. Another shape, or
    a value that is not finite, raises `ValueError`.

    ## Rewards
    `clip(coverage / 0.95, 0, 1)`, where the coverage is the fraction of the puck's area that lies in the zone.

    `info` holds `coverage`, `success` and `is_success` (coverage above 0.95), `mode` (`"left"` or `"right"`, the side
    on which the puck last passed the obstacle's middle, or `""`), `state` (the four numbers of `"state"`, float64)
    and `n_contacts` (contact points, averaged over the physics steps and rounded up).

    ## Starting State
    From the environment's own generator: puck x uniform in 236 to 276, y in 390 to 420; agent x uniform in 156 to
    356, y in 470 to 490.

    Option of `reset`: `state`, four numbers within the bounds of `"state"`. Any `info["state"]` is accepted; see
    `reset` for what it does not restore. Bodies that overlap deeper than pushing can bring about raise `ValueError`.

    ## Episode End
    Terminated when the coverage exceeds 0.95. Truncated after 200 steps by the time limit of `gymnasium.make`.

    ## Arguments
    * `obs_mode`: `"state"` or `"pixels"`.
    * `render_mode`: `None`, `"rgb_array"` (`render` returns the image) or `"human"` (a window, which needs pygame:
      `pip install "diffpolicy[human]"`).
    * `render_size`: side of the rendered image, px.
    * `told`: every episode asks for one of the modes, drawn at random, in words. Observations are then a dict with
      these words as `task` beside the others (`state` for the numbers). Success and reward count only in the mode
      that was asked for; `info` holds it as `asked`, and whether it is the present one as `obeyed`. The option `task`
      of `reset` asks in words of the environment's own.
    * `phrasings`: `"taught"`, the words of demonstrations, or `"held_out"`, others made of the same vocabulary.

    ## Version History
    * v0: original version.
    """

    phrases = PHRASES
    modes = ("left", "right")
    metadata = PushingEnv.metadata | {"task": task_facts({"puck": (2, 3)}, modes)}
    pucks = ("puck",)
    zones = (ZONE,)
    margin = 70.0  # the agent is within the world, and a puck that it pushes is 40 px from it
    obstacles = (OBSTACLE,)

    def _draw(self, draw: np.random.Generator) -> list[float]:
        puck = draw.uniform(236.0, 276.0), draw.uniform(390.0, 420.0)
        return [draw.uniform(156.0, 356.0), draw.uniform(470.0, 490.0), *puck]

    def _follow(self, state: NDArray[np.float64]) -> None:
        self._mode, self._past = "", bool(state[3] < MIDDLE_Y)

    def _judge(self, state: NDArray[np.float64]) -> tuple[float, Mapping[str, Any]]:
        x, y = state[2:].tolist()
        if (y < MIDDLE_Y) != self._past:
            self._past = not self._past
            self._mode = self.modes[x > MIDDLE_X] if self._past else ""
        coverage = disc_fraction(math.dist((x, y), ZONE), PUCK_RADIUS, ZONE_RADIUS)
        info = {"coverage": coverage, "success": coverage > SUCCESS_COVERAGE, "mode": self._mode}
        return min(coverage / SUCCESS_COVERAGE, 1.0), info
