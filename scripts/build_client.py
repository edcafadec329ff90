"""Build diffpolicy-client, the distribution for a robot's own computer: numpy, msgpack and websockets, and no torch.

python scripts/build_client.py dist        writes dist/diffpolicy_client-VERSION-py3-none-any.whl

It holds the modules of diffpolicy/control that need nothing else, as the package diffpolicy_client.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as version_of
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MODULES = ("planning", "guard", "runner", "wire", "client")
PROJECT = """\
[build-system]
requires = ["setuptools>=77"]
build-backend = "setuptools.build_meta"

[project]
name = "diffpolicy-client"
version = "{version}"
description = "Drive a robot by a policy that diffpolicy serves: control loop, guard and client, without torch."
license = "MIT"
license-files = ["LICENSE"]
requires-python = ">=3.11"
dependencies = ["numpy>=1.26", {needed}]

[tool.setuptools]
packages = ["diffpolicy_client"]
"""
FRONT = '''\
"""Drive a robot by a policy that `diffpolicy serve` serves."""

from .client import RemotePlanner
from .guard import Guard, Limits
from .runner import RealTimeRunner

__all__ = ["Guard", "Limits", "RealTimeRunner", "RemotePlanner"]
__version__ = "{version}"
'''


def _setuptools() -> int:
    try:
        return int(version_of("setuptools").split(".")[0])
    except PackageNotFoundError:
        return 0


def build(out: Path) -> Path:
    """Build the wheel into a folder and return its path."""
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    version = re.search(r'^version = "([^"]+)"', project, re.MULTILINE)
    needed = re.search(r"^control = \[([^\]]+)\]", project, re.MULTILINE)
    assert version is not None and needed is not None
    with tempfile.TemporaryDirectory() as folder:
        package = Path(folder) / "diffpolicy_client"
        package.mkdir()
        for name in MODULES:
            shutil.copy(ROOT / "diffpolicy" / "control" / f"{name}.py", package)
        (package / "__init__.py").write_text(FRONT.format(version=version[1]), encoding="utf-8")
        shutil.copy(ROOT / "LICENSE", folder)
        text = PROJECT.format(version=version[1], needed=needed[1])
        (Path(folder) / "pyproject.toml").write_text(text, encoding="utf-8")
        command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(out)]
        # Where setuptools is new enough, nothing is downloaded.
        here = ["--no-build-isolation"] if _setuptools() >= 77 else []
        subprocess.run([*command, *here, folder], check=True)
    return out / f"diffpolicy_client-{version[1]}-py3-none-any.whl"


if __name__ == "__main__":
    print(build(Path(sys.argv[1] if len(sys.argv) > 1 else "dist")))
