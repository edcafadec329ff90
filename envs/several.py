"""Several tasks in one: each episode is one of the other environments', as its words say."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import ArrayLike, NDArray

from .base import PushingEnv
from .checks import check_choice
from .detour import PHRASES as OF_DETOUR
from .detour import DetourEnv
from .phrases import PHRASINGS, text_space
from .physics import CONTROL_HZ, WORLD_SIZE
from .pucks import OBEYED
from .pushblocks import PHRASES as OF_PUSHBLOCKS
from .pushblocks import PushBlocksEnv
from .pusht import PushTEnv
from .tasks import task_facts

TASKS: dict[str, type[PushingEnv]] = {"pushblocks": PushBlocksEnv, "detour": DetourEnv, "pusht": PushTEnv}
PUSHT = {
    "taught": ("push the T onto its goal", "bring the T to the mark", "cover the mark with the T"),
    "held_out": ("bring the T onto the mark", "push the T to its goal"),
}
"""What Push-T, which has one way, is called in words."""
_PHRASES = {"pushblocks": OF_PUSHBLOCKS, "detour": OF_DETOUR}
NUMBERS = 18  # of the longest state: the agent's place, and the T's corners


def texts(task: str, phrasings: str) -> list[str]:
    """Return all the words in which a task, one of `TASKS`, is asked for; `phrasings` is one of `PHRASINGS`."""
    check_choice("phrasings", phrasings, PHRASINGS)
    if task not in _PHRASES:
        return list(PUSHT[phrasings])
    phrases = _PHRASES[task]
    return [text for mode in phrases.words for text in phrases.of(mode, phrasings)]


class SeveralEnv(gym.Env[Any, NDArray[np.float32]]):
    """
    ## Description
    Push-T, PushBlocks and Detour by one agent: an episode is one of theirs, drawn at random, and says in words which,
    and in which way. Physics, rewards and ends are those of each; PushBlocks and Detour count as done in the way that
    was asked for.

    ## Observation Space
    `Dict`

    | Key     | Observation                                                            | Shape | Dtype   |
    |---------|------------------------------------------------------------------------|-------|---------|
    | `state` | agent x, y; then the pucks' x, y or the T's corners; 0 beyond that, px | (18,) | float32 |
    | `task`  | what is asked for                                                      | text  |         |

    ## Action Space
    `Box(0, 512, (2,), float32)`: the agent's target x and y, px, as in each.

    ## Rewards
    Those of the episode's task. `info` is its, and names it as `task`.

    ## Starting State
    That of the task with the same seed. Option of `reset`: `task`, one of `pushblocks`, `detour` and `pusht`.

    ## Episode End
    Terminated on success. Truncated after 300 steps by the time limit of `gymnasium.make`.

    ## Arguments
    * `task`: the one task of all episodes; `None` draws one for each.
    * `phrasings`: `"taught"`, the words of demonstrations, or `"held_out"`, others made of the same vocabulary.
    * `render_mode`: `None`, `"rgb_array"` or `"human"`.
    * `render_size`: side of the rendered image, px.

    ## Version History
    * v0: original version.
    """

    metadata: ClassVar[dict[str, Any]] = {
        "render_modes": ["rgb_array", "human"],
        "render_fps": CONTROL_HZ,
        "task": {**task_facts({}), "metrics": {**task_facts({})["metrics"], "obeyed": OBEYED}, "follows": [0, 1]},
    }

    def __init__(
        self,
        task: str | None = None,
        phrasings: str = PHRASINGS[0],
        render_mode: str | None = None,
        render_size: int = int(WORLD_SIZE),
    ) -> None:
        if task is not None:
            check_choice("task", task, TASKS)
        check_choice("phrasings", phrasings, PHRASINGS)
        self.render_mode, self.render_size = render_mode, render_size
        shown = {"render_mode": render_mode, "render_size": render_size}
        self._fixed, self._phrasings = task, phrasings
        self._tasks: dict[str, PushingEnv] = {
            "pushblocks": PushBlocksEnv(told=True, phrasings=phrasings, **shown),
            "detour": DetourEnv(told=True, phrasings=phrasings, **shown),
            "pusht": PushTEnv(obs_mode="corners", **shown),
        }
        self._name, self._text = "pusht", ""
        said = [text for name in TASKS for one in PHRASINGS for text in texts(name, one)]
        low, high = -WORLD_SIZE, 2 * WORLD_SIZE
        self.observation_space = spaces.Dict(
            {
                "state": spaces.Box(low, high, (NUMBERS,), np.float32),
                "task": text_space(said),
            }
        )
        self.action_space = spaces.Box(0.0, WORLD_SIZE, (2,), np.float32)

    def reset(
        self, *, seed: int | None = None, options: Mapping[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Start an episode.

        Args:
            seed: of the task's own generator and of which task it is; None keeps the present ones.
            options: `task`, and those of that task.

        Raises:
            ValueError: an unknown task, or options that it does not have.
        """
        super().reset(seed=seed)
        options = dict(options or {})
        drawn = list(TASKS)[self.np_random.integers(len(TASKS))]
        name = options.pop("task", self._fixed or drawn)
        check_choice("task", name, TASKS)
        self._name = name
        if seed is None:
            seed = int(self.np_random.integers(2**31))
        obs, info = self._tasks[name].reset(seed=seed, options=options)
        said = PUSHT[self._phrasings]
        self._text = obs["task"] if name != "pusht" else said[seed % len(said)]
        return self._seen(info)

    def _seen(self, info: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """What is observed, and `info` with the task's name."""
        env = self._tasks[self._name]
        numbers = info["state"]
        if self._name == "pusht":
            corners = env._numbers(info["state"])
            numbers = np.concatenate([corners[-2:], corners[:-2]])
        state = np.zeros(NUMBERS, np.float32)
        state[: len(numbers)] = numbers
        obeyed = info.get("obeyed", info["success"])  # Push-T has one way
        return {"state": state, "task": self._text}, {**info, "task": self._name, "obeyed": obeyed}

    def step(self, action: ArrayLike) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Drive the agent towards `action`, (2,) px, for 0.1 s. Raises as the task's own `step`."""
        _, reward, terminated, truncated, info = self._tasks[self._name].step(action)
        obs, info = self._seen(info)
        return obs, reward, terminated, truncated, info

    def render(self) -> NDArray[np.uint8] | None:
        """Return an image of the task, (render_size, render_size, 3) uint8 RGB, or show it in render mode "human"."""
        return self._tasks[self._name].render()

    def close(self) -> None:
        """Close the windows of render mode "human"."""
        for env in self._tasks.values():
            env.close()
