"""Puts the dummy package where imports and entry points find it, as an installer would, and takes it away again."""

import importlib
import shutil
import sys
import tomllib
from contextlib import contextmanager
from pathlib import Path

from diffpolicy import registry

PACKAGE = Path(__file__).parent / "dummy_package"


@contextmanager
def installed(site):
    project = tomllib.loads((PACKAGE / "pyproject.toml").read_text("utf-8"))["project"]
    name, version = project["name"], project["version"]
    shutil.copytree(PACKAGE / name, site / name)
    metadata = site / f"{name}-{version}.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    lines = []
    for group, points in project["entry-points"].items():
        lines += [f"[{group}]", *(f"{name} = {value}" for name, value in points.items())]
    (metadata / "entry_points.txt").write_text("\n".join(lines) + "\n")
    sys.path.insert(0, str(site))
    importlib.invalidate_caches()
    registry.known.cache_clear()
    try:
        yield
    finally:
        sys.path.remove(str(site))
        for module in [module for module in sys.modules if module.partition(".")[0] == project["name"]]:
            del sys.modules[module]
        registry.known.cache_clear()
