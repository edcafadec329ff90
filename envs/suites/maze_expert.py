"""The expert of the maze: the shortest way through its cells, followed at a bounded speed."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, final

import numpy as np

from ..checks import check_choice
from ..experts.base import Expert, Vector
from .robotics import EXTRA, MAZES
from .tools import needed

SPEED = 3.0
"""Bound of the wanted velocity, m/s."""
APPROACH = 4.0
"""Wanted velocity per distance to the next point, 1/s."""
EFFORT = 1.0
"""Force per difference of wanted and present velocity."""
NEAR = 0.25
"""Distance from the middle of a cell at which the ball turns to the next one, m."""

Cell = tuple[int, int]


@final
class PointMazeExpert(Expert):
    """Plans at the start of an episode and drives the ball from cell to cell.

    Args:
        seed: has no effect.
        options: the environment's constructor arguments; `task` is read.
    """

    id = "diffpolicy/PointMaze-v0"
    settings: ClassVar[Mapping[str, float]] = {"speed": SPEED, "approach": APPROACH, "effort": EFFORT, "near": NEAR}

    def __init__(self, seed: int, options: Mapping[str, Any] | None = None) -> None:
        super().__init__(seed, options)
        task = (options or {}).get("task", "UMaze")
        check_choice("maze", task, MAZES)
        self._cells = getattr(needed("gymnasium_robotics.envs.maze.maps", EXTRA), MAZES[task][0])

    def reset(self, obs: Any, info: Mapping[str, Any]) -> None:
        """Plan the way from the ball to the goal.

        Args:
            obs: has no effect.
            info: what the environment's `reset` returned.
        """

    def act(self, obs: Any, info: Mapping[str, Any]) -> Vector:
        """Return the next action (2,) in [-1, 1].

        Args:
            obs: has no effect.
            info: what the environment's last `reset` or `step` returned.
        """
        place, velocity, goal = info["state"][:2], info["state"][2:4], info["state"][-2:]
        way = shortest(self._cells, self._cell(place), self._cell(goal))
        aim = goal if len(way) < 2 else self._middle(way[1])
        wanted = APPROACH * (aim - place)
        wanted *= min(1.0, SPEED / max(float(np.hypot(*wanted)), 1e-9))
        return np.clip(EFFORT * (wanted - velocity), -1.0, 1.0).astype(np.float32)

    def _cell(self, place: Vector) -> Cell:
        rows, columns = len(self._cells), len(self._cells[0])
        return int(np.floor(rows / 2 - place[1])), int(np.floor(place[0] + columns / 2))

    def _middle(self, cell: Cell) -> Vector:
        rows, columns = len(self._cells), len(self._cells[0])
        return np.array([cell[1] + 0.5 - columns / 2, rows / 2 - cell[0] - 0.5])


def shortest(cells: Sequence[Sequence[Any]], start: Cell, end: Cell) -> list[Cell]:
    """Return the cells of a shortest way, both ends included; the start alone if there is none.

    Args:
        cells: rows of a maze; 1 is a wall.
        start: row and column.
        end: row and column.
    """
    before, waiting = {end: end}, deque([end])
    while waiting and start not in before:
        row, column = waiting.popleft()
        for cell in ((row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1)):
            if cells[cell[0]][cell[1]] != 1 and cell not in before:
                before[cell] = (row, column)
                waiting.append(cell)
    way = [start]
    while start in before and way[-1] != end:
        way.append(before[way[-1]])
    return way
