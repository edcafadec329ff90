"""What a general evaluation needs to know of a task, as plain data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .physics import WORLD_SIZE

SUCCESS_COVERAGE = 0.95
"""A task is done when this fraction of the goal is covered."""


def task_facts(
    paths: Mapping[str, Sequence[int]],
    modes: Sequence[str] = (),
    seed_sets: Mapping[str, Mapping[str, Any]] | None = None,
) -> dict[str, Any]:
    """Return the facts of a pushing task for `metadata["task"]`.

    Args:
        paths: the columns of `info["state"]` with the x and y of each block.
        modes: the names that `info["mode"]` may have, besides "".
        seed_sets: published sets of initial states: name -> "first" seed, number of "episodes", and the "option" of
            `reset` that a seed is given to.

    Returns:
        A dict that can be written as JSON:

        * `success_key`: where `info` says whether the task is done; `success_description`: when it is.
        * `metrics`: name -> `key` (of `info`, or "reward"), `reducer` over an episode ("max" or "last") and
          `description`. The first one is the score.
        * `extent`: left, right, bottom and top edge of a rendered image, in the units of positions and actions, as
          matplotlib's `imshow` takes them. The bottom is the larger number: y points down.
        * `mode_key`: where `info` names the mode, None without modes; `modes`, `paths` and `seed_sets` as given.
        * `display_options`: constructor arguments that change what is observed or shown, and nothing of what happens.
        * `clips_actions`: the environment takes any target, in double precision, and clips it itself.
    """
    side = int(WORLD_SIZE)
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
        "extent": [0, side, side, 0],
        "mode_key": "mode" if modes else None,
        "modes": list(modes),
        "paths": {name: list(columns) for name, columns in paths.items()},
        "seed_sets": {name: dict(seeds) for name, seeds in (seed_sets or {}).items()},
        "display_options": ["obs_mode", "render_mode", "render_size"],
        "clips_actions": True,
    }
