"""Convert a recording of another format (LeRobot, robomimic, UMI, …) to one that can be trained on.

diffpolicy convert demo.hdf5 DEMOS
diffpolicy convert lerobot_folder DEMOS episodes=0-49 every=2 resize=[96,96]
"""

from __future__ import annotations

from diffpolicy.config.commands import ConvertConfig

SCHEMA, GROUPS, POSITIONAL = ConvertConfig, (), ("source", "out")


def run(config: ConvertConfig) -> None:
    from diffpolicy.datasets.convert import convert

    print(convert(config))
