"""Detour: a puck to be pushed round an obstacle, left or right: the smallest task on which averaging fails."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pymunk
from numpy.typing import NDArray

from .base import AGENT_BOUNDS, SUCCESS_COVERAGE, PushingEnv, checked_state, task_facts
from .geometry import Point, Polygon, Region
from .physics import WORLD_SIZE, Table
from .zones import disc_share, outline

PUCK_RADIUS = 25.0
ZONE: Point = (256.0, 100.0)
ZONE_RADIUS = 45.0
OBSTACLE = Region.of([[(221.0, 225.0), (291.0, 225.0), (291.0, 265.0), (221.0, 265.0)]])
MIDDLE_X, MIDDLE_Y = 256.0, 245.0
"""The obstacle's middle, px. A puck whose centre is beyond MIDDLE_Y has gone past, on the side where it crossed."""
MARGIN = 70.0
"""How far outside the world the puck's centre can get, px: the agent pushes it through a wall, see `pusht`."""

_STATE_NAMES = ("agent x", "agent y", "puck x", "puck y")


class DetourEnv(PushingEnv):
    """
    ## Description
    A round agent on a table of 512 × 512 px, seen from above, pushes a puck of radius 25 px into a round zone behind
    an obstacle. Going round it on the left and on the right are equally good; the mean of the two runs into it. The
    y axis points down. The agent, a tool held from above, reaches over the obstacle, the puck does not. The puck
    does not turn and sticks to the agent that pushes it, so that the task is to choose a mode and not to balance.
    Physics and control are otherwise those of `PushTEnv`.

    ## Observation Space
    Chosen by `obs_mode`.

    `"state"`: `Box`, shape (4,), float32

    | Num | Observation | Min | Max | Unit |
    |-----|-------------|-----|-----|------|
    | 0   | agent x     | 0   | 512 | px   |
    | 1   | agent y     | 0   | 512 | px   |
    | 2   | puck x      | -70 | 582 | px   |
    | 3   | puck y      | -70 | 582 | px   |

    `"pixels"`: `Dict`, as of `PushTEnv`: `image` (96, 96, 3) uint8 and `agent` (2,) float32.

    ## Action Space
    `Box(0, 512, (2,), float32)`: the agent's target x and y, px, as of `PushTEnv`.

    ## Rewards
    `clip(coverage / 0.95, 0, 1)`, with the coverage the share of the puck's area that lies within the zone.

    `info` holds `coverage`, `success` and `is_success` (coverage above 0.95), `mode` (`"left"` or `"right"`, the side
    on which the puck last went past the obstacle's middle, or `""`), `state` (float64) and `n_contacts`.

    ## Starting State
    From the environment's own generator: puck x uniform in 236 to 276, y in 390 to 420; agent x uniform in 156 to
    356, y in 470 to 490. Option of `reset`: `state`, four numbers in [0, 512] px, a puck clear of the obstacle.

    ## Episode End
    Terminated when the coverage exceeds 0.95. Truncated after 200 steps by `gymnasium.make`'s time limit.

    ## Arguments
    * `obs_mode`: `"state"` or `"pixels"`.
    * `render_mode`, `render_size`: as of `PushTEnv`.

    ## Version History
    * v0: original version.
    """

    modes = ("left", "right")
    metadata = PushingEnv.metadata | {"task": task_facts({"puck": (2, 3)}, modes)}

    def __init__(
        self, obs_mode: str = "state", render_mode: str | None = None, render_size: int = int(WORLD_SIZE)
    ) -> None:
        bounds = [*AGENT_BOUNDS, *((-MARGIN, WORLD_SIZE + MARGIN),) * 2]
        super().__init__(obs_mode, bounds, [OBSTACLE], render_mode, render_size)
        self._set_goal([outline(ZONE, ZONE_RADIUS)])
        self._puck: pymunk.Body | None = None
        self._mode = ""
        self._past = False

    def _begin(self, table: Table, options: Mapping[str, Any]) -> None:
        if "state" in options:
            state = checked_state(options["state"], _STATE_NAMES)
            if Region.of([outline((state[2], state[3]), PUCK_RADIUS)]).overlap(OBSTACLE) > 0.0:
                raise ValueError(f"the puck at ({state[2]:g}, {state[3]:g}) px overlaps the obstacle")
        else:
            draw = self.np_random
            puck = draw.uniform(236.0, 276.0), draw.uniform(390.0, 420.0)
            state = [draw.uniform(156.0, 356.0), draw.uniform(470.0, 490.0), *puck]
        self._puck = table.add_puck(PUCK_RADIUS)
        table.agent.position = state[0], state[1]
        self._puck.position = state[2], state[3]

    def _follow(self, state: NDArray[np.float64]) -> None:
        self._mode, self._past = "", bool(state[3] < MIDDLE_Y)

    def _state(self) -> NDArray[np.float64]:
        return np.array([*self._table.agent.position, *self._puck.position])

    def _judge(self, state: NDArray[np.float64]) -> tuple[float, dict[str, Any]]:
        x, y = state[2:].tolist()
        if (y < MIDDLE_Y) != self._past:
            self._past = not self._past
            self._mode = self.modes[x > MIDDLE_X] if self._past else ""
        coverage = disc_share(math.dist((x, y), ZONE), PUCK_RADIUS, ZONE_RADIUS)
        info = {"coverage": coverage, "success": coverage > SUCCESS_COVERAGE, "mode": self._mode}
        return min(coverage / SUCCESS_COVERAGE, 1.0), info

    def _numbers(self, state: NDArray[np.float64]) -> NDArray[np.float64]:
        return state

    def _blocks(self) -> Sequence[Polygon]:
        return [outline(self._puck.position, PUCK_RADIUS)]
