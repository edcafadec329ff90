"""What a policy is trained on is what it will see: the data sets' observations against the environment's."""

import os

import gymnasium as gym
import numpy as np
import pytest

from diffpolicy.config import DatasetConfig, ObservationConfig, RunConfig
from diffpolicy.datasets import load_demonstrations


@pytest.mark.parametrize(("mode", "tolerance"), [("keypoints", 0.05), ("corners", 1e-3), ("state", 1e-3)])
def test_recorded_and_simulated_observations_agree(mode, tolerance):
    if "DIFFPOLICY_DATA" not in os.environ:
        pytest.skip("needs the Push-T demonstrations: set DIFFPOLICY_DATA to the folder that holds pusht/")
    data = DatasetConfig(name="pusht")
    configs = [RunConfig(dataset=data, observation=ObservationConfig(one)) for one in (mode, "state")]
    observed, states = (load_demonstrations(config)["obs"] for config in configs)
    env = gym.make("diffpolicy/PushT-v0", obs_mode=mode)
    for frame in range(0, len(states), 2500):
        # The reset's own physics step may push the two apart where they touch: compare where nothing moved.
        obs, info = env.reset(options={"state": states[frame]})
        if np.abs(info["state"] - states[frame]).max() < 1e-3:
            np.testing.assert_allclose(obs, observed[frame], atol=tolerance)
            break
    else:
        raise AssertionError("no frame was at rest")
    assert obs.shape == observed.shape[1:]
