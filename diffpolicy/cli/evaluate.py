"""Roll a trained policy out and report its results, with a page to look at.

diffpolicy evaluate checkpoint=RUN/checkpoints/best episodes=200 out=OUT

Exits with status 1 where the environment broke some episodes off; the results of the others are written.
"""

from __future__ import annotations

import sys

from diffpolicy.config.commands import EvaluateConfig

SCHEMA, GROUPS, POSITIONAL = EvaluateConfig, (), ()


def run(config: EvaluateConfig) -> None:
    from diffpolicy.api import evaluate_policy
    from diffpolicy.evaluation.evaluate import describe

    result = evaluate_policy(**vars(config))
    print(describe(result, config.out))
    if result["errors"]:
        sys.exit(1)
