"""Push-T: a round agent pushes a T-shaped block onto its mark (Chi et al. 2023; after Florence et al. 2021)."""

from __future__ import annotations

import difflib
import importlib
import math
from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import pymunk
from gymnasium import spaces
from numpy.typing import ArrayLike, NDArray

from .drawing import OBSERVATION_SIZE, ObservationCamera, SceneRenderer
from .geometry import Point
from .physics import AGENT_RADIUS, CONTROL_HZ, PHYSICS_STEPS, WALL_RADIUS, WALLS, WORLD_SIZE, Table
from .tee import (
    CENTRE_OF_GRAVITY,
    CORNERS,
    GOAL,
    GOAL_POSE,
    KEYPOINTS,
    MASS,
    MOMENT,
    TEE,
    block_points,
    corners,
    coverage,
    keypoints,
)

__all__ = ["PushTEnv", "block_points", "corners", "coverage", "keypoints"]

OBS_MODES = ("state", "keypoints", "corners", "pixels")
SUCCESS_COVERAGE = 0.95

BLOCK_MARGIN = 192.0
"""How far outside the world a point of the block can get, px. The agent (radius 15, centre within the world) can
push the block through a wall; a block stays where it is left, so some point of it was last within 15 px of the world,
plus the 19 px of the agent's fastest physics step, and no two of its points are farther apart than 142 px."""

_STATE_NAMES = ("agent x", "agent y", "block x", "block y", "block angle")
_OPTIONS = ("state", "legacy", "paper_seed")


