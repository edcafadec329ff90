"""Gymnasium environments, registered by importing this package:

    import diffpolicy.envs
    env = gymnasium.make("diffpolicy/PushT-v0")

or, in one line, `gymnasium.make("diffpolicy.envs:diffpolicy/PushT-v0")`. What an evaluation needs to know of a task
is plain data in `env.metadata["task"]`, see `tasks`.
"""

from __future__ import annotations

import gymnasium

ENVIRONMENTS = (
    ("diffpolicy/PushT-v0", "pusht:PushTEnv", 300),
    ("diffpolicy/PushBlocks-v0", "pushblocks:PushBlocksEnv", 300),
    ("diffpolicy/Detour-v0", "detour:DetourEnv", 200),
)
"""Id, class and time limit in control steps."""

SEVERAL = (("diffpolicy/Several-v0", "several:SeveralEnv", 300),)
"""The same of what puts several of these in one."""

SUITES = (
    ("diffpolicy/MetaWorld-v0", "suites.metaworld:MetaWorldEnv", 500),
    ("diffpolicy/MetaWorldTold-v0", "suites.metaworld_told:ToldMetaWorldEnv", 500),
    ("diffpolicy/FetchReach-v0", "suites.robotics:FetchReachEnv", 50),
    ("diffpolicy/FetchPush-v0", "suites.robotics:FetchPushEnv", 50),
    ("diffpolicy/FetchPickAndPlace-v0", "suites.robotics:FetchPickAndPlaceEnv", 50),
    ("diffpolicy/PointMaze-v0", "suites.robotics:PointMazeEnv", 800),
    ("diffpolicy/GymPushT-v0", "suites.gym_pusht:GymPushTEnv", 300),
)
"""The same of other projects' environments, each of which needs an extra, see `suites`."""

EXPERTS = (
    ("diffpolicy/PushT-v0", "experts.tees:PushTExpert"),
    ("diffpolicy/PushBlocks-v0", "experts.pucks:PushBlocksExpert"),
    ("diffpolicy/Detour-v0", "experts.pucks:DetourExpert"),
    ("diffpolicy/Several-v0", "experts.several:SeveralExpert"),
    ("diffpolicy/MetaWorld-v0", "suites.metaworld:MetaWorldExpert"),
    ("diffpolicy/MetaWorldTold-v0", "suites.metaworld_told:ToldMetaWorldExpert"),
    ("diffpolicy/FetchReach-v0", "suites.fetch_experts:FetchReachExpert"),
    ("diffpolicy/FetchPush-v0", "suites.fetch_experts:FetchPushExpert"),
    ("diffpolicy/FetchPickAndPlace-v0", "suites.fetch_experts:FetchPickAndPlaceExpert"),
    ("diffpolicy/PointMaze-v0", "suites.maze_expert:PointMazeExpert"),
    ("diffpolicy/GymPushT-v0", "experts.tees:PushTExpert"),
)
"""Id of the environment, and the class of its expert."""

DRAWINGS = (("diffpolicy/PushT-v0", "pusht:draw_observations"),)
"""Id of the environment, and the function that draws what it observes in given states."""


def register() -> None:
    """Register the environments with gymnasium; those that are registered already are left alone."""
    for name, where, steps in (*ENVIRONMENTS, *SEVERAL, *SUITES):
        if name not in gymnasium.registry:
            gymnasium.register(name, entry_point=f"{__name__}.{where}", max_episode_steps=steps)


register()
