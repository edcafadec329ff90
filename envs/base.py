"""What the pushing environments share: spaces, options, the step, images. A task is a subclass, one per module."""

from __future__ import annotations

import abc
import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import ArrayLike, NDArray

from .checks import ANY, Bounds, check_choice, numbers, require
from .drawing import OBSERVATION_SIZE, ObservationCamera, Scene, SceneRenderer
from .geometry import Point, Polygon, Region
from .physics import CONTROL_HZ, PHYSICS_STEPS, WORLD_SIZE, Pushable, Table
from .window import Window

AGENT_BOUNDS: tuple[Bounds, Bounds] = ((0.0, WORLD_SIZE), (0.0, WORLD_SIZE))


class PushingEnv(gym.Env[Any, NDArray[np.float32]], abc.ABC):
    """An agent that pushes blocks on a table; each subclass is a task.

    A subclass calls `_set_goal` before its first image is drawn and implements the abstract methods: `_layout` says
    where everything starts, `_state` reads where it is, `_judge` says how well that is, `_numbers` observes it, and
    `_blocks` outlines it.

    A copy, by `copy.deepcopy` or pickling, continues to the same bits as the original, whatever touches. Making one
    takes as long as the steps of the episode so far. A window of render mode "human" is not copied.

    Args:
        obs_mode: one of the class's `obs_modes`.
        bounds: (low, high) of each number of a vector observation.
        obstacles: what stops blocks; the agent, a tool held from above, reaches over them.
        render_mode: None, "rgb_array" or "human".
        render_size: side of a rendered image, px.

    Raises:
        ValueError: an unknown mode, or a size below 16.
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array", "human"], "render_fps": CONTROL_HZ}
    obs_modes: ClassVar[tuple[str, ...]] = ("state", "pixels")
    reset_options: tuple[str, ...] = ("state",)
    modes: ClassVar[tuple[str, ...]] = ()
    """Names of the modes in which the task can be done."""

    def __init__(
        self,
        obs_mode: str,
        bounds: Sequence[Bounds],
        obstacles: Sequence[Region],
        render_mode: str | None,
        render_size: int,
    ) -> None:
        check_choice("obs_mode", obs_mode, self.obs_modes)
        if render_mode is not None:
            check_choice("render_mode", render_mode, self.metadata["render_modes"])
        whole = isinstance(render_size, int) and render_size >= 16
        require(whole, f"render_size={render_size!r}", "a whole number of pixels, at least 16")
        self.obs_mode = obs_mode
        self.render_mode = render_mode
        self.render_size = render_size
        self.action_space = spaces.Box(0.0, WORLD_SIZE, (2,), np.float32)
        if obs_mode == "pixels":
            image = spaces.Box(0, 255, (OBSERVATION_SIZE, OBSERVATION_SIZE, 3), np.uint8)
            agent = spaces.Box(0.0, WORLD_SIZE, (2,), np.float32)
            self.observation_space: spaces.Space[Any] = spaces.Dict({"image": image, "agent": agent})
        else:
            low, high = np.array(bounds, dtype=np.float32).T
            self.observation_space = spaces.Box(low, high, dtype=np.float32)
        if "task" in self.metadata:  # a subclass's
            task = {**self.metadata["task"], "follows": self._agent_columns()}
            self.metadata = {**self.metadata, "task": task}  # type: ignore[misc]
        self._obstacles = tuple(obstacles)
        self._goal_pieces: tuple[Polygon, ...] = ()
        self._camera: ObservationCamera | None = None
        self._renderer: SceneRenderer | None = None
        self._window: Window | None = None
        self._table: Table | None = None
        self._target: Point | None = None

    def _agent_columns(self) -> list[int]:
        """Return which numbers of the observation's vector are the agent's x and y, which follow the action's."""
        return [0, 1]

    @abc.abstractmethod
    def _layout(self, options: Mapping[str, Any]) -> tuple[Point, Sequence[Pushable]]:
        """Return where the agent and the blocks start."""

    @abc.abstractmethod
    def _state(self) -> NDArray[np.float64]:
        """Return where everything is: agent x and y in px, then the blocks."""

    @abc.abstractmethod
    def _judge(self, state: NDArray[np.float64]) -> tuple[float, Mapping[str, Any]]:
        """Return the reward, and the task's part of `info`: `coverage`, `success` and more."""

    @abc.abstractmethod
    def _numbers(self, state: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the vector observation."""

    @abc.abstractmethod
    def _blocks(self) -> Sequence[Polygon]:
        """Return the convex pieces of all blocks, in the world."""

    def _follow(self, state: NDArray[np.float64]) -> None:
        """Forget the mode of the last episode and follow one that starts with `state`."""

    def mode_of(self, states: NDArray[np.floating]) -> str:
        """Return the one of `modes` in which a recorded episode was done, "" if in none.

        The episode that the environment is in forgets its own mode.

        Args:
            states: the recorded `info["state"]` in their order, (L, D).
        """
        mode = ""
        if self.modes:
            self._follow(np.asarray(states[0], np.float64))
            for state in np.asarray(states, np.float64):
                mode = self._judge(state)[1]["mode"]
        return mode

    def reset(
        self, *, seed: int | None = None, options: Mapping[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Start an episode.

        The option `state` starts exactly at an `info["state"]` of this or another episode. It does not restore what
        is no part of the state: the agent's velocity (it starts at rest), the mode so far, the number of steps, the
        random generator, and the contacts that the physics starts from (bodies that overlap are parted in the next
        step). To continue an episode exactly, copy the environment instead.

        Args:
            seed: of the environment's random generator; None keeps the present one.
            options: see the class for the names and values.

        Raises:
            TypeError: `options` is no dict.
            ValueError: an unknown option or a value out of range; a running episode is left as it was.
        """
        super().reset(seed=seed)
        options = {} if options is None else options
        require(
            isinstance(options, Mapping), f"options={options!r}", "a dict such as {'state': [...]}", None, TypeError
        )
        for name in options:
            check_choice("reset option", name, self.reset_options)
        agent, blocks = self._layout(options)
        self._table, self._target = Table(agent, blocks, self._obstacle_pieces()), None
        self._follow(self._state())
        observation, _, info = self._observe(self._table.settle())
        if self.render_mode == "human":
            self.render()
        return observation, info

    def step(self, action: ArrayLike) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Drive the agent towards `action`, (2,) px, for 0.1 s.

        Raises:
            ValueError: an action of another shape, or with values that are not finite numbers.
            RuntimeError: before the first `reset`.
        """
        require(self._table, "step() before the first reset()", "reset() first", None, RuntimeError)
        x, y = numbers("action", action, ("target x", "target y"), (ANY, ANY))
        self._target = min(max(x, 0.0), WORLD_SIZE), min(max(y, 0.0), WORLD_SIZE)
        observation, reward, info = self._observe(self._table.control(self._target))
        if self.render_mode == "human":
            self.render()
        return observation, reward, info["success"], False, info

    def render(self) -> NDArray[np.uint8] | None:
        """Return an image, (render_size, render_size, 3) uint8 RGB, or show it in render mode "human".

        Raises:
            RuntimeError: before the first `reset`.
            gymnasium.error.DependencyNotInstalled: render mode "human" without pygame.
        """
        if self.render_mode is None:
            gym.logger.warn('render() draws nothing: give a render_mode to gym.make(), such as "rgb_array"')
            return None
        require(self._table, "render() before the first reset()", "reset() first", None, RuntimeError)
        if self._renderer is None:
            self._renderer = SceneRenderer(self._scene(), self.render_size)
        image = self._renderer(self._blocks(), self._table.agent.position, self._target)
        if self.render_mode == "rgb_array":
            return image
        if self._window is None:
            self._window = Window(type(self).__name__.removesuffix("Env"), self.render_size, CONTROL_HZ)
        self._window.show(image)
        return None

    def close(self) -> None:
        """Close the window of render mode "human", if there is one."""
        if self._window is not None:
            self._window.close()
            self._window = None

    def __getstate__(self) -> dict[str, Any]:
        # A copy makes its own window, and draws again what is drawn once.
        return self.__dict__ | {"_camera": None, "_renderer": None, "_window": None}

    def _set_goal(self, pieces: Sequence[Polygon]) -> None:
        """Draw `pieces` as the goal from now on."""
        self._goal_pieces, self._camera, self._renderer = tuple(pieces), None, None

    def _obstacle_pieces(self) -> list[Polygon]:
        return [piece for obstacle in self._obstacles for piece in obstacle.pieces]

    def _scene(self) -> Scene:
        return Scene(self._goal_pieces, tuple(self._obstacle_pieces()))

    def _observe(self, contacts: int) -> tuple[Any, float, dict[str, Any]]:
        state = self._state()
        reward, judged = self._judge(state)
        info = {
            **judged,
            "is_success": judged["success"],
            "n_contacts": math.ceil(contacts / PHYSICS_STEPS),
            "state": state,
        }
        if self.obs_mode != "pixels":
            return self._numbers(state).astype(np.float32), reward, info
        if self._camera is None:
            self._camera = ObservationCamera(self._scene())
        image = self._camera(self._blocks(), self._table.agent.position)
        return {"image": image, "agent": state[:2].astype(np.float32)}, reward, info
