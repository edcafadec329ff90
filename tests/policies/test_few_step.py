"""Policies of one and two network calls, from config to checkpoint and back."""

import numpy as np
import pytest
import torch
from torch import nn

from diffpolicy import checkpoint, load_policy
from diffpolicy.datasets.normalizer import Normalizer
from diffpolicy.policies import build_actor
from diffpolicy.policies.execution import Execution
from diffpolicy.util.condition import Condition

CONFIG = {
    "policy": {"obs_horizon": 2, "horizon": 16, "action_horizon": 8},
    "net": {"name": "unet1d", "widths": [8, 16], "time_features": 8, "time": "fourier"},
    "env": {"id": None, "options": {}},
}
METHODS = {
    "mean_flow": {"name": "flow_map", "path": {"name": "linear"}, "objective": {"name": "mean_flow"}},
    "two_step": {"name": "two_step", "time": 0.9},
}


def _saved(method, path):
    torch.manual_seed(0)
    config = {**CONFIG, "method": METHODS[method]}
    rng = np.random.default_rng(0)
    normalizer = Normalizer.fit({"obs": rng.uniform(0, 512, (99, 3)), "action": rng.uniform(0, 512, (99, 2))})
    actor = build_actor(config, 3, 2)
    groups = {"model": actor.state_dict(), "ema": actor.state_dict(), "normalizer": normalizer.to_tensors()}
    return checkpoint.write(path / method, 1, groups, config, {})


def _obs(rows=3):
    return np.random.default_rng(1).uniform(0, 512, (rows, 2, 3)).astype(np.float32)


@pytest.mark.parametrize("method", METHODS)
def test_trains_and_comes_back_from_its_checkpoint(tmp_path, method):
    path = _saved(method, tmp_path)
    policy = load_policy(path)
    chunk = policy.predict(_obs())
    assert chunk.shape == (3, 8, 2) and policy.actor.calls == (2 if method == "two_step" else 1)
    frozen = load_policy(path, freeze=True)
    np.testing.assert_allclose(frozen.predict(_obs()), chunk, atol=0.1)  # px
    actor, generator = build_actor({**CONFIG, "method": METHODS[method]}, 3, 2), torch.Generator()
    batch = {"data": torch.rand(64, 16, 2), "cond": torch.zeros(64, 6)}
    losses = []
    optimizer = torch.optim.Adam(actor.parameters(), 1e-2)
    for _ in range(12):
        value = actor.loss(batch, generator.manual_seed(0))
        assert value.shape == (64,)
        optimizer.zero_grad()
        value.mean().backward()
        optimizer.step()
        losses.append(value.mean().item())
    assert losses[-1] < losses[0]
    assert all(p.grad is not None for name, p in actor.named_parameters() if "null_cond" not in name)


def test_a_flow_map_takes_any_number_of_steps_and_no_solver(tmp_path):
    path = _saved("mean_flow", tmp_path)
    one, four = load_policy(path), load_policy(path, steps=4)
    assert one.actor.sampler == {"solver": "flow_map", "steps": 1, "grid": "uniform", "options": {}}
    chunks = [policy.predict(_obs()) for policy in (one, four)]
    assert four.actor.calls == 4 and np.abs(chunks[0] - chunks[1]).max() > 1e-3
    load_policy(path, solver="flow_map", grid="uniform")
    for refused in ({"solver": "dpmpp_2m"}, {"grid": "log_snr"}, {"solver_options": {"eta": 1.0}}):
        with pytest.raises(ValueError, match=r"trained as a flow map \(mean_flow\).*choose steps"):
            load_policy(path, **refused)
    with pytest.raises(ValueError, match="steps must be an integer >= 1, got 0"):
        load_policy(path, steps=0)


def test_a_flow_map_can_begin_from_the_last_chunk_or_without_noise(tmp_path):
    path = _saved("mean_flow", tmp_path)
    silent = load_policy(path, execution=Execution(noise="zero"))
    np.testing.assert_array_equal(silent.predict(_obs()), silent.predict(_obs()))
    warm = load_policy(path, steps=4, execution=Execution(warm_start=0.5))
    calls = [(warm.predict(_obs()), warm.actor.calls)[1] for _ in range(2)]
    assert calls == [4, 2]
    with pytest.raises(ValueError, match="inpaint=0: this policy's actor cannot follow that"):
        load_policy(path, execution=Execution(inpaint=0))


def test_two_steps_draw_nothing(tmp_path):
    path = _saved("two_step", tmp_path)
    policy = load_policy(path)
    np.testing.assert_array_equal(policy.predict(_obs()), policy.predict(_obs()))
    for refused in ({"solver": "euler"}, {"steps": 10}):
        with pytest.raises(ValueError, match="a two-step policy makes its two calls"):
            load_policy(path, **refused)
    with pytest.raises(ValueError, match="given 1"):
        build_actor({**CONFIG, "method": {"name": "two_step", "time": 1.0}}, 3, 2)


def test_two_steps_are_two_regressions():
    actor = build_actor({**CONFIG, "method": METHODS["two_step"]}, 3, 2)
    data, noise = torch.rand(5, 16, 2), torch.randn(5, 16, 2, generator=torch.Generator().manual_seed(0))
    asked = []

    class Fixed(nn.Module):
        def forward(self, x, t, cond):
            asked.append((x, t))
            return torch.full_like(x, 0.5) + 0.1 * x

    actor.net = Fixed()
    loss = actor.loss({"data": data, "cond": torch.zeros(5, 6)}, torch.Generator().manual_seed(0))
    near = data + 0.1 * noise
    torch.testing.assert_close(asked[0][0], torch.cat([torch.zeros_like(data), near]))
    torch.testing.assert_close(asked[0][1], torch.tensor([0.0] * 5 + [0.9] * 5))
    first, second = ((0.5 - data) ** 2).mean((1, 2)), ((0.5 + 0.1 * near - data) ** 2).mean((1, 2))
    torch.testing.assert_close(loss, first / 0.81 + second / 0.01)
    torch.testing.assert_close(actor.act(torch.zeros(1, 6), []), torch.full((1, 16, 2), 0.55))


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_a_batch_without_spans_is_flow_matching(share):
    """As one of few rows is by chance."""
    method = {**METHODS["mean_flow"], "objective": {"name": "mean_flow", "share": share, "power": 0.0}}
    actor = build_actor({**CONFIG, "method": method}, 3, 2)
    data, cond = torch.rand(4, 16, 2), torch.rand(4, 6)
    loss = actor.loss({"data": data, "cond": cond}, torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(0)
    t = torch.rand(4, 3, generator=generator, dtype=torch.float64)[:, 1].float()
    noise = torch.randn(data.shape, generator=generator)
    x = (1 - t)[:, None, None] * noise + t[:, None, None] * data
    by_hand = (actor.net(x, t, Condition(cond), r=t) - (data - noise)).square().mean((1, 2))
    assert torch.allclose(loss, by_hand) == (share == 0)


def test_a_network_of_one_time_is_refused():
    config = {**CONFIG, "method": METHODS["mean_flow"], "net": {"name": "unet2d", "widths": [8]}}
    with pytest.raises(ValueError, match="unet2d.*two_times"):
        build_actor(config, 3, 2)
