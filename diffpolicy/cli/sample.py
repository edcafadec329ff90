"""Draw images from a trained generator.

diffpolicy sample checkpoint=RUN/checkpoints/last guidance=[1,3,5] out=OUT
"""

from __future__ import annotations

from diffpolicy.config.commands import SampleConfig

SCHEMA, GROUPS, POSITIONAL = SampleConfig, (), ()


def run(config: SampleConfig) -> None:
    from diffpolicy.images.sample import sample_images

    print(sample_images(config))
