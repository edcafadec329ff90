"""Record demonstrations by an environment's expert.

diffpolicy record env.id=diffpolicy/Detour-v0 episodes=200 workers=2 out=DEMOS
"""

from __future__ import annotations

from diffpolicy.config.commands import RecordConfig

SCHEMA, GROUPS, POSITIONAL = RecordConfig, (), ()


def run(config: RecordConfig) -> None:
    from diffpolicy.evaluation.record import record

    print(record(config))
