"""PushBlocks: two pucks, two zones; either puck may go into either zone, in any order: four modes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .base import PushingEnv
from .geometry import Point
from .phrases import Phrases
from .pucks import PUCK_RADIUS, ZONE_RADIUS, PuckEnv
from .tasks import SUCCESS_COVERAGE, task_facts
from .zones import disc_fraction

PHRASES = Phrases(
    words={
        "0-left": {"a": "left", "z": "left", "b": "right", "y": "right"},
        "0-right": {"a": "left", "z": "right", "b": "right", "y": "left"},
        "1-left": {"a": "right", "z": "left", "b": "left", "y": "right"},
        "1-right": {"a": "right", "z": "right", "b": "left", "y": "left"},
    },
    taught=(
        "first push the {a} block into the {z} zone",
        "put the {a} block into the {z} zone and then the {b} block into the {y} zone",
        "start with the {a} block and bring it to the {z} zone",
        "move the {a} block to the {z} zone first",
        "the {b} block goes into the {y} zone after the {a} block is in the {z} zone",
        "the {a} one goes {z} then the {b} one goes {y}",
    ),
    held_out=(
        "push the {a} block to the {z} zone and then the {b} one to the {y} zone",
        "first bring the {a} block into the {z} zone",
        "start with the {a} one it goes into the {z} zone",
        "the {b} one goes to the {y} zone after the {a} one is in the {z} zone",
    ),
)
"""Puck 0 starts on the left and is called the left block: a goes first, into zone z; then b, into zone y."""

ZONES: tuple[Point, Point] = ((146.0, 120.0), (366.0, 120.0))
"""Centers of the left and the right zone, px."""


class PushBlocksEnv(PuckEnv):
    """
    ## Description
    A round agent on a table of 512 × 512 px, seen from above, pushes two round blocks (pucks of radius 25 px) into
    two round zones of radius 45 px, one into each. Which goes where, and which goes first, is left open. The y axis
    points down. A puck does not turn and sticks to the agent that pushes it. The agent follows its target by PD
    control; a puck moves only while it is pushed. One step is 0.1 s of control (10 Hz), ten physics steps of 0.01 s.

    ## Observation Space
    Chosen by `obs_mode`.

    `"state"`: `Box`, shape (6,), float32

    | Num | Observation         | Min  | Max | Unit |
    |-----|---------------------|------|-----|------|
    | 0-1 | agent x, y          | 0    | 512 | px   |
    | 2-3 | puck 0 x, y         | -120 | 632 | px   |
    | 4-5 | puck 1 x, y         | -120 | 632 | px   |

    `"pixels"`: `Dict`. The pucks look alike.

    | Key     | Observation                  | Shape       | Dtype   | Min | Max | Unit |
    |---------|------------------------------|-------------|---------|-----|-----|------|
    | `image` | RGB image from above         | (96, 96, 3) | uint8   | 0   | 255 | -    |
    | `agent` | agent x, y                   | (2,)        | float32 | 0   | 512 | px   |

    ## Action Space
    `Box(0, 512, (2,), float32)`: the agent's target x and y, px. Targets out of range are clipped. Another shape, or
    a value that is not finite, raises `ValueError`.

    ## Rewards
    `clip(coverage / 0.95, 0, 1)`. A puck's coverage of a zone is the fraction of its area that lies in it; `coverage`
    is the mean over the pucks, for the better of the two assignments of pucks to zones.

    `info` holds `coverage`, `success` and `is_success` (each puck is covered by more than 0.95), `mode` (which puck
    came to rest in a zone first, and in which: `"0-left"`, `"0-right"`, `"1-left"` or `"1-right"`; `""` before the
    first), `state` (the six numbers of `"state"`, float64) and `n_contacts` (contact points, averaged over the
    physics steps and rounded up).

    ## Starting State
    From the environment's own generator: puck 0 has x uniform in 130 to 190, puck 1 in 322 to 382, both y in 300 to
    370, so that neither lies between the other and a zone; agent x uniform in 156 to 356, y in 430 to 490.

    Option of `reset`: `state`, six numbers within the bounds of `"state"`. Any `info["state"]` is accepted; see
    `reset` for what it does not restore. Bodies that overlap deeper than pushing can bring about raise `ValueError`.

    ## Episode End
    Terminated on success. Truncated after 300 steps by the time limit of `gymnasium.make`.

    ## Arguments
    * `obs_mode`: `"state"` or `"pixels"`.
    * `render_mode`: `None`, `"rgb_array"` (`render` returns the image) or `"human"` (a window, which needs pygame:
      `pip install "diffpolicy[human]"`).
    * `render_size`: side of the rendered image, px.
    * `told`: every episode asks for one of the modes, drawn at random, in words. Observations are then a dict with
      these words as `task` beside the others (`state` for the six numbers). Success and reward count only in the mode
      that was asked for; `info` holds it as `asked`, and whether it is the present one as `obeyed`. The option `task`
      of `reset` asks in words of the environment's own.
    * `phrasings`: `"taught"`, the words of demonstrations, or `"held_out"`, others made of the same vocabulary.

    ## Version History
    * v0: original version.
    """

    phrases = PHRASES
    modes = ("0-left", "0-right", "1-left", "1-right")
    metadata = PushingEnv.metadata | {"task": task_facts({"puck 0": (2, 3), "puck 1": (4, 5)}, modes)}
    pucks = ("puck 0", "puck 1")
    zones = ZONES
    margin = 120.0  # the agent is within the world; a puck it pushes is 40 px from it, the other one 50 px farther

    def _draw(self, draw: np.random.Generator) -> list[float]:
        pucks = [draw.uniform(130.0, 190.0), draw.uniform(300.0, 370.0)]
        pucks += [draw.uniform(322.0, 382.0), draw.uniform(300.0, 370.0)]
        return [draw.uniform(156.0, 356.0), draw.uniform(430.0, 490.0), *pucks]

    def _follow(self, state: NDArray[np.float64]) -> None:
        self._mode = ""

    def _judge(self, state: NDArray[np.float64]) -> tuple[float, Mapping[str, Any]]:
        pucks = state[2:].reshape(2, 2).tolist()
        covered = [
            [disc_fraction(math.dist(puck, zone), PUCK_RADIUS, ZONE_RADIUS) for zone in ZONES] for puck in pucks
        ]
        straight, crossed = (covered[0][0], covered[1][1]), (covered[0][1], covered[1][0])
        best = max(straight, crossed, key=sum)
        inside = [f"{k}-{side}" for k in (0, 1) for z, side in enumerate(("left", "right")) if _in(covered[k][z])]
        if self._mode not in inside:  # none yet, or the first was pushed out again
            self._mode = inside[0] if inside else ""
        info = {"coverage": sum(best) / 2, "success": all(map(_in, best)), "mode": self._mode}
        return min(info["coverage"] / SUCCESS_COVERAGE, 1.0), info


def _in(fraction: float) -> bool:
    return fraction > SUCCESS_COVERAGE
