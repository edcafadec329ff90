"""Show what a data set of any format holds and what is wrong with it; draw it, or verify its files.

diffpolicy inspect demo.hdf5 page=demo.html
diffpolicy inspect DEMOS --strict           exits with status 1 where something breaks or hurts
diffpolicy inspect DEMOS sheet=sheet.png
diffpolicy inspect DEMOS verify=true
diffpolicy inspect                          lists the sources that `dataset.name` takes
"""

from __future__ import annotations

import sys
from pathlib import Path

from diffpolicy.config.commands import InspectConfig

SCHEMA, GROUPS, POSITIONAL = InspectConfig, (), ("path",)


def run(config: InspectConfig) -> None:
    from diffpolicy.datasets import inspection
    from diffpolicy.datasets.manifest import verify

    if config.path is None:
        print(inspection.list_sources())
        return
    if config.verify:
        damaged = verify(config.path)
        print("\n".join(damaged) or f"{config.path}: every file is as it was written")
        if damaged:
            sys.exit(1)
        return
    inspection.require_new([Path(file) for file in (config.page, config.sheet) if file])
    found = inspection.inspect_dataset(config.path, config.format, progress=True)
    print(found)
    if config.sheet:
        inspection.draw_sheet(Path(config.sheet), found, config.key)
    if config.page:
        inspection.write_page(Path(config.page), found)
        print(f"page: {config.page}")
    if config.strict and not found.sound:
        sys.exit(1)
