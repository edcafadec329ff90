"""Push-T: a round agent pushes a T-shaped block onto its goal (Chi et al. 2023; after Florence et al. 2021)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from .base import AGENT_BOUNDS, PushingEnv
from .checks import ANY, Bounds, numbers, require
from .drawing import OBSERVATION_SIZE, ObservationCamera, Scene
from .geometry import Point, Polygon
from .physics import WORLD_SIZE, Slab
from .shapes import make_block, make_region
from .tasks import SUCCESS_COVERAGE, task_facts
from .tee import GOAL, GOAL_POSE, KEYPOINTS, TEE, block_points, corners, coverage, keypoints

__all__ = ["PushTEnv", "block_points", "corners", "coverage", "draw_observations", "keypoints"]

OBS_MODES = ("state", "keypoints", "corners", "pixels")

BLOCK_MARGIN = 192.0
"""How far outside the world a point of the block can get, px.

The agent (radius 15, center within the world) can push the block through a wall. A block stays where it is left, so
some point of it was last within 15 px of the world, plus the 19 px that the agent's fastest physics step makes along
an axis; no two points of the T are farther apart than 142 px.
"""

GOAL_RANGE = (128.0, 384.0)
"""Range of a drawn goal's x and y, px."""
_STATE = ("agent x", "agent y", "block x", "block y", "block angle")
_GOAL = ("goal x", "goal y", "goal angle")
_DRAWS = 1000  # of a start or a goal clear of the obstacles


