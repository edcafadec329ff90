"""gym-pusht: the Push-T of LeRobot, observed and started as this project's own, to score one policy in both."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar, final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..base import AGENT_BOUNDS
from ..checks import ANY, check_choice, numbers
from ..pusht import PushTEnv
from ..tee import CENTER_OF_GRAVITY, KEYPOINTS, block_points, corners
from .tools import SuiteEnv, needed

EXTRA = "gym-pusht"


@final
class GymPushTEnv(SuiteEnv):
    """
    ## Description
    gym-pusht's physics, reward and success under the interface of `PushTEnv`: the same observations (computed from
    gym-pusht's poses), actions, `info` and initial states, so that a policy for one can be evaluated in the other.

    ## Observation Space, Action Space, Starting State
    As of `diffpolicy/PushT-v0`, with the same options of `reset`. A seed starts where it starts there: gym-pusht
    draws the same numbers and then moves the block, since it sets the position before the angle; here it is put back.
    `obs_mode="pixels"` shows gym-pusht's own image under the key `image`.

    ## Rewards
    gym-pusht's: `clip(coverage / 0.95, 0, 1)`. `info` has gym-pusht's keys, and `state`, `coverage` and `success`.

    ## Episode End
    Terminated when the coverage exceeds 0.95. Truncated after 300 steps by the time limit of `gymnasium.make`.

    ## Arguments
    * `obs_mode`: `"state"`, `"keypoints"`, `"corners"` or `"pixels"`.
    * `render_mode`: `None` or `"rgb_array"`.
    * `render_size`: side of the rendered image, px.

    ## Version History
    * v0: original version, for gym-pusht 0.1.8.
    """

    metadata: ClassVar[dict[str, Any]] = {
        "render_modes": ["rgb_array"],
        "render_fps": PushTEnv.metadata["render_fps"],
        "task": PushTEnv.metadata["task"],
    }

    def __init__(self, obs_mode: str = "state", render_mode: str | None = None, render_size: int = 512) -> None:
        check_choice("obs_mode", obs_mode, PushTEnv.obs_modes)
        super().__init__(render_mode, render_size)
        self._like = PushTEnv(obs_mode)  # whose spaces and initial states these are
        self.obs_mode = obs_mode
        self.action_space, self.observation_space = self._like.action_space, self._like.observation_space
        module = needed("gym_pusht.envs.pusht", EXTRA)
        side = {"visualization_width": render_size, "visualization_height": render_size}
        self._env = module.PushTEnv(obs_type="pixels" if obs_mode == "pixels" else "state", **side)

    def reset(
        self, *, seed: int | None = None, options: Mapping[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Start an episode where `PushTEnv` would start it; the options are `state`, `legacy` and `paper_seed`.

        Raises:
            ValueError: an unknown option or a value out of range.
        """
        super().reset(seed=seed)
        _, info = self._like.reset(
            seed=int(self.np_random.integers(2**31)) if seed is None else seed, options=options
        )
        agent_x, agent_y, x, y, angle = info["state"].tolist()
        # gym-pusht sets the position first and then turns the block about its center of gravity, which moves it.
        c, s = math.cos(angle), math.sin(angle)
        u, v = CENTER_OF_GRAVITY
        before = [agent_x, agent_y, x + c * u - s * v - u, y + s * u + c * v - v, angle]
        seen, info = self._env.reset(options={"reset_to_state": before})
        self._started = True
        return self._observe(seen, {**info, "coverage": float(self._env._get_coverage()), "is_success": False})

    def step(self, action: ArrayLike) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Drive the agent towards `action`, (2,) px, for 0.1 s; targets out of range are clipped.

        Raises:
            ValueError: an action of another shape, or with values that are not finite numbers.
            RuntimeError: before the first `reset`.
        """
        self._require_started("step")
        target = np.array(numbers("action", action, ("target x", "target y"), (ANY, ANY)))
        (low, high), _ = AGENT_BOUNDS
        seen, reward, terminated, truncated, info = self._env.step(np.clip(target, low, high))
        observation, info = self._observe(seen, info)
        return observation, float(reward), bool(terminated), bool(truncated), info

    def _draw(self) -> NDArray[np.uint8]:
        return self._env.render()

    def close(self) -> None:
        """Close gym-pusht's environment."""
        self._env.close()

    def _observe(self, seen: Any, info: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
        x, y, angle = info["block_pose"]
        state = np.array([*info["pos_agent"], x, y, angle % (2.0 * math.pi)])
        success = bool(info["is_success"])
        said = {
            **info,
            "coverage": float(info["coverage"]),
            "is_success": success,
            "success": success,
            "state": state,
        }
        if self.obs_mode == "pixels":
            return {"image": seen, "agent": state[:2].astype(np.float32)}, said
        if self.obs_mode == "state":
            return state.astype(np.float32), said
        points = block_points(state, KEYPOINTS) if self.obs_mode == "keypoints" else corners(state)
        return np.concatenate([points, state[:2]]).astype(np.float32), said
