"""Show what a data set holds: episodes, lengths, arrays, digest; and draw or verify it.

diffpolicy inspect DEMOS sheet=sheet.png
diffpolicy inspect DEMOS verify=true
diffpolicy inspect                          lists the sources that `dataset.name` takes
"""

from __future__ import annotations

import sys

from diffpolicy.config.commands import InspectConfig

SCHEMA, GROUPS, POSITIONAL = InspectConfig, (), ("path",)


def run(config: InspectConfig) -> None:
    from diffpolicy.datasets.card import inspect_dataset

    text, sound = inspect_dataset(config.path, config.verify, config.sheet, config.key)
    print(text)
    if not sound:
        sys.exit(1)
