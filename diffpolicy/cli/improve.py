"""Improve a policy by its own rollouts, or by an expert's corrections.

diffpolicy improve checkpoint=runs/pusht method=filtered run_dir=runs/pusht_filtered
"""

from __future__ import annotations

from diffpolicy.config.commands import ImproveConfig

SCHEMA, GROUPS, POSITIONAL = ImproveConfig, (), ()


def run(config: ImproveConfig) -> None:
    from diffpolicy.api import train_policy
    from diffpolicy.improvement.improve import describe, improve

    print(describe(improve(config, train_policy), config.run_dir))
