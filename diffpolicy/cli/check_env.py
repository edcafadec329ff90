"""Say what an environment is like, and which settings fit it; exit with 1 if something is broken.

diffpolicy check-env env.id=module:Name-v0
"""

from __future__ import annotations

from diffpolicy.config.commands import CheckEnvConfig

SCHEMA, GROUPS, POSITIONAL = CheckEnvConfig, (), ()


def run(config: CheckEnvConfig) -> None:
    import sys

    from diffpolicy.evaluation.check_env import check_environment, describe

    report = check_environment(config, say=lambda doing: print(f"checking: {doing} …", file=sys.stderr))
    print(describe(report))
    if report.broken:
        sys.exit(1)
