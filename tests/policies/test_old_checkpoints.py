"""Checkpoints of version 1, written by the release that had it, give what they gave there.

tests/fixtures holds one of each kind, with a few training steps, and `expected.npz`: what that release drew for fixed
observations and seeds. Equal to the last bit where they were made; other processors may sum in another order, which
the tolerances allow, 1e-6 of the range of the data.
"""

from pathlib import Path

import numpy as np
import pytest
import torch

from diffpolicy import checkpoint, load_policy
from diffpolicy.config import load_config
from diffpolicy.images import load_generator
from diffpolicy.policies import Agent, PlanRequest

FIXTURES = Path(__file__).parent.parent / "fixtures"
SEEDS = [5, 6]


def _observations(name, policy):
    rng = np.random.default_rng(1)
    if name == "pixels":
        images = rng.integers(0, 256, (2, 2, 96, 96, 3), np.uint8)
        return {"image": images, "agent": rng.uniform(0, 512, (2, 2, 2)).astype(np.float32)}
    return rng.uniform(0, 512, (2, 2, policy.obs_dim)).astype(np.float32)


@pytest.mark.parametrize(
    ("name", "weights"), [("state", "ema"), ("state", "model"), ("mean_flow", "ema"), ("pixels", "ema")]
)
def test_policies_draw_the_same_chunks(name, weights):
    policy, expected = load_policy(FIXTURES / name, weights=weights), np.load(FIXTURES / name / "expected.npz")
    obs = _observations(name, policy)
    first = policy.plan(PlanRequest(obs, [(seed, 0) for seed in SEEDS]))
    second = policy.plan(PlanRequest(obs, [(seed, 1) for seed in SEEDS], first.memory))
    for part, found in (("trajectory", first.trajectory), ("actions", first.actions), ("second", second.actions)):
        np.testing.assert_allclose(found, expected[f"{weights}.{part}"], rtol=0, atol=5e-4)  # px of 512
    agent = Agent(policy)
    agent.reset([0, 1], SEEDS)
    for step in range(2):
        now = {key: values[:, step] for key, values in obs.items()} if name == "pixels" else obs[:, step]
        action = agent.act(now)
    assert action.shape == (2, 2) and np.isfinite(action).all()


def test_a_generator_draws_the_same_images():
    generator, expected = load_generator(FIXTURES / "digits"), np.load(FIXTURES / "digits" / "expected.npz")
    drawn = generator.draw(
        torch.from_numpy(expected["labels"]), [torch.Generator().manual_seed(seed) for seed in range(2)]
    )
    np.testing.assert_allclose(drawn.images.numpy(), expected["images"], rtol=0, atol=1e-5)


def test_their_configs_are_brought_to_the_present_schema():
    configs = {folder.name: load_config(checkpoint.read(folder).config) for folder in FIXTURES.iterdir()}
    assert {name: config.found.kind for name, config in configs.items()} == {
        "state": "policy",
        "mean_flow": "policy",
        "pixels": "policy",
        "digits": "images",
    }
    assert configs["mean_flow"].method == {
        "name": "mean_flow",
        "path": {"name": "linear"},
        "span_fraction": 0.25,
        "power": 1.0,
        "steps": 1,
    }
    observed = configs["pixels"].observation
    assert (observed.mode, observed.vectors, observed.images) == ("pixels", ["agent"], ["image"])
    assert configs["state"].dataset.transforms == ["mirror"]


def test_objectives_that_are_no_more_are_refused():
    method = {"name": "flow_map", "objective": {"name": "shortcut"}}
    with pytest.raises(ValueError, match="objective 'shortcut'; expected mean_flow; use the release that trained it"):
        load_config({"method": method, "policy": {}})
