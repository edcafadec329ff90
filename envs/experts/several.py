"""The expert of several tasks: that of the episode's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from .base import Expert, Vector
from .pucks import DetourExpert, PushBlocksExpert
from .tees import PushTExpert

OF_TASKS: dict[str, type[Expert]] = {"pushblocks": PushBlocksExpert, "detour": DetourExpert, "pusht": PushTExpert}


class SeveralExpert(Expert):
    """Does what the expert of the episode's task does."""

    id = "diffpolicy/Several-v0"
    settings: ClassVar[Mapping[str, float]] = {
        f"{task}.{name}": value for task, expert in OF_TASKS.items() for name, value in expert.settings.items()
    }

    def __init__(self, seed: int, options: Mapping[str, Any] | None = None) -> None:
        super().__init__(seed)
        self._seed = seed

    def reset(self, obs: Any, info: Mapping[str, Any]) -> None:
        """Start an episode.

        Args:
            obs: not looked at.
            info: what the environment's `reset` returned.
        """
        self._expert = OF_TASKS[info["task"]](self._seed)
        self._expert.reset(obs, info)

    def act(self, obs: Any, info: Mapping[str, Any]) -> Vector:
        """Return the next action, the agent's target (2,) px.

        Args:
            obs: not looked at.
            info: what the environment's last `reset` or `step` returned.
        """
        return self._expert.act(obs, info)
