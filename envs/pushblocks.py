"""PushBlocks: two pucks, two zones; either puck may go into either zone, in any order: four modes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pymunk
from numpy.typing import NDArray

from .base import AGENT_BOUNDS, SUCCESS_COVERAGE, PushingEnv, checked_state, task_facts
from .geometry import Point, Polygon
from .physics import AGENT_RADIUS, WORLD_SIZE, Table
from .zones import disc_share, outline

PUCK_RADIUS = 25.0
ZONES: tuple[Point, Point] = ((146.0, 120.0), (366.0, 120.0))
"""Centres of the left and the right zone, px."""
ZONE_RADIUS = 45.0
MARGIN = 70.0
"""How far outside the world a puck's centre can get, px: the agent pushes it through a wall, see `pusht`."""

_STATE_NAMES = ("agent x", "agent y", "puck 0 x", "puck 0 y", "puck 1 x", "puck 1 y")


class PushBlocksEnv(PushingEnv):
    """
    ## Description
    A round agent on a table of 512 × 512 px, seen from above, pushes two round blocks (pucks of radius 25 px) into
    two round zones, one into each. Which goes where, and which goes first, is left open. The y axis points down.
    A puck does not turn and sticks to the agent that pushes it. Physics and control are otherwise those of
    `PushTEnv`.

    ## Observation Space
    Chosen by `obs_mode`.

    `"state"`: `Box`, shape (6,), float32

    | Num | Observation         | Min | Max | Unit |
    |-----|---------------------|-----|-----|------|
    | 0-1 | agent x, y          | 0   | 512 | px   |
    | 2-3 | puck 0 x, y         | -70 | 582 | px   |
    | 4-5 | puck 1 x, y         | -70 | 582 | px   |

    `"pixels"`: `Dict`, as of `PushTEnv`: `image` (96, 96, 3) uint8 and `agent` (2,) float32. The pucks look alike.

    ## Action Space
    `Box(0, 512, (2,), float32)`: the agent's target x and y, px, as of `PushTEnv`.

    ## Rewards
    `clip(coverage / 0.95, 0, 1)`. A puck's coverage of a zone is the share of its area within it; `coverage` is the
    mean over the pucks for the better of the two ways to give each a zone of its own.

    `info` holds `coverage`, `success` and `is_success` (both pucks covered by more than 0.95), `mode` (which puck
    came to rest in a zone first, and in which: `"0-left"`, `"0-right"`, `"1-left"` or `"1-right"`; `""` before the
    first), `state` (float64) and `n_contacts`.

    ## Starting State
    From the environment's own generator: puck 0 has x uniform in 130 to 190, puck 1 in 322 to 382, both y in 300 to
    370, so that neither lies on the other's straight way to a zone; agent x uniform in 156 to 356, y in 430 to 490.
    Option of `reset`: `state`, six numbers in [0, 512] px, nothing overlapping.

    ## Episode End
    Terminated on success. Truncated after 300 steps by `gymnasium.make`'s time limit.

    ## Arguments
    * `obs_mode`: `"state"` or `"pixels"`.
    * `render_mode`, `render_size`: as of `PushTEnv`.

    ## Version History
    * v0: original version.
    """

    modes = ("0-left", "0-right", "1-left", "1-right")
    metadata = PushingEnv.metadata | {"task": task_facts({"puck 0": (2, 3), "puck 1": (4, 5)}, modes)}

    def __init__(
        self, obs_mode: str = "state", render_mode: str | None = None, render_size: int = int(WORLD_SIZE)
    ) -> None:
        bounds = [*AGENT_BOUNDS, *((-MARGIN, WORLD_SIZE + MARGIN),) * 4]
        super().__init__(obs_mode, bounds, [], render_mode, render_size)
        self._set_goal([outline(zone, ZONE_RADIUS) for zone in ZONES])
        self._pucks: list[pymunk.Body] = []
        self._mode = ""

    def _begin(self, table: Table, options: Mapping[str, Any]) -> None:
        if "state" in options:
            state = checked_state(options["state"], _STATE_NAMES)
        else:
            draw = self.np_random
            pucks = [draw.uniform(130.0, 190.0), draw.uniform(300.0, 370.0)]
            pucks += [draw.uniform(322.0, 382.0), draw.uniform(300.0, 370.0)]
            state = [draw.uniform(156.0, 356.0), draw.uniform(430.0, 490.0), *pucks]
        agent, first, second = state[:2], state[2:4], state[4:]
        if math.dist(first, second) < 2 * PUCK_RADIUS or any(
            math.dist(agent, puck) < AGENT_RADIUS + PUCK_RADIUS for puck in (first, second)
        ):
            raise ValueError(f"the agent and the pucks overlap in the state {state}; move them apart")
        self._pucks = [table.add_puck(PUCK_RADIUS) for _ in ZONES]
        table.agent.position = agent[0], agent[1]
        for body, place in zip(self._pucks, (first, second), strict=True):
            body.position = place[0], place[1]

    def _follow(self, state: NDArray[np.float64]) -> None:
        self._mode = ""

    def _state(self) -> NDArray[np.float64]:
        first, second = self._pucks
        return np.array([*self._table.agent.position, *first.position, *second.position])

    def _judge(self, state: NDArray[np.float64]) -> tuple[float, dict[str, Any]]:
        pucks = state[2:].reshape(2, 2).tolist()
        share = [[disc_share(math.dist(puck, zone), PUCK_RADIUS, ZONE_RADIUS) for zone in ZONES] for puck in pucks]
        straight, crossed = (share[0][0], share[1][1]), (share[0][1], share[1][0])
        best = max(straight, crossed, key=sum)
        inside = [f"{k}-{side}" for k in (0, 1) for z, side in enumerate(("left", "right")) if _in(share[k][z])]
        if self._mode not in inside:  # none yet, or the first was pushed out again
            self._mode = inside[0] if inside else ""
        info = {"coverage": sum(best) / 2, "success": all(map(_in, best)), "mode": self._mode}
        return min(info["coverage"] / SUCCESS_COVERAGE, 1.0), info

    def _numbers(self, state: NDArray[np.float64]) -> NDArray[np.float64]:
        return state

    def _blocks(self) -> Sequence[Polygon]:
        return [outline(puck.position, PUCK_RADIUS) for puck in self._pucks]


def _in(share: float) -> bool:
    return share > SUCCESS_COVERAGE
