"""Gymnasium environments, registered by importing this package (gymnasium 1.0 stopped loading entry points):

    import diffpolicy.envs
    env = gymnasium.make("diffpolicy/PushT-v0")

or, in one line, `gymnasium.make("diffpolicy.envs:diffpolicy/PushT-v0")`.
"""

from __future__ import annotations

import gymnasium


def register() -> None:
    """Make the environments known to `gymnasium.make`; what is registered already is left alone."""
    if "diffpolicy/PushT-v0" not in gymnasium.registry:
        gymnasium.register("diffpolicy/PushT-v0", entry_point=f"{__name__}.pusht:PushTEnv", max_episode_steps=300)


register()
