"""Meta-World (Yu et al. 2020; McLean et al. 2025): 50 tasks of a robot arm on a table, and their experts."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, final

import numpy as np
from gymnasium import spaces
from numpy.typing import ArrayLike, NDArray

from ..checks import ANY, check_choice, numbers, require
from ..experts.base import Expert, Vector
from .tools import Cameras, SuiteEnv, check_cameras, check_size, needed, refuse_options, suite_facts

EXTRA = "metaworld"
OBS_MODES = ("state", "pixels", "both")
STATE, HAND = 39, 4
UPSIDE_DOWN = ("corner", "corner2", "corner3", "corner4")

BENCHMARK = (
    "reach-v3",
    "push-v3",
    "pick-place-v3",
    "door-open-v3",
    "drawer-open-v3",
    "drawer-close-v3",
    "button-press-topdown-v3",
    "peg-insert-side-v3",
    "window-open-v3",
    "window-close-v3",
    "assembly-v3",
    "hammer-v3",
    "basketball-v3",
    "shelf-place-v3",
    "coffee-push-v3",
    "sweep-into-v3",
)
"""The 16 tasks of this project's comparison: the experts solve each in 80% of episodes or more."""

_AXES = ("dx", "dy", "dz", "gripper")


@final
class MetaWorldEnv(SuiteEnv):
    """
    ## Description
    One of Meta-World's 50 tasks, chosen by `task`, with the goal observed. One step is 1/80 s.

    ## Observation Space
    `Dict`, chosen by `obs_mode`; `x`, `y`, `z` in m.

    | Key      | In modes         | Observation                                 | Shape           | Dtype   |
    |----------|------------------|---------------------------------------------|-----------------|---------|
    | `state`  | `state`, `both`  | see below                                   | (39,)           | float64 |
    | `hand`   | `pixels`         | hand x, y, z; gripper opening, 0 to 1       | (4,)            | float64 |
    | a camera | `pixels`, `both` | RGB image of the camera with this name      | (size, size, 3) | uint8   |

    | Num   | Part of `state`                                                                         |
    |-------|-----------------------------------------------------------------------------------------|
    | 0-3   | hand x, y, z; gripper opening                                                           |
    | 4-17  | x, y, z and a quaternion of up to two objects, 0 where there is none                    |
    | 18-35 | the same 18 numbers, one step before                                                    |
    | 36-38 | goal x, y, z                                                                            |

    ## Action Space
    `Box(-1, 1, (4,), float32)`: the hand's displacement dx, dy, dz (1 cm each at 1) and the gripper's effort, which
    closes it at 1. Values out of range are clipped.

    ## Rewards
    Meta-World's own shaped reward, 0 to 10. `reset` and `step` return in `info` the 39 numbers as `state` in every
    mode; `step` adds `success` and what Meta-World says: `near_object`, `grasp_success`, `grasp_reward`,
    `in_place_reward`, `obj_to_target`, `unscaled_reward`.

    ## Starting State
    Objects and goal uniform over the task's own ranges, by `reset(seed=)`: the same seed gives the same episode to
    the bit, in every instance, after whatever was played before. They are not among the 50 fixed goals of `MT1`.

    ## Episode End
    Truncated after 500 steps, which Meta-World itself insists on. It does not stop at a success.

    ## Arguments
    * `task`: name of one of Meta-World's tasks, such as `"push-v3"`.
    * `obs_mode`: `"state"`, `"pixels"` or `"both"`.
    * `cameras`: names of one or several of `"topview"`, `"corner"`, `"corner2"`, `"corner3"`, `"corner4"`,
      `"behindGripper"`, `"gripperPOV"`. The images of the corner cameras are turned right side up.
    * `size`: side of an observed image, px.
    * `render_mode`: `None` or `"rgb_array"`: `render` returns what the first camera sees.
    * `render_size`: side of the rendered image, px.

    ## Version History
    * v0: original version, for Meta-World 3.1.1.
    """

    metadata: ClassVar[dict[str, Any]] = {
        "render_modes": ["rgb_array"],
        "render_fps": 80,
        "task": suite_facts(
            "episodes in which Meta-World says success at some step",
            ["obs_mode", "cameras", "size", "render_mode", "render_size"],
        ),
    }

    def __init__(
        self,
        task: str = "push-v3",
        obs_mode: str = "state",
        cameras: Sequence[str] = ("corner4",),
        size: int = 96,
        render_mode: str | None = None,
        render_size: int = 256,
    ) -> None:
        check_choice("obs_mode", obs_mode, OBS_MODES)
        check_size("size", size)
        super().__init__(render_mode, render_size)
        self.task, self.obs_mode = task, obs_mode
        self._env = _made(task)
        model, data = self._env.model, self._env.data
        self.cameras = check_cameras(cameras, model)
        self.action_space = spaces.Box(-1.0, 1.0, (len(_AXES),), np.float32)
        seen: dict[str, spaces.Space[Any]] = {}
        if obs_mode != "pixels":
            seen["state"] = spaces.Box(-np.inf, np.inf, (STATE,), np.float64)
        else:
            seen["hand"] = spaces.Box(-np.inf, np.inf, (HAND,), np.float64)
        if obs_mode != "state":
            seen |= {camera: spaces.Box(0, 255, (size, size, 3), np.uint8) for camera in self.cameras}
        self.observation_space = spaces.Dict(seen)
        self._eyes = Cameras(model, data, size, UPSIDE_DOWN)
        self._frames = Cameras(model, data, render_size, UPSIDE_DOWN)

    def reset(
        self, *, seed: int | None = None, options: Mapping[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Start an episode.

        Args:
            seed: of objects and goal; None draws one from the present generator.
            options: none are known.

        Raises:
            ValueError: any option.
        """
        refuse_options(options)
        super().reset(seed=seed)
        # Meta-World ignores the seed of its reset; `seed` before it is what counts.
        self._env.seed(int(self.np_random.integers(2**31)) if seed is None else seed)
        state, _ = self._env.reset()
        self._started = True
        return self._observe(state), {"state": state.copy()}

    def step(self, action: ArrayLike) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        """Take one step of 1/80 s.

        Raises:
            ValueError: an action of another shape, or with values that are not finite numbers; more than 500 steps.
            RuntimeError: before the first `reset`.
        """
        self._require_started("step")
        values = np.array(numbers("action", action, _AXES, [ANY] * len(_AXES)))
        over = self._env.curr_path_length >= self._env.max_path_length
        require(not over, f"a step after {self._env.max_path_length}", "an episode no longer", "reset()")
        state, reward, _, truncated, info = self._env.step(np.clip(values, -1.0, 1.0).astype(np.float32))
        info = {**info, "success": bool(info["success"]), "state": state.copy()}
        return self._observe(state), float(reward), False, bool(truncated), info

    def _draw(self) -> NDArray[np.uint8]:
        return self._frames.draw(self.cameras[0])

    def close(self) -> None:
        """Free what draws."""
        self._eyes.close()
        self._frames.close()

    def _observe(self, state: NDArray[np.float64]) -> dict[str, Any]:
        if self.obs_mode == "state":
            return {"state": state}
        images = {camera: self._eyes.draw(camera) for camera in self.cameras}
        return {"state": state, **images} if self.obs_mode == "both" else {"hand": state[:HAND].copy(), **images}


def _made(task: str) -> Any:
    """Return Meta-World's environment of a task, which observes its goal and draws all it draws by its own seed.

    `metaworld.MT1` would draw 50 goals first, which takes five seconds, and choose among them; this is what it does
    to an environment, and that the start is drawn anew.
    """
    classes = needed("metaworld", EXTRA).ALL_V3_ENVIRONMENTS
    check_choice("Meta-World task", task, sorted(classes))
    env = classes[task]()
    env._set_task_called, env._partially_observable = True, False
    del env.sawyer_observation_space  # computed once, and without the goal so far
    env._freeze_rand_vec, env.seeded_rand_vec = False, True
    return env


@final
class MetaWorldExpert(Expert):
    """Acts by the policy that Meta-World ships for a task; the actions are clipped to the action space.

    Args:
        seed: has no effect: the policies draw nothing.
        options: the environment's constructor arguments; `task` is read.
    """

    id = "diffpolicy/MetaWorld-v0"
    settings: ClassVar[Mapping[str, Any]] = {"policy": "metaworld.policies.ENV_POLICY_MAP"}

    def __init__(self, seed: int, options: Mapping[str, Any] | None = None) -> None:
        super().__init__(seed, options)
        warnings.filterwarnings("ignore", r"Constant\(s\) may be too high")  # said of every action out of [-1, 1]
        policies = needed("metaworld.policies", EXTRA).ENV_POLICY_MAP
        task = (options or {}).get("task", "push-v3")
        check_choice("Meta-World task", task, sorted(policies))
        self._policy = policies[task]()

    def reset(self, obs: Any, info: Mapping[str, Any]) -> None:
        """Start an episode; nothing is remembered."""

    def act(self, obs: Any, info: Mapping[str, Any]) -> Vector:
        """Return the next action (4,) in [-1, 1].

        Args:
            obs: has no effect.
            info: what the environment's last `reset` or `step` returned.
        """
        return np.clip(self._policy.get_action(info["state"]), -1.0, 1.0).astype(np.float32)
