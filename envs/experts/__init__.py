"""Experts that solve the environments, for demonstrations: one for each, by the environment's id.

    expert = EXPERTS["diffpolicy/Detour-v0"](seed=0)
    expert.reset(info)                    after the environment's reset, with the info it returned
    action = expert.act(info)             at every step, with the last info

An expert sees the whole state. Where a task can be done in several ways it chooses one for each episode from its own
seeded generator, so that the demonstrations hold all of them.
"""

from .pucks import DetourExpert, PushBlocksExpert
from .tees import PushTExpert

EXPERTS = {expert.id: expert for expert in (PushTExpert, PushBlocksExpert, DetourExpert)}

__all__ = ["EXPERTS", "DetourExpert", "PushBlocksExpert", "PushTExpert"]