class PushTEnv(PushingEnv):
    """
    ## Description
    A round agent on a table of 512 × 512 px, seen from above, pushes a T-shaped block onto a goal of the same shape.
    The y axis points down and angles turn from x to y. The agent follows its target by PD control; the block moves
    only while it is pushed. One step is 0.1 s of control (10 Hz), ten physics steps of 0.01 s. Physics, goal and
    reward are those of Chi et al. 2023, "Diffusion Policy: Visuomotor Policy Learning via Action Diffusion".

    ## Observation Space
    Chosen by `obs_mode`; all but the image are float32. The block can be forced through a wall, hence the bounds of
    its points.

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
    | 0-15  | x, y of the block's eight corners, around its outline                  | -192 | 704 | px   |
    | 16-17 | agent x, y                                                             | 0    | 512 | px   |

    `"pixels"`: `Dict`

    | Key     | Observation                  | Shape       | Dtype   | Min | Max | Unit |
    |---------|------------------------------|-------------|---------|-----|-----|------|
    | `image` | RGB image from above         | (96, 96, 3) | uint8   | 0   | 255 | -    |
    | `agent` | agent x, y                   | (2,)        | float32 | 0   | 512 | px   |

    With `goal="random"` a vector ends with three more numbers: the goal's x, y (px) and angle (0 to 2π rad). With
    another block the corners are its own.

    With `told=True`, for `"corners"` and `"keypoints"`, a `Dict` by gymnasium-robotics' keys: `observation`, the
    vector above without these three numbers; `achieved_goal`, the points of the block; and `desired_goal`, where
    they are when the block lies on the goal.

    ## Action Space
    `Box(0, 512, (2,), float32)`: the agent's target.

    | Num | Action   | Min | Max | Unit |
    |-----|----------|-----|-----|------|
    | 0   | target x | 0   | 512 | px   |
    | 1   | target y | 0   | 512 | px   |

    Targets out of range are clipped. Another shape, or a value that is not finite, raises `ValueError`.

    ## Rewards
    `clip(coverage / 0.95, 0, 1)`, where the coverage is the fraction of the goal's area that lies under the block.

    `reset` and `step` return in `info`: `coverage` (0 to 1), `success` and `is_success` (coverage above 0.95),
    `state` (the five numbers of `"state"`, float64), `goal_pose` (x and y in px, angle in rad) and `n_contacts`: the
    points at which the block touched the agent or a wall, averaged over the physics steps and rounded up, as in the
    published data.

    ## Starting State
    From the environment's own generator: agent x and y uniform over the integers 50 to 449, block x and y over 100 to
    399, block angle uniform in [-π, π), drawn again where the block overlaps an obstacle. What overlaps is
    parted in the first step.

    Options of `reset`:

    | Option       | Value                       | Meaning                                                          |
    |--------------|-----------------------------|------------------------------------------------------------------|
    | `state`      | five numbers                | start here: positions within the bounds of `"state"`, any angle  |
    | `legacy`     | bool, with `state` only     | set the block's position before its angle, which shifts it       |
    | `paper_seed` | int, 0 to 2³² - 1           | the published evaluation's initial state of this seed            |

    Any `info["state"]` is accepted; see `reset` for what it does not restore (with `goal="random"`, the goal too).
    Unknown options and values out of range raise `ValueError`.

    ## Episode End
    Terminated when the coverage exceeds 0.95. Truncated after 300 steps by the time limit of `gymnasium.make`.

    ## Arguments
    * `obs_mode`: `"state"`, `"keypoints"`, `"corners"` or `"pixels"`.
    * `render_mode`: `None`, `"rgb_array"` (`render` returns the image) or `"human"` (a window, which needs pygame:
      `pip install "diffpolicy[human]"`).
    * `render_size`: side of the rendered image, px.
    * `goal`: the goal's pose (x, y, angle), px and rad, or `"random"`: at every reset x and y uniform in 128 to 384,
      any angle.
    * `told`: observe the goal by its points, beside the block's.
    * `block`: `"tee"`, `"ell"`, `"plus"` or convex pieces `[[(x, y), ...], ...]`, px.
    * `obstacles`: convex polygons `[[(x, y), ...], ...]`, px, that stop the block; the agent reaches over them. One
      that covers part of the goal raises `ValueError`.

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
        told: bool = False,
    ) -> None:
        is_tee = isinstance(block, str) and block == "tee"
        pairs = obs_mode != "keypoints" or is_tee
        require(
            pairs, f"obs_mode='keypoints' with block={block!r}", "the tee, whose keypoints they are", "take 'corners'"
        )
        self._shape = make_block(block)
        self._margin = BLOCK_MARGIN if is_tee else math.ceil(2.0 * self._shape.reach) + 34.0
        self._points = KEYPOINTS if obs_mode == "keypoints" else self._shape.corners
        self._goal_drawn = isinstance(goal, str)
        require(not self._goal_drawn or goal == "random", f"goal={goal!r}", "a pose (x, y, angle) or 'random'")
        in_the_way = [make_region("obstacle", [polygon]) for polygon in obstacles]
        super().__init__(obs_mode, self._bounds(obs_mode), in_the_way, render_mode, render_size)
        self._pose: tuple[float, float, float] | None = None
        self.told = told
        if told:
            pointed = obs_mode in ("corners", "keypoints")
            require(pointed, f"told=True with obs_mode={obs_mode!r}", "'corners' or 'keypoints', as goals have")
            seen, count = self.observation_space, 2 * len(self._points)
            low, high = (bound[: count + 2] for bound in (seen.low, seen.high))  # without a drawn goal's pose
            points = spaces.Box(low[:count], high[:count], dtype=np.float32)
            parts = {"observation": spaces.Box(low, high, dtype=np.float32)}
            self.observation_space = spaces.Dict({**parts, "achieved_goal": points, "desired_goal": points})
        if not self._goal_drawn:
            x, y, angle = numbers("goal", goal, _GOAL, (*AGENT_BOUNDS, ANY))
            self._aim((x, y, angle))
            require(
                not self._blocked(self._goal_pose), f"an obstacle on the goal at {goal}", "a free goal", "move one"
            )

    def _bounds(self, obs_mode: str) -> list[Bounds]:
        point: list[Bounds] = [(-self._margin, WORLD_SIZE + self._margin)] * 2
        turn = (0.0, 2.0 * math.pi)
        goal = [*AGENT_BOUNDS, turn] if self._goal_drawn else []
        if obs_mode == "state":
            return [*AGENT_BOUNDS, *point, turn, *goal]
        return [*point * len(self._points), *AGENT_BOUNDS, *goal]

    def _layout(self, options: Mapping[str, Any]) -> tuple[Point, Sequence[Slab]]:
        (agent_x, agent_y, *pose), legacy = self._initial_state(options)
        if self._goal_drawn:
            self._aim(self._clear(lambda draw: (*draw.uniform(*GOAL_RANGE, 2), draw.uniform(-math.pi, math.pi))))
        return (agent_x, agent_y), [Slab(self._shape, *pose, legacy)]

    def _aim(self, pose: tuple[float, float, float]) -> None:
        self._goal_pose, self._goal = pose, self._shape.region.moved(*pose)
        self._pose = None  # the stored coverage is of another goal
        self._set_goal(self._goal.pieces)

    def _state(self) -> NDArray[np.float64]:
        agent, (block,) = self._table.agent.position, self._table.blocks
        return np.array([agent[0], agent[1], *block.position, block.angle % (2.0 * math.pi)])

    def _judge(self, state: NDArray[np.float64]) -> tuple[float, Mapping[str, Any]]:
        (block,) = self._table.blocks
        pose = *block.position, block.angle
        if pose != self._pose:  # most steps of an approach leave the block alone
            self._pose = pose
            self._coverage = self._shape.region.moved(*pose).overlap(self._goal) / self._goal.area
        info = {
            "coverage": self._coverage,
            "success": self._coverage > SUCCESS_COVERAGE,
            "goal_pose": np.array(self._goal_pose),
        }
        return min(self._coverage / SUCCESS_COVERAGE, 1.0), info

    def _agent_columns(self) -> list[int]:
        first = 2 * len(self._points) if self.obs_mode in ("keypoints", "corners") else 0
        return [first, first + 1]

    def _numbers(self, state: NDArray[np.float64]) -> NDArray[np.float64]:
        seen = [state] if self.obs_mode == "state" else [block_points(state, self._points), state[:2]]
        if self._goal_drawn:
            x, y, angle = self._goal_pose
            seen.append(np.array([x, y, angle % (2.0 * math.pi)]))
        return np.concatenate(seen)

    def _observe(self, contacts: int) -> tuple[Any, float, dict[str, Any]]:
        obs, reward, info = super()._observe(contacts)
        if not self.told:
            return obs, reward, info
        count = 2 * len(self._points)
        goal = block_points(np.array([0.0, 0.0, *self._goal_pose]), self._points).astype(np.float32)
        parts = {"observation": obs[: count + 2], "achieved_goal": obs[:count].copy(), "desired_goal": goal}
        return parts, reward, info

    def _blocks(self) -> Sequence[Polygon]:
        (block,) = self._table.blocks
        return self._shape.region.moved(*block.position, block.angle).pieces

    def _initial_state(self, options: Mapping[str, Any]) -> tuple[list[float], bool]:
        if "paper_seed" in options:
            require(
                len(options) == 1, f"paper_seed together with {sorted(set(options) - {'paper_seed'})}", "it alone"
            )
            return _paper_state(options["paper_seed"]), True
        legacy = options.get("legacy", False)
        require(isinstance(legacy, bool), f"legacy={legacy!r}", "True (position before angle) or False")
        if "state" in options:
            bounds = [*AGENT_BOUNDS, *[(-self._margin, WORLD_SIZE + self._margin)] * 2, ANY]
            return numbers("state", options["state"], _STATE, bounds), legacy
        require("legacy" not in options, "legacy without state", "both", "give the state, or leave legacy out")
        agent = self.np_random.integers(50, 450), self.np_random.integers(50, 450)
        pose = self._clear(
            lambda draw: (draw.integers(100, 400), draw.integers(100, 400), draw.uniform(-math.pi, math.pi))
        )
        return [*map(float, (*agent, *pose))], False

    def _blocked(self, pose: Sequence[float]) -> bool:
        there = self._shape.region.moved(*pose)
        return any(there.overlap(obstacle) > 0.0 for obstacle in self._obstacles)

    def _clear(self, draw: Callable[[np.random.Generator], tuple[float, float, float]]) -> tuple[float, float, float]:
        """Return the first drawn pose at which the block overlaps no obstacle."""
        for _ in range(_DRAWS):
            pose = draw(self.np_random)
            if not self._blocked(pose):
                return pose
        raise ValueError(f"no room for the block: {_DRAWS} drawn poses overlap an obstacle; leave more space")


def draw_observations(states: NDArray[np.floating]) -> NDArray[np.uint8]:
    """Return the images (n, 96, 96, 3) that the environment observes in `states` (n, 5), as of `"state"`."""
    camera = ObservationCamera(Scene(GOAL.pieces))
    images = np.empty((len(states), OBSERVATION_SIZE, OBSERVATION_SIZE, 3), np.uint8)
    for image, (agent_x, agent_y, *pose) in zip(images, states.astype(np.float64).tolist(), strict=True):
        image[:] = camera(TEE.moved(*pose).pieces, (agent_x, agent_y))
    return images


def _paper_state(seed: Any) -> list[float]:
    """Return the published evaluation's initial state for a seed (diffusion_policy, `pusht_env.py`)."""
    whole = isinstance(seed, int | np.integer) and not isinstance(seed, bool) and 0 <= seed < 2**32
    require(whole, f"paper_seed={seed!r}", "a whole number from 0 to 2**32 - 1 (100000 on in the paper)")
    draw = np.random.RandomState(int(seed))
    places = [draw.randint(50, 450), draw.randint(50, 450), draw.randint(100, 400), draw.randint(100, 400)]
    return [*map(float, places), float(draw.randn() * 2.0 * math.pi - math.pi)]
