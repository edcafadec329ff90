"""Upload a trained policy to the Hugging Face Hub, with a card of its results.

diffpolicy push RUN/checkpoints/best hf://user/repo evaluation=OUT
"""

from __future__ import annotations

from diffpolicy.config.commands import PushConfig

SCHEMA, GROUPS, POSITIONAL = PushConfig, (), ("source", "to")


def run(config: PushConfig) -> None:
    from diffpolicy.policies.share import push

    print(push(config))
