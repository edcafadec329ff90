"""Write a recording in the format of another project, for its tools (LeRobot v3.0).

diffpolicy export-dataset DEMOS lerobot_folder format=lerobot
diffpolicy export-dataset DEMOS lerobot_folder codec=lossless
"""

from __future__ import annotations

from diffpolicy.config.commands import ExportDatasetConfig

SCHEMA, GROUPS, POSITIONAL = ExportDatasetConfig, (), ("dataset", "out")


def run(config: ExportDatasetConfig) -> None:
    from diffpolicy.datasets.exporters.lerobot import export_dataset

    print(export_dataset(config))
