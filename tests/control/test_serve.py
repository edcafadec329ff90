"""The command that serves a policy, typed in a process of its own."""

import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import tiny_policy

from diffpolicy import load_policy
from diffpolicy.config import EnvConfig
from diffpolicy.config.control import ServeConfig
from diffpolicy.control.client import RemotePlanner
from diffpolicy.control.planners import make_planner
from diffpolicy.control.planning import Ask
from diffpolicy.policies import PlanRequest


@pytest.fixture
def path(tmp_path):
    run = tiny_policy.config("flow", t_a=4, env=EnvConfig("diffpolicy/PushT-v0", {"obs_mode": "state"}))
    run.found.observation = tiny_policy.spec().to_plain()
    return tiny_policy.save(tmp_path, run)


def test_typed(path):
    command = [sys.executable, "-m", "diffpolicy", "serve", str(path), "port=0", "steps=2"]
    env = {**os.environ, "DIFFPOLICY_TOKEN": "secret", "OMP_NUM_THREADS": "1"}
    server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env)
    try:
        line = server.stdout.readline()
        uri = re.search(r"(ws://127.0.0.1:\d+)", line)[1]
        with pytest.raises(ConnectionError, match="the token right"):
            RemotePlanner(uri)
        remote = RemotePlanner(uri, token="secret")
        assert remote.metadata.follows == [0, 1] and remote.metadata.fps == 10 and remote.metadata.action_horizon == 4
        obs = np.random.default_rng(0).uniform(0, 512, (2, tiny_policy.D)).astype(np.float32)
        none = np.empty((0, 2), np.float32)
        plan = remote.plan(Ask(list(obs), (3, 0), none, none))
        expected = load_policy(path, steps=2).plan(PlanRequest(obs[None], 3))
        np.testing.assert_allclose(plan.trajectory, expected.trajectory[0], rtol=1e-3, atol=0.1)
        assert plan.calls == 2
        remote.close()
    finally:
        server.send_signal(signal.SIGINT)
        deadline = time.monotonic() + 20
        while server.poll() is None and time.monotonic() < deadline:
            time.sleep(0.1)
        server.kill()
    said = server.stderr.read()
    assert server.returncode == 130 and "stopped after 1 chunks" in said and "Traceback" not in said


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"execution": {"delay": 3}}, "execution.delay=3 of a policy that plans for a robot; leave it out"),
        ({"execution": {"guid": "ones"}}, "guid.*guide"),
        ({"action_horizon": 99}, "T_a=99"),
        ({"steps": 0}, "steps=0"),
    ],
)
def test_what_cannot_be_served_is_refused(path, settings, says):
    with pytest.raises(ValueError, match=says):
        make_planner(ServeConfig(checkpoint=str(path), **settings))
