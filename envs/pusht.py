"""Push-T: a round agent pushes a T-shaped block onto its mark (Chi et al. 2023; after Florence et al. 2021)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pymunk
from numpy.typing import NDArray

from .base import AGENT_BOUNDS, SUCCESS_COVERAGE, PushingEnv, checked_state, task_facts
from .geometry import Polygon
from .physics import WORLD_SIZE, Table
from .shapes import make_block, make_region
from .tee import GOAL_POSE, KEYPOINTS, block_points, corners, coverage, keypoints

__all__ = ["PushTEnv", "block_points", "corners", "coverage", "keypoints"]

OBS_MODES = ("state", "keypoints", "corners", "pixels")

BLOCK_MARGIN = 192.0
"""How far outside the world a point of the block can get, px. The agent (radius 15, centre within the world) can
push the block through a wall; a block stays where it is left, so some point of it was last within 15 px of the world,
plus the 19 px of the agent's fastest physics step, and no two points of the T are farther apart than 142 px."""

_STATE_NAMES = ("agent x", "agent y", "block x", "block y", "block angle")
GOAL_RANGE = (128.0, 384.0)
"""Where a drawn goal's x and y lie, px."""
_DRAWS = 1000  # of a start or a goal clear of the obstacles


class PushTEnv(PushingEnv):
    """
    ## Description
    A round agent on a table of 512 × 512 px, seen from above, pushes a T-shaped block onto a mark of the same shape.
    The y axis points down and angles turn from x towards y. The agent follows its target by PD control; the block
    moves only while it is pushed. One step is 0.1 s of control (10 Hz), ten physics steps of 0.01 s. Physics, mark
    and reward are those of Chi et al. 2023, "Diffusion Policy: Visuomotor Policy Learning via Action Diffusion".

    ## Observation Space
    One of four, chosen by `obs_mode`; all but the picture are float32. The block can be forced through a wall, hence
    the bounds of its points.

    `"state"`: `Box`, shape (5,)

    | Num | Observation         | Min   | Max   | Unit |
    |-----|---------------------|-------|-------|------|
    | 0   | agent x             | 0     | 512   | px   |
    | 1   | agent y             | 0     | 512   | px   |
    | 2   | block x             | -192  | 704   | px   |
    | 3   | block y             | -192  | 704   | px   |
    | 4   | block angle         | 0     | 2π    | rad  |

    `"keypoints"`: `Box`, shape (20,)

    | Num   | Observation                                                            | Min  | Max | Unit |
    |-------|------------------------------------------------------------------------|------|-----|------|
    | 0-17  | x, y of nine points on the block, in the order of the published data   | -192 | 704 | px   |
    | 18-19 | agent x, y                                                             | 0    | 512 | px   |

    `"corners"`: `Box`, shape (18,)

    | Num   | Observation                                                            | Min  | Max | Unit |
    |-------|------------------------------------------------------------------------|------|-----|------|
    | 0-15  | x, y of the block's eight corners, round its outline                   | -192 | 704 | px   |
    | 16-17 | agent x, y                                                             | 0    | 512 | px   |

    `"pixels"`: `Dict`

    | Key     | Observation                  | Shape       | Dtype   | Min | Max | Unit |
    |---------|------------------------------|-------------|---------|-----|-----|------|
    | `image` | RGB picture from above       | (96, 96, 3) | uint8   | 0   | 255 | -    |
    | `agent` | agent x, y                   | (2,)        | float32 | 0   | 512 | px   |

    With `goal="random"` a vector ends with three numbers more: the mark's x, y (px) and angle (0 to 2π rad). With
    another block the corners are its own.

    ## Action Space
    `Box(0, 512, (2,), float32)`: the agent's target.

    | Num | Action   | Min | Max | Unit |
    |-----|----------|-----|-----|------|
    | 0   | target x | 0   | 512 | px   |
    | 1   | target y | 0   | 512 | px   |

    Targets out of range are clipped. Another shape, or a value that is not finite, raises `ValueError`.

    ## Rewards
    `clip(coverage / 0.95, 0, 1)`, with the coverage the share of the mark's area that lies under the block.

    `reset` and `step` return in `info`: `coverage` (0 to 1), `success` and `is_success` (coverage above 0.95),
    `state` (the five numbers of `"state"`, float64), `goal_pose` (x and y in px, angle in rad) and `n_contacts`: the
    points at which the block touched the agent or a wall, averaged over the physics steps and rounded up, as in the
    published data.

    ## Starting State
    From the environment's own generator: agent x and y uniform over the integers 50 to 449, block x and y over 100 to
    399, block angle uniform in [-π, π), drawn again where an obstacle is in the way. One physics step follows, which
    parts what overlaps a little.

    Options of `reset`:

    | Option       | Value                       | Meaning                                                          |
    |--------------|-----------------------------|------------------------------------------------------------------|
    | `state`      | five numbers                | start here: agent and block position in [0, 512] px, any angle   |
    | `legacy`     | bool, with `state` only     | set the block's position before its angle, which shifts it       |
    | `paper_seed` | int, 0 to 2³² - 1           | the published evaluation's initial state of this seed            |

    Unknown options and values out of range raise `ValueError`.

    ## Episode End
    Terminated when the coverage exceeds 0.95. Truncated after 300 steps by `gymnasium.make`'s time limit.

    ## Arguments
    * `obs_mode`: `"state"`, `"keypoints"`, `"corners"` or `"pixels"`.
    * `render_mode`: `None`, `"rgb_array"` (the picture is returned) or `"human"` (a window, which needs pygame:
      `pip install "diffpolicy[human]"`).
    * `render_size`: side of the rendered picture, px.
    * `goal`: the mark's pose (x, y, angle), px and rad, or `"random"`: at every reset x and y uniform in 128 to 384,
      any angle.
    * `block`: `"tee"`, `"ell"`, `"plus"` or convex pieces `[[(x, y), ...], ...]`, px.
    * `obstacles`: convex polygons `[[(x, y), ...], ...]`, px, that stop the block; the agent reaches over them. One
      that covers part of the mark raises `ValueError`.

    ## Version History
    * v0: original version.
    """

    metadata = PushingEnv.metadata | {
        "task": task_facts(
            {"block": (2, 3)}, seed_sets={"paper": {"first": 100_000, "episodes": 50, "option": "paper_seed"}}
        )
    }
    obs_modes = OBS_MODES
    reset_options = ("state", "legacy", "paper_seed")

    def __init__(
        self,
        obs_mode: str = "state",
        render_mode: str | None = None,
        render_size: int = int(WORLD_SIZE),
        goal: Any = GOAL_POSE,
        block: Any = "tee",
        obstacles: Any = (),
    ) -> None:
        self._shape = make_block(block)
        in_the_way = [make_region("an obstacle", [polygon]) for polygon in obstacles]
        is_tee = isinstance(block, str) and block == "tee"
        margin = BLOCK_MARGIN if is_tee else math.ceil(2.0 * self._shape.reach) + 34.0
        if obs_mode == "keypoints" and not is_tee:
            raise ValueError("the keypoints are the published data's, of the T; observe another block by its corners")
        self._points = KEYPOINTS if obs_mode == "keypoints" else self._shape.corners
        self._goal_drawn = isinstance(goal, str)
        if self._goal_drawn and goal != "random":
            raise ValueError(f"goal is a pose (x, y, angle) or 'random'; got {goal!r}")
        point, turn = ((-margin, WORLD_SIZE + margin),) * 2, (0.0, 2.0 * math.pi)
        inside = ((0.0, WORLD_SIZE),) * 2
        if obs_mode == "state":
            bounds = [*AGENT_BOUNDS, *point, turn]
        else:
            bounds = [*point * len(self._points), *AGENT_BOUNDS]
        super().__init__(
            obs_mode, [*bounds, *((*inside, turn) if self._goal_drawn else ())], in_the_way, render_mode, render_size
        )
        self._body: pymunk.Body | None = None
        self._pose: tuple[float, float, float] | None = None
        if not self._goal_drawn:
            names = ("goal x", "goal y", "goal angle")
            self._aim((*checked_state(goal, names),))
            if self._blocked(self._goal_pose):
                raise ValueError(f"an obstacle covers part of the goal at {self._goal_pose}; move one of them")

    def _begin(self, table: Table, options: Mapping[str, Any]) -> None:
        (agent_x, agent_y, *pose), legacy = self._initial_state(options)
        if self._goal_drawn:
            self._aim(self._clear(lambda draw: (*draw.uniform(*GOAL_RANGE, 2), draw.uniform(-math.pi, math.pi))))
        shape = self._shape
        self._body = table.add_block(shape.region, shape.centre_of_gravity, shape.mass, shape.moment)
        table.agent.position = agent_x, agent_y
        table.place(self._body, *pose, legacy=legacy)

    def _aim(self, pose: tuple[float, float, float]) -> None:
        self._goal_pose, self._goal = pose, self._shape.region.moved(*pose)
        self._pose = None  # the coverage kept is of another goal
        self._set_goal(self._goal.pieces)

    def _state(self) -> NDArray[np.float64]:
        agent, (block_x, block_y) = self._table.agent.position, self._body.position
        return np.array([agent[0], agent[1], block_x, block_y, self._body.angle % (2.0 * math.pi)])

    def _judge(self, state: NDArray[np.float64]) -> tuple[float, dict[str, Any]]:
        pose = *self._body.position, self._body.angle
        if pose != self._pose:  # most steps of an approach leave the block alone
            self._pose = pose
            self._coverage = self._shape.region.moved(*pose).overlap(self._goal) / self._goal.area
        info = {
            "coverage": self._coverage,
            "success": self._coverage > SUCCESS_COVERAGE,
            "goal_pose": np.array(self._goal_pose),
        }
        return min(self._coverage / SUCCESS_COVERAGE, 1.0), info

    def _numbers(self, state: NDArray[np.float64]) -> NDArray[np.float64]:
        seen = [state] if self.obs_mode == "state" else [block_points(state, self._points), state[:2]]
        if self._goal_drawn:
            x, y, angle = self._goal_pose
            seen.append(np.array([x, y, angle % (2.0 * math.pi)]))
        return np.concatenate(seen)

    def _blocks(self) -> Sequence[Polygon]:
        return self._shape.region.moved(*self._body.position, self._body.angle).pieces

    def _initial_state(self, options: Mapping[str, Any]) -> tuple[list[float], bool]:
        if "paper_seed" in options:
            if len(options) > 1:
                raise ValueError(f"paper_seed fixes the initial state and its order; got {sorted(options)} together")
            return _paper_state(options["paper_seed"]), True
        if "state" in options:
            legacy = options.get("legacy", False)
            if not isinstance(legacy, bool):
                raise ValueError(f"legacy is True (position before angle) or False; got {legacy!r}")
            return checked_state(options["state"], _STATE_NAMES), legacy
        if "legacy" in options:
            raise ValueError("legacy is the order in which a given state is set: give state as well")
        agent = self.np_random.integers(50, 450), self.np_random.integers(50, 450)
        pose = self._clear(
            lambda draw: (draw.integers(100, 400), draw.integers(100, 400), draw.uniform(-math.pi, math.pi))
        )
        return [*map(float, (*agent, *pose))], False

    def _blocked(self, pose: Sequence[float]) -> bool:
        there = self._shape.region.moved(*pose)
        return any(there.overlap(obstacle) > 0.0 for obstacle in self._obstacles)

    def _clear(self, draw: Callable[[np.random.Generator], tuple[float, float, float]]) -> tuple[float, float, float]:
        """The first of many drawn block poses that no obstacle is in the way of."""
        for _ in range(_DRAWS):
            pose = draw(self.np_random)
            if not self._blocked(pose):
                return pose
        raise ValueError(f"no room for the block: {_DRAWS} drawn poses all overlap an obstacle; leave more space")


def _paper_state(seed: Any) -> list[float]:
    """The initial state of the published evaluation's environment for a seed (diffusion_policy, `pusht_env.py`)."""
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or not 0 <= seed < 2**32:
        raise ValueError(f"paper_seed is a whole number from 0 to 2**32 - 1 (100000 on in the paper); got {seed!r}")
    draw = np.random.RandomState(int(seed))
    places = [draw.randint(50, 450), draw.randint(50, 450), draw.randint(100, 400), draw.randint(100, 400)]
    return [*map(float, places), float(draw.randn() * 2.0 * math.pi - math.pi)]