class PushTEnv(gym.Env[Any, NDArray[np.float32]]):
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
    399, block angle uniform in [-π, π). One physics step follows, which parts what overlaps a little.

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

    ## Version History
    * v0: original version.
    """

    metadata = {"render_modes": ["rgb_array", "human"], "render_fps": CONTROL_HZ}  # noqa: RUF012

    def __init__(
        self, obs_mode: str = "state", render_mode: str | None = None, render_size: int = int(WORLD_SIZE)
    ) -> None:
        if obs_mode not in OBS_MODES:
            raise ValueError(
                f"obs_mode is one of {', '.join(OBS_MODES)}; got {obs_mode!r}{_near(obs_mode, OBS_MODES)}"
            )
        if render_mode not in (None, *self.metadata["render_modes"]):
            raise ValueError(f"render_mode is None, 'rgb_array' or 'human'; got {render_mode!r}")
        if not isinstance(render_size, int) or render_size < 16:
            raise ValueError(f"render_size is a whole number of pixels from 16 up; got {render_size!r}")
        self.obs_mode = obs_mode
        self.render_mode = render_mode
        self.render_size = render_size
        self.action_space = spaces.Box(0.0, WORLD_SIZE, (2,), np.float32)
        self.observation_space = _observation_space(obs_mode)
        self._camera = ObservationCamera(GOAL.pieces, WALLS, WALL_RADIUS) if obs_mode == "pixels" else None
        self._renderer: SceneRenderer | None = None
        self._window: Any = None
        self._clock: Any = None
        self._table: Table | None = None
        self._block: pymunk.Body | None = None
        self._target: Point | None = None
        self._pose: tuple[float, float, float] | None = None
        self._coverage = 0.0

    def reset(
        self, *, seed: int | None = None, options: Mapping[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Start an episode; see the class for the options and what they raise."""
        super().reset(seed=seed)
        options = {} if options is None else options
        if not isinstance(options, Mapping):
            raise TypeError(f"options is a dict such as {{'paper_seed': 100000}}; got {type(options).__name__}")
        state, legacy = self._initial_state(options)
        agent_x, agent_y, *pose = state
        self._table = Table()
        self._block = self._table.add_block(TEE, CENTRE_OF_GRAVITY, MASS, MOMENT)
        self._table.agent.position = agent_x, agent_y
        self._table.place(self._block, *pose, legacy=legacy)
        contacts = self._table.settle()
        self._target = None
        observation, info = self._observe(contacts)
        if self.render_mode == "human":
            self.render()
        return observation, info

    def step(self, action: ArrayLike) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Drive the agent towards `action`, (2,) px, for 0.1 s.

        Raises:
            ValueError: for an action of another shape or with values that are not finite numbers.
            RuntimeError: before the first `reset`.
        """
        if self._table is None:
            raise RuntimeError("step() was called before the first reset()")
        self._target = _checked_action(action)
        contacts = self._table.control(self._target)
        observation, info = self._observe(contacts)
        if self.render_mode == "human":
            self.render()
        reward = min(info["coverage"] / SUCCESS_COVERAGE, 1.0)
        return observation, reward, info["success"], False, info

    def render(self) -> NDArray[np.uint8] | None:
        """The picture, (render_size, render_size, 3) uint8 RGB, or None in mode "human" and without a mode.

        Raises:
            RuntimeError: before the first `reset`.
            gymnasium.error.DependencyNotInstalled: in mode "human" without pygame.
        """
        if self.render_mode is None:
            gym.logger.warn('render() draws nothing: give a render_mode to gym.make(), such as "rgb_array"')
            return None
        if self._table is None or self._pose is None:
            raise RuntimeError("render() was called before the first reset()")
        if self._renderer is None:
            self._renderer = SceneRenderer(self.render_size, GOAL.pieces, WALLS, WALL_RADIUS)
        agent = self._table.agent.position
        image = self._renderer(TEE.moved(*self._pose).pieces, agent, AGENT_RADIUS, self._target)
        if self.render_mode == "rgb_array":
            return image
        self._show(image)
        return None

    def close(self) -> None:
        """Close the window of mode "human", if there is one."""
        if self._window is not None:
            pygame = _import_pygame()
            pygame.display.quit()
            pygame.quit()
            self._window = None

    def _observe(self, contacts: int) -> tuple[Any, dict[str, Any]]:
        agent = self._table.agent.position
        block_x, block_y = self._block.position
        pose = block_x, block_y, self._block.angle
        if pose != self._pose:  # most steps of an approach leave the block alone
            self._pose, self._coverage = pose, coverage(*pose)
        state = np.array([agent[0], agent[1], block_x, block_y, pose[2] % (2.0 * math.pi)])
        success = self._coverage > SUCCESS_COVERAGE
        info = {
            "coverage": self._coverage,
            "success": success,
            "is_success": success,
            "n_contacts": math.ceil(contacts / PHYSICS_STEPS),
            "state": state,
            "goal_pose": np.array(GOAL_POSE),
        }
        if self.obs_mode == "state":
            return state.astype(np.float32), info
        if self.obs_mode == "pixels":
            image = self._camera(TEE.moved(*pose).pieces, agent, AGENT_RADIUS)
            return {"image": image, "agent": state[:2].astype(np.float32)}, info
        points = KEYPOINTS if self.obs_mode == "keypoints" else CORNERS
        return np.concatenate([block_points(state, points), state[:2]]).astype(np.float32), info

    def _initial_state(self, options: Mapping[str, Any]) -> tuple[list[float], bool]:
        for name in options:
            if name not in _OPTIONS:
                raise ValueError(
                    f"unknown reset option {name!r}{_near(name, _OPTIONS)}; the options are {', '.join(_OPTIONS)}"
                )
        if "paper_seed" in options:
            if len(options) > 1:
                raise ValueError(f"paper_seed fixes the initial state and its order; got {sorted(options)} together")
            return _paper_state(options["paper_seed"]), True
        if "state" in options:
            legacy = options.get("legacy", False)
            if not isinstance(legacy, bool):
                raise ValueError(f"legacy is True (position before angle) or False; got {legacy!r}")
            return _checked_state(options["state"]), legacy
        if "legacy" in options:
            raise ValueError("legacy is the order in which a given state is set: give state as well")
        draw = self.np_random
        places = [draw.integers(50, 450), draw.integers(50, 450), draw.integers(100, 400), draw.integers(100, 400)]
        return [*map(float, places), draw.uniform(-math.pi, math.pi)], False

    def _show(self, image: NDArray[np.uint8]) -> None:
        pygame = _import_pygame()
        if self._window is None:
            pygame.init()
            self._window = pygame.display.set_mode((self.render_size, self.render_size))
            pygame.display.set_caption("Push-T")
            self._clock = pygame.time.Clock()
        pygame.event.pump()  # an unanswered window counts as hung
        self._window.blit(pygame.surfarray.make_surface(image.swapaxes(0, 1)), (0, 0))
        pygame.display.update()
        self._clock.tick(CONTROL_HZ)


def _observation_space(obs_mode: str) -> spaces.Space[Any]:
    agent = [(0.0, WORLD_SIZE)] * 2
    point = [(-BLOCK_MARGIN, WORLD_SIZE + BLOCK_MARGIN)] * 2
    if obs_mode == "pixels":
        image = spaces.Box(0, 255, (OBSERVATION_SIZE, OBSERVATION_SIZE, 3), np.uint8)
        return spaces.Dict({"image": image, "agent": spaces.Box(0.0, WORLD_SIZE, (2,), np.float32)})
    if obs_mode == "state":
        bounds = [*agent, *point, (0.0, 2.0 * math.pi)]
    else:
        bounds = point * len(KEYPOINTS if obs_mode == "keypoints" else CORNERS) + agent
    low, high = np.array(bounds, dtype=np.float32).T
    return spaces.Box(low, high, dtype=np.float32)


def _checked_action(action: ArrayLike) -> Point:
    try:
        target = np.asarray(action, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"an action is two numbers, the target x and y in px; got {action!r}") from error
    if target.shape != (2,):
        raise ValueError(f"an action has shape (2,), the target x and y in px; got shape {target.shape}")
    x, y = target.tolist()
    if not (math.isfinite(x) and math.isfinite(y)):
        raise ValueError(f"an action holds finite numbers, the target x and y in px; got [{x}, {y}]")
    return min(max(x, 0.0), WORLD_SIZE), min(max(y, 0.0), WORLD_SIZE)


def _checked_state(state: ArrayLike) -> list[float]:
    names = ", ".join(_STATE_NAMES)
    try:
        values = np.asarray(state, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"state is five numbers [{names}]; got {state!r}") from error
    if values.shape != (5,):
        raise ValueError(f"state has shape (5,): [{names}]; got shape {values.shape}")
    for name, value in zip(_STATE_NAMES, values.tolist(), strict=True):
        if not math.isfinite(value):
            raise ValueError(f"state holds finite numbers; {name} is {value}")
        if name != "block angle" and not 0.0 <= value <= WORLD_SIZE:
            raise ValueError(f"{name} lies in [0, {WORLD_SIZE:g}] px; got {value:g}")
    return values.tolist()


def _paper_state(seed: Any) -> list[float]:
    """The initial state of the published evaluation's environment for a seed (diffusion_policy, `pusht_env.py`)."""
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or not 0 <= seed < 2**32:
        raise ValueError(f"paper_seed is a whole number from 0 to 2**32 - 1 (100000 on in the paper); got {seed!r}")
    draw = np.random.RandomState(int(seed))
    places = [draw.randint(50, 450), draw.randint(50, 450), draw.randint(100, 400), draw.randint(100, 400)]
    return [*map(float, places), float(draw.randn() * 2.0 * math.pi - math.pi)]


def _near(name: object, names: Sequence[str]) -> str:
    matches = difflib.get_close_matches(str(name), names, n=1)
    return f" (did you mean {matches[0]!r}?)" if matches else ""


def _import_pygame() -> Any:
    try:
        return importlib.import_module("pygame")
    except ImportError as error:
        raise gym.error.DependencyNotInstalled(
            'the human window needs pygame: pip install "diffpolicy[human]"'
        ) from error
