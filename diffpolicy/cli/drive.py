"""Drive an environment by the wall clock, by a policy or a server, and report how well the loop kept its rate.

diffpolicy drive checkpoint=RUN out=OUT rate=10
diffpolicy drive server=ws://policy.lab:8765 env.id=diffpolicy/PushT-v0 out=OUT
"""

from __future__ import annotations

from diffpolicy.config.control import DriveConfig

SCHEMA, GROUPS, POSITIONAL = DriveConfig, (), ()


def run(config: DriveConfig) -> None:
    from diffpolicy.control.drive import describe, drive

    print(describe(drive(config), config.out))
