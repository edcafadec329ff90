"""Ten tasks of Meta-World in one environment, told in words which."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, final

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import ArrayLike, NDArray

from ..checks import check_choice, require
from ..experts.base import Expert, Vector
from ..phrases import PHRASINGS, text_space
from .metaworld import STATE, MetaWorldEnv, MetaWorldExpert
from .tools import suite_facts

TEXTS: dict[str, tuple[str, ...]] = {
    "reach-v3": ("reach the goal", "move the hand to the goal"),
    "push-v3": ("push the puck to the goal", "move the puck over the table to the goal"),
    "pick-place-v3": ("pick the puck up and place it at the goal", "lift the puck to the goal"),
    "door-open-v3": ("open the door", "pull the door open by the handle"),
    "drawer-open-v3": ("open the drawer", "pull the drawer open by the handle"),
    "drawer-close-v3": ("close the drawer", "push the drawer shut"),
    "button-press-topdown-v3": ("press the button from the top", "press the button down"),
    "peg-insert-side-v3": ("insert the peg into the hole", "pick the peg up and push it into the hole"),
    "window-open-v3": ("open the window", "push the window open by the handle"),
    "window-close-v3": ("close the window", "push the window shut by the handle"),
}
"""Ten tasks, those of Meta-World's MT10, and what each is called in words."""
HELD_OUT: dict[str, str] = {
    "reach-v3": "move to the goal",
    "push-v3": "push the puck over the table",
    "pick-place-v3": "pick the puck up and lift it to the goal",
    "door-open-v3": "pull the door open",
    "drawer-open-v3": "pull the drawer open",
    "drawer-close-v3": "push the drawer",
    "button-press-topdown-v3": "press the button",
    "peg-insert-side-v3": "push the peg into the hole",
    "window-open-v3": "push the window open",
    "window-close-v3": "push the window shut",
}
"""The same in other words of that vocabulary."""


def texts(task: str, phrasings: str) -> tuple[str, ...]:
    """Return all the words in which a task, one of `TEXTS`, is asked for; `phrasings` is one of `PHRASINGS`."""
    check_choice("phrasings", phrasings, PHRASINGS)
    return TEXTS[task] if phrasings == PHRASINGS[0] else (HELD_OUT[task],)


@final
class ToldMetaWorldEnv(gym.Env[Any, NDArray[np.float32]]):
    """
    ## Description
    Ten tasks of Meta-World by one arm: an episode is one of theirs, drawn at random, and says in words which.
    Physics, rewards and ends are those of `diffpolicy/MetaWorld-v0`.

    ## Observation Space
    `Dict`

    | Key     | Observation                                              | Shape | Dtype   |
    |---------|----------------------------------------------------------|-------|---------|
    | `state` | hand, objects, goal, as in `diffpolicy/MetaWorld-v0`     | (39,) | float64 |
    | `task`  | what is asked for                                        | text  |         |

    ## Action Space
    `Box(-1, 1, (4,), float32)`, as there.

    ## Rewards
    Those of the episode's task. `info` is its, and names it as `task`.

    ## Starting State
    That of the task with the same seed.

    ## Episode End
    Truncated after 500 steps. It does not stop at a success.

    ## Arguments
    * `task`: the one task of all episodes; `None` draws one for each.
    * `phrasings`: `"taught"`, the words of demonstrations, or `"held_out"`, others made of the same vocabulary.
    * `render_mode`: `None` or `"rgb_array"`.
    * `render_size`: side of the rendered image, px.

    ## Version History
    * v0: original version, for Meta-World 3.1.1.
    """

    metadata: ClassVar[dict[str, Any]] = {
        "render_modes": ["rgb_array"],
        "render_fps": 80,
        "task": suite_facts(
            "episodes in which Meta-World says success at some step", ["phrasings", "render_mode", "render_size"]
        ),
    }

    def __init__(
        self,
        task: str | None = None,
        phrasings: str = PHRASINGS[0],
        render_mode: str | None = None,
        render_size: int = 256,
    ) -> None:
        if task is not None:
            check_choice("task", task, TEXTS)
        check_choice("phrasings", phrasings, PHRASINGS)
        self.render_mode = render_mode
        self._fixed, self._phrasings = task, phrasings
        self._shown = {"render_mode": render_mode, "render_size": render_size}
        self._tasks: dict[str, MetaWorldEnv] = {}
        self._name, self._text = "", ""
        first = self._of(task or next(iter(TEXTS)))
        said = [text for name in TEXTS for one in PHRASINGS for text in texts(name, one)]
        self.action_space = first.action_space
        self.observation_space = spaces.Dict(
            {
                "state": spaces.Box(-np.inf, np.inf, (STATE,), np.float64),
                "task": text_space(said),
            }
        )

    def _of(self, name: str) -> MetaWorldEnv:
        """The environment of a task, made when it is first asked for."""
        if name not in self._tasks:
            self._tasks[name] = MetaWorldEnv(name, **self._shown)
        return self._tasks[name]

    def reset(
        self, *, seed: int | None = None, options: Mapping[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Start an episode.

        Args:
            seed: of the task's objects and goal, of which task it is, and of its words.
            options: none are known.

        Raises:
            ValueError: any option.
        """
        super().reset(seed=seed)
        drawn = list(TEXTS)[self.np_random.integers(len(TEXTS))]
        self._name = self._fixed or drawn
        seed = int(self.np_random.integers(2**31)) if seed is None else seed
        said = texts(self._name, self._phrasings)
        self._text = said[seed % len(said)]
        obs, info = self._of(self._name).reset(seed=seed, options=options)
        return self._told(obs), {**info, "task": self._name}

    def step(self, action: ArrayLike) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        """Take one step of 1/80 s. Raises as the task's own `step`."""
        require(self._name, "step() before the first reset()", "reset() first", None, RuntimeError)
        obs, reward, terminated, truncated, info = self._of(self._name).step(action)
        return self._told(obs), reward, terminated, truncated, {**info, "task": self._name}

    def _told(self, obs: Mapping[str, Any]) -> dict[str, Any]:
        return {"state": obs["state"], "task": self._text}

    def render(self) -> NDArray[np.uint8] | None:
        """Return an image of the task, (render_size, render_size, 3) uint8 RGB; None without a render mode."""
        return self._of(self._name or next(iter(self._tasks))).render()

    def close(self) -> None:
        """Free what draws."""
        for env in self._tasks.values():
            env.close()


@final
class ToldMetaWorldExpert(Expert):
    """Acts by the policy that Meta-World ships for the episode's task.

    Args:
        seed: has no effect.
        options: the environment's constructor arguments; none is read.
    """

    id = "diffpolicy/MetaWorldTold-v0"
    settings: ClassVar[Mapping[str, Any]] = MetaWorldExpert.settings

    def __init__(self, seed: int, options: Mapping[str, Any] | None = None) -> None:
        super().__init__(seed, options)
        self._seed, self._expert = seed, MetaWorldExpert(seed, {"task": next(iter(TEXTS))})

    def reset(self, obs: Any, info: Mapping[str, Any]) -> None:
        """Take the policy of the episode's task."""
        self._expert = MetaWorldExpert(self._seed, {"task": info["task"]})

    def act(self, obs: Any, info: Mapping[str, Any]) -> Vector:
        """Return the next action (4,) in [-1, 1]; `info` is what the environment returned last."""
        return self._expert.act(obs, info)
