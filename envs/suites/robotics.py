"""gymnasium-robotics: a Fetch arm that reaches, pushes, picks and places; a ball in a maze."""

from __future__ import annotations

import abc
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, final

import numpy as np
from gymnasium import spaces
from numpy.typing import ArrayLike, NDArray

from ..checks import ANY, check_choice, numbers
from .tools import Cameras, SuiteEnv, goal_state, needed, refuse_options, suite_facts

EXTRA = "robotics"
KEYS = ("observation", "achieved_goal", "desired_goal")

MAZES = {
    "UMaze": ("U_MAZE", 300),
    "Open": ("OPEN", 300),
    "Medium": ("MEDIUM_MAZE", 600),
    "Large": ("LARGE_MAZE", 800),
}
"""Task of `PointMazeEnv` -> name of its map in the suite, and its time limit in steps."""

_SHOWN = ("render_mode", "render_size")


class GoalEnv(SuiteEnv):
    """An environment of gymnasium-robotics whose observation holds a goal; each subclass is a task.

    Args:
        env: the suite's own environment.
        axes: names of the action's numbers.
        render_mode: None or "rgb_array".
        render_size: side of a rendered image, px.
    """

    def __init__(self, env: Any, axes: tuple[str, ...], render_mode: str | None, render_size: int) -> None:
        super().__init__(render_mode, render_size)
        self._env, self._axes = env, axes
        self.action_space = spaces.Box(-1.0, 1.0, (len(axes),), np.float32)
        seen = {key: env.observation_space[key].shape for key in KEYS}
        self.observation_space = spaces.Dict(
            {key: spaces.Box(-np.inf, np.inf, shape, np.float64) for key, shape in seen.items()}
        )
        self._frames = Cameras(env.model, env.data, render_size)

    def reset(
        self, *, seed: int | None = None, options: Mapping[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Start an episode.

        Args:
            seed: of start and goal; None draws them from the present generator.
            options: none are known.

        Raises:
            ValueError: any option.
        """
        refuse_options(options)
        super().reset(seed=seed)
        observation, _ = self._env.reset(seed=seed)
        self._started = True
        return self._ordered(observation), {"state": goal_state(observation)}

    def step(self, action: ArrayLike) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        """Take one step.

        Raises:
            ValueError: an action of another shape, or with values that are not finite numbers.
            RuntimeError: before the first `reset`.
        """
        self._require_started("step")
        values = np.array(numbers("action", action, self._axes, [ANY] * len(self._axes)))
        clipped = np.clip(values, -1.0, 1.0).astype(np.float32)
        observation, reward, terminated, truncated, info = self._env.step(clipped)
        info = {**info, "success": self._success(info), "state": goal_state(observation)}
        return self._ordered(observation), float(reward), bool(terminated), bool(truncated), info

    def _draw(self) -> NDArray[np.uint8]:
        return self._frames.draw(self._view())

    def close(self) -> None:
        """Free what draws."""
        self._frames.close()
        self._env.close()

    @abc.abstractmethod
    def _success(self, info: Mapping[str, Any]) -> bool:
        """Return whether the goal is reached after a step."""

    @abc.abstractmethod
    def _view(self) -> Any:
        """Return where to look from, a `mujoco.MjvCamera`, with the goal shown."""

    def _ordered(self, observation: Mapping[str, Any]) -> dict[str, Any]:
        return {key: np.asarray(observation[key], np.float64) for key in KEYS}


def _camera(distance: float, azimuth: float, elevation: float, lookat: tuple[float, float, float]) -> Any:
    camera = needed("mujoco", EXTRA).MjvCamera()
    camera.distance, camera.azimuth, camera.elevation = distance, azimuth, elevation
    camera.lookat[:] = lookat
    return camera


class FetchEnv(GoalEnv):
    """A Fetch arm, 25 Hz, whose hand is moved by dx, dy, dz (5 cm each at 1) and whose gripper is opened by 1.

    `info["state"]` holds the observation's numbers, the achieved and the desired goal (x, y, z in m) in one vector.

    Args:
        reward_type: "sparse" (0 at the goal, -1 elsewhere) or "dense" (minus the distance to it, m).
        render_mode: None or "rgb_array".
        render_size: side of a rendered image, px.
    """

    metadata: ClassVar[dict[str, Any]] = GoalEnv.metadata | {
        "render_fps": 25,
        "task": suite_facts("episodes in which the goal was less than 5 cm away at some step", _SHOWN),
    }
    where: ClassVar[tuple[str, str]]
    """Module and class of the suite's environment."""

    def __init__(self, reward_type: str = "sparse", render_mode: str | None = None, render_size: int = 256) -> None:
        check_choice("reward_type", reward_type, ("sparse", "dense"))
        module, name = self.where
        env = getattr(needed(f"gymnasium_robotics.envs.fetch.{module}", EXTRA), name)(reward_type=reward_type)
        super().__init__(env, ("dx", "dy", "dz", "gripper"), render_mode, render_size)

    def _success(self, info: Mapping[str, Any]) -> bool:
        return bool(info["is_success"])

    def _view(self) -> Any:
        self._env._render_callback()  # moves the mark of the goal to where the goal is
        return _camera(2.0, 132.0, -14.0, (1.3, 0.75, 0.55))


@final
class FetchReachEnv(FetchEnv):
    """The hand is to reach a point in the air. Observation: `observation` (10,) and two goals (3,)."""

    where = ("reach", "MujocoFetchReachEnv")


@final
class FetchPushEnv(FetchEnv):
    """The closed hand is to push a cube to a point of the table. Observation: `observation` (25,), two goals (3,)."""

    where = ("push", "MujocoFetchPushEnv")


@final
class FetchPickAndPlaceEnv(FetchEnv):
    """The hand is to bring a cube to a point, often in the air. Observation: `observation` (25,), two goals (3,)."""

    where = ("pick_and_place", "MujocoFetchPickAndPlaceEnv")


@final
class PointMazeEnv(GoalEnv):
    """A ball is to roll through a maze, driven by a force along x and y, 100 steps of physics a second.

    Observation: `observation` (4,): x, y (m), their velocities (m/s); `achieved_goal` and `desired_goal` (2,), m.
    `info["state"]` holds these eight numbers. A success within 45 cm of the goal does not end the episode; it is
    truncated after 300 (UMaze, Open), 600 (Medium) or 800 steps (Large).

    Args:
        task: "UMaze", "Open", "Medium" or "Large".
        reward_type: "sparse" (1 at the goal, 0 elsewhere) or "dense" (exp of minus the distance to it, m).
        render_mode: None or "rgb_array".
        render_size: side of a rendered image, px.
    """

    metadata: ClassVar[dict[str, Any]] = GoalEnv.metadata | {
        "render_fps": 100,
        "task": suite_facts("episodes in which the ball was within 45 cm of the goal at some step", _SHOWN),
    }

    def __init__(
        self,
        task: str = "UMaze",
        reward_type: str = "sparse",
        render_mode: str | None = None,
        render_size: int = 256,
    ) -> None:
        check_choice("maze", task, MAZES)
        check_choice("reward_type", reward_type, ("sparse", "dense"))
        map_name, self._limit = MAZES[task]
        cells = getattr(needed("gymnasium_robotics.envs.maze.maps", EXTRA), map_name)
        module = needed("gymnasium_robotics.envs.maze.point_maze", EXTRA)
        env = module.PointMazeEnv(maze_map=cells, reward_type=reward_type)
        Path(env.tmp_xml_file_path).unlink(missing_ok=True)  # which the suite leaves behind
        super().__init__(env, ("force x", "force y"), render_mode, render_size)
        self._width, self._steps = max(len(cells), len(cells[0])), 0

    def reset(
        self, *, seed: int | None = None, options: Mapping[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Start an episode, see `GoalEnv.reset`."""
        self._steps = 0
        return super().reset(seed=seed, options=options)

    def step(self, action: ArrayLike) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        """Take one step, see `GoalEnv.step`."""
        observation, reward, terminated, truncated, info = super().step(action)
        self._steps += 1
        return observation, reward, terminated, truncated or self._steps >= self._limit, info

    def _success(self, info: Mapping[str, Any]) -> bool:
        return bool(info["success"])

    def _view(self) -> Any:
        return _camera(1.3 * self._width, 90.0, -90.0, (0.0, 0.0, 0.0))
