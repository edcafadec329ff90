"""Roll a trained policy out and report its results, with a page to look at.

diffpolicy evaluate checkpoint=RUN/checkpoints/best episodes=200 out=OUT
"""

from __future__ import annotations

from diffpolicy.config.commands import EvaluateConfig

SCHEMA, GROUPS, POSITIONAL = EvaluateConfig, (), ()


def run(config: EvaluateConfig) -> None:
    from diffpolicy.api import evaluate_policy
    from diffpolicy.evaluation.evaluate import describe

    print(describe(evaluate_policy(**vars(config)), config.out))
