"""What the pushing environments share: spaces, options, the step, pictures. A task is a subclass, one per module."""

from __future__ import annotations

import abc
import difflib
import importlib
import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import ArrayLike, NDArray

from .drawing import OBSERVATION_SIZE, ObservationCamera, SceneRenderer
from .geometry import Point, Polygon, Region
from .physics import AGENT_RADIUS, CONTROL_HZ, PHYSICS_STEPS, WALL_RADIUS, WALLS, WORLD_SIZE, Table

AGENT_BOUNDS = ((0.0, WORLD_SIZE), (0.0, WORLD_SIZE))
SUCCESS_COVERAGE = 0.95


class PushingEnv(gym.Env[Any, NDArray[np.float32]], abc.ABC):
    """An agent that pushes blocks about a table; `PushTEnv` documents the actions, options and errors.

    A subclass calls `_set_goal` before its first picture is drawn, and answers for what is on the table: `_begin`
    puts it there, `_state` reads where it is, `_judge` says how well that is, `_numbers` observes it, `_blocks` is
    its outline.

    Args:
        obs_mode: one of the class's `obs_modes`.
        bounds: (low, high) of each number of a vector observation.
        obstacles: what blocks cannot pass; the agent, a tool held from above, reaches over them.
        render_mode, render_size: see `PushTEnv`.

    Raises:
        ValueError: for an argument that is none of those.
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array", "human"], "render_fps": CONTROL_HZ}
    modes: ClassVar[tuple[str, ...]] = ()
    obs_modes: ClassVar[tuple[str, ...]] = ("state", "pixels")
    reset_options: ClassVar[tuple[str, ...]] = ("state",)

    def __init__(
        self,
        obs_mode: str,
        bounds: Sequence[tuple[float, float]],
        obstacles: Sequence[Region],
        render_mode: str | None,
        render_size: int,
    ) -> None:
        check_choice("obs_mode", obs_mode, self.obs_modes)
        if render_mode not in (None, *self.metadata["render_modes"]):
            raise ValueError(f"render_mode is None, 'rgb_array' or 'human'; got {render_mode!r}")
        if not isinstance(render_size, int) or render_size < 16:
            raise ValueError(f"render_size is a whole number of pixels from 16 up; got {render_size!r}")
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
        self._obstacles = tuple(obstacles)
        self._goal_pieces: tuple[Polygon, ...] = ()
        self._camera: ObservationCamera | None = None
        self._renderer: SceneRenderer | None = None
        self._window: Any = None
        self._clock: Any = None
        self._table: Table | None = None
        self._target: Point | None = None

    @abc.abstractmethod
    def _begin(self, table: Table, options: Mapping[str, Any]) -> None:
        """Put the agent and the blocks on a fresh table."""

    @abc.abstractmethod
    def _state(self) -> NDArray[np.float64]:
        """Where everything is: agent x and y in px, then the blocks."""

    @abc.abstractmethod
    def _judge(self, state: NDArray[np.float64]) -> tuple[float, dict[str, Any]]:
        """The reward, and what goes into `info`: `coverage`, `success` and what is the task's own."""

    @abc.abstractmethod
    def _numbers(self, state: NDArray[np.float64]) -> NDArray[np.float64]:
        """The vector observation."""

    @abc.abstractmethod
    def _blocks(self) -> Sequence[Polygon]:
        """The convex pieces of all blocks, in the world."""

    def _follow(self, state: NDArray[np.float64]) -> None:
        """Forget the mode of the last episode and follow one that starts with `state`."""

    def mode_of(self, states: NDArray[np.floating]) -> str:
        """Return the one of `modes` in which a recorded episode was done, "" if in none.

        This disturbs an episode that the environment is in; make one for the purpose.

        Args:
            states: the episode's `info["state"]` in their order, (L, D).
        """
        states = np.asarray(states, np.float64)
        self._follow(states[0])
        mode = ""
        for state in states:
            mode = self._judge(state)[1].get("mode", "")
        return mode

    def reset(
        self, *, seed: int | None = None, options: Mapping[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Start an episode; see the class for the options and what they raise."""
        super().reset(seed=seed)
        options = {} if options is None else options
        if not isinstance(options, Mapping):
            raise TypeError(f"options is a dict such as {{'state': [...]}}; got {type(options).__name__}")
        for name in options:
            check_choice("reset option", name, self.reset_options)
        table = Table([obstacle for region in self._obstacles for obstacle in region.pieces])
        self._begin(table, options)
        self._table, self._target = table, None
        self._follow(self._state())
        observation, _, info = self._observe(table.settle())
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
        observation, reward, info = self._observe(self._table.control(self._target))
        if self.render_mode == "human":
            self.render()
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
        if self._table is None:
            raise RuntimeError("render() was called before the first reset()")
        if self._renderer is None:
            self._renderer = SceneRenderer(
                self.render_size, self._goal_pieces, WALLS, WALL_RADIUS, self._obstacle_pieces()
            )
        image = self._renderer(self._blocks(), self._table.agent.position, AGENT_RADIUS, self._target)
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

    def _set_goal(self, pieces: Sequence[Polygon]) -> None:
        """What to draw as the goal from now on; pictures of another goal are forgotten."""
        self._goal_pieces, self._camera, self._renderer = tuple(pieces), None, None

    def _obstacle_pieces(self) -> list[Polygon]:
        return [piece for obstacle in self._obstacles for piece in obstacle.pieces]

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
            self._camera = ObservationCamera(self._goal_pieces, WALLS, WALL_RADIUS, self._obstacle_pieces())
        image = self._camera(self._blocks(), self._table.agent.position, AGENT_RADIUS)
        return {"image": image, "agent": state[:2].astype(np.float32)}, reward, info

    def _show(self, image: NDArray[np.uint8]) -> None:
        pygame = _import_pygame()
        if self._window is None:
            pygame.init()
            self._window = pygame.display.set_mode((self.render_size, self.render_size))
            pygame.display.set_caption(type(self).__name__.removesuffix("Env"))
            self._clock = pygame.time.Clock()
        pygame.event.pump()  # an unanswered window counts as hung
        self._window.blit(pygame.surfarray.make_surface(image.swapaxes(0, 1)), (0, 0))
        pygame.display.update()
        self._clock.tick(CONTROL_HZ)


def task_facts(
    paths: Mapping[str, Sequence[int]],
    modes: Sequence[str] = (),
    seed_sets: Mapping[str, Mapping[str, Any]] | None = None,
) -> dict[str, Any]:
    """Return what a general evaluation needs to know of a task, as plain data: `metadata["task"]`.

    Args:
        paths: the columns of `info["state"]` that are the x and y of each block.
        modes: the names that `info["mode"]` can have, "" apart; none for a task that has no modes.
        seed_sets: published sets of initial states: name -> first seed, episodes, and the reset option for a seed.

    Returns:
        "success_key" and "success_description": where `info` says that the task is done, and when it does;
        "metrics": name -> where its values are (a key of `info`, or "reward"), how an episode's are reduced ("max" or
        "last"), and its meaning; the first one is the score; "extent": left, right, bottom and top edge of a rendered
        image in the units of actions and positions, as in matplotlib's `imshow` (here y points down); "mode_key":
        where `info` names the mode; "modes", "paths" and "seed_sets", as given; "display_options": the arguments
        that change what is observed or shown and nothing of what happens.
    """
    return {
        "success_key": "success",
        "success_description": f"episodes with a coverage above {SUCCESS_COVERAGE} at some step",
        "metrics": {
            "score": {
                "key": "reward",
                "reducer": "max",
                "description": f"maximum over an episode of clip(coverage / {SUCCESS_COVERAGE}, 0, 1)",
            },
            "final_coverage": {"key": "coverage", "reducer": "last", "description": "at the last step"},
        },
        "extent": [0, int(WORLD_SIZE), int(WORLD_SIZE), 0],
        "mode_key": "mode" if modes else None,
        "modes": list(modes),
        "paths": {name: list(columns) for name, columns in paths.items()},
        "seed_sets": {name: dict(found) for name, found in (seed_sets or {}).items()},
        "display_options": ["obs_mode", "render_mode", "render_size"],
    }


def check_choice(what: str, name: object, choices: Collection[str]) -> None:
    """Raise ValueError, with the near ones, unless `name` is one of `choices`."""
    if name not in choices:
        near = difflib.get_close_matches(str(name), choices, n=1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        raise ValueError(f"unknown {what} {name!r}{hint}; choose one of {', '.join(choices)}")


def checked_state(state: ArrayLike, names: Sequence[str]) -> list[float]:
    """A state from outside: one finite number per name, and all but angles in [0, WORLD_SIZE].

    Raises:
        ValueError: says which number is wrong.
    """
    try:
        values = np.asarray(state, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"state is {len(names)} numbers [{', '.join(names)}]; got {state!r}") from error
    if values.shape != (len(names),):
        raise ValueError(f"state has shape ({len(names)},): [{', '.join(names)}]; got shape {values.shape}")
    for name, value in zip(names, values.tolist(), strict=True):
        if not math.isfinite(value):
            raise ValueError(f"state holds finite numbers; {name} is {value}")
        if not name.endswith("angle") and not 0.0 <= value <= WORLD_SIZE:
            raise ValueError(f"{name} lies in [0, {WORLD_SIZE:g}] px; got {value:g}")
    return values.tolist()


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


def _import_pygame() -> Any:
    try:
        return importlib.import_module("pygame")
    except ImportError as error:
        raise gym.error.DependencyNotInstalled(
            'the human window needs pygame: pip install "diffpolicy[human]"'
        ) from error
