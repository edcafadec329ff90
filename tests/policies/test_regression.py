"""The deterministic comparison: least squares, which answers with the mean."""

import numpy as np
import pytest
import torch

from diffpolicy import checkpoint, load_policy
from diffpolicy.datasets.normalizer import Normalizer
from diffpolicy.policies import build_actor

CONFIG = {
    "policy": {"obs_horizon": 2, "horizon": 16, "action_horizon": 8},
    "method": {"name": "regression"},
    "net": {"name": "unet1d", "widths": [8, 16], "time_features": 8},
    "env": {"id": None, "options": {}},
}


def test_answers_with_the_mean_of_two_ways():
    torch.manual_seed(0)
    actor, generator = build_actor(CONFIG, 3, 2), torch.Generator().manual_seed(0)
    way = torch.linspace(0, 1, 16)[:, None].expand(16, 2)
    data, cond = torch.cat([0.4 + way, 0.4 - way]), torch.zeros(2, 6)
    batch = {"data": data.reshape(2, 16, 2), "cond": cond}
    optimizer = torch.optim.Adam(actor.parameters(), 1e-2)
    for _ in range(200):
        optimizer.zero_grad()
        actor.loss(batch, generator).mean().backward()
        optimizer.step()
    # Half the squared distance between the ways cannot be removed: (1/16) Σ way².
    assert actor.loss(batch, generator).mean().item() == pytest.approx(way.square().mean().item(), rel=1e-2)
    actions = actor.eval().act(cond, [generator, generator])
    torch.testing.assert_close(actions[0], actions[1], atol=1e-6, rtol=0)
    assert actor.calls == 1
    torch.testing.assert_close(actions[0], torch.full((16, 2), 0.4), atol=0.05, rtol=0)


def test_saved_loaded_and_has_no_sampler(tmp_path):
    rng = np.random.default_rng(0)
    normalizer = Normalizer.fit({"obs": rng.uniform(0, 512, (99, 3)), "action": rng.uniform(0, 512, (99, 2))})
    actor = build_actor(CONFIG, 3, 2)
    groups = {"model": actor.state_dict(), "ema": actor.state_dict(), "normalizer": normalizer.to_tensors()}
    path = checkpoint.write(tmp_path / "regression", 1, groups, CONFIG, {})
    policy = load_policy(path)
    obs = rng.uniform(0, 512, (3, 2, 3)).astype(np.float32)
    chunk = policy.predict(obs)
    assert chunk.shape == (3, 8, 2) and policy.actor.sampler == {}
    np.testing.assert_array_equal(chunk, policy.predict(obs))
    with pytest.raises(ValueError, match="regression draws nothing"):
        load_policy(path, solver="heun")
