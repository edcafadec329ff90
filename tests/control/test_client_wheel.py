"""The distribution for a robot's own computer: built, installed and driven without this package and without torch."""

import subprocess
import sys
import zipfile
from pathlib import Path

import tiny_policy
from test_server import Running

from diffpolicy.control.local import LocalPlanner

ROOT = Path(__file__).resolve().parents[2]
ROBOT = """
import sys
sys.modules.update(torch=None, diffpolicy=None, gymnasium=None)
import numpy as np
from diffpolicy_client import Guard, Limits, RealTimeRunner, RemotePlanner

class Robot:
    def __init__(self):
        self.at = np.full(5, 250.0)
    def observe(self):
        return self.at.copy()
    def act(self, action):
        self.at[:2] = action

planner = RemotePlanner(sys.argv[1])
guard = Guard(Limits(np.zeros(2), np.full(2, 512.0), np.full(2, 20.0)))
guard.reset(np.full(2, 250.0))
report = RealTimeRunner(Robot(), planner, 50.0, guard, hold=lambda obs: obs[:2]).run(100)
assert len(report.delays) >= 3 and not report.failures, report.summary()
assert np.isfinite(report.actions).all() and np.abs(np.diff(report.actions, axis=0)).max() <= 20.001
print("drove", len(report.actions))
"""


def test_it_drives_a_robot_without_torch(tmp_path):
    command = [sys.executable, str(ROOT / "scripts" / "build_client.py"), str(tmp_path / "dist")]
    wheel = Path(subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip().splitlines()[-1])
    names = zipfile.ZipFile(wheel).namelist()
    assert "diffpolicy_client/client.py" in names and not any("torch" in name for name in names)
    metadata = next(name for name in names if name.endswith("METADATA"))
    needed = [line for line in zipfile.ZipFile(wheel).read(metadata).decode().splitlines() if "Requires-Dist" in line]
    assert {line.split()[1].split(">")[0] for line in needed} == {"numpy", "msgpack", "websockets"}
    target = tmp_path / "installed"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(target), str(wheel)]
    subprocess.run(pip, check=True)
    policy = tiny_policy.policy("flow", t_a=4)
    running = Running(LocalPlanner(policy))
    try:
        run = [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(target)!r})\n{ROBOT}", running.uri]
        done = subprocess.run(run, capture_output=True, text=True, cwd=tmp_path, timeout=60)
    finally:
        running.stop()
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("drove 100")
