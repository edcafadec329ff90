"""The transformer over action steps: its blocks against torch's, its start, its derivatives, what it learns."""

import numpy as np
import pytest
import tiny_policy as tiny
import torch
from net_checks import check_bfloat16_is_near, check_rows_keep_their_values
from torch import nn

from diffpolicy import load_policy
from diffpolicy.config import PolicyConfig, RunConfig
from diffpolicy.nets import ConditionalTransformer, FastUnet1D
from diffpolicy.nets.attention import Block, SelfAttention
from diffpolicy.policies import build_model, build_policy
from diffpolicy.registry import build
from diffpolicy.util.condition import Condition

SMALL = {"width": 16, "layers": 2, "heads": 2, "features": 24, "time_features": 8}


def _net(**options):
    """One whose weights are not those of the start, where most of it is switched off."""
    torch.manual_seed(0)
    net = ConditionalTransformer(2, **{"cond_dim": 3, **SMALL, **options})
    for parameter in net.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    return net


def _inputs(rows=4, horizon=8, dtype=torch.float32):
    generator = torch.Generator().manual_seed(1)
    x, cond = torch.randn(rows, horizon, 2, generator=generator), torch.randn(rows, 3, generator=generator)
    t, r = torch.rand(2, rows, generator=generator)
    x, t, cond, r = (tensor.to(dtype) for tensor in (x, t, cond, r))
    return x, t, Condition(cond), r


def test_attention_is_torchs():
    torch.manual_seed(0)
    attention, reference = SelfAttention(12, 3).double(), nn.MultiheadAttention(12, 3, batch_first=True).double()
    reference.in_proj_weight.data, reference.in_proj_bias.data = attention.qkv.weight, attention.qkv.bias
    reference.out_proj.load_state_dict(attention.out.state_dict())
    x = torch.randn(5, 7, 12).double()
    torch.testing.assert_close(attention(x), reference(x, x, x)[0], rtol=0, atol=1e-12)


def test_a_block_is_torchs_with_modulation_in_the_norms_and_gates_in_the_last_layers():
    torch.manual_seed(0)
    block = Block(12, heads=3, expansion=2, features=8, dropout=0.0).double()
    nn.init.normal_(block.film.weight), nn.init.normal_(block.film.bias)
    x, features = torch.randn(5, 7, 12).double(), torch.randn(1, 8).double()
    gelu = nn.GELU(approximate="tanh")
    reference = nn.TransformerEncoderLayer(12, 3, 24, 0.0, gelu, 1e-6, batch_first=True, norm_first=True).double()
    parts = block.film(features)[0].detach().chunk(6)
    last = ((reference.self_attn.out_proj, block.attention.out), (reference.linear2, block.mlp[2]))
    for (scale, shift, gate), norm, (theirs, ours) in zip(
        (parts[:3], parts[3:]), (reference.norm1, reference.norm2), last, strict=True
    ):
        norm.weight.data, norm.bias.data = 1 + scale, shift
        theirs.weight.data, theirs.bias.data = gate[:, None] * ours.weight, gate * ours.bias
    reference.self_attn.in_proj_weight.data = block.attention.qkv.weight
    reference.self_attn.in_proj_bias.data = block.attention.qkv.bias
    reference.linear1.load_state_dict(block.mlp[0].state_dict())
    torch.testing.assert_close(block(x, features.expand(5, 1, -1))[0], reference(x), rtol=0, atol=1e-12)


def test_at_the_start_blocks_are_the_identity_and_the_output_is_zero():
    torch.manual_seed(0)
    net = ConditionalTransformer(2, 3, **SMALL)
    x, t, cond, _ = _inputs()
    h, features = torch.randn(4, 8, 16), torch.randn(4, 1, 24)
    assert all(torch.equal(block(h, features)[0], h) for block in net.blocks)
    assert torch.equal(net(x, t, cond), torch.zeros_like(x))
    net(x, t, cond).sub(1).square().mean().backward()
    assert net.out.weight.grad.abs().min() > 0  # from where the rest begins to move


def test_it_is_as_large_as_the_unet():
    sizes = [sum(p.numel() for p in net(2, 40).parameters()) for net in (ConditionalTransformer, FastUnet1D)]
    assert sizes[0] == pytest.approx(sizes[1], rel=0.1)


@pytest.mark.parametrize("horizon", [1, 7, 16])
@pytest.mark.parametrize("dim", [1, 7])
def test_any_horizon_up_to_its_own_and_any_action_dimension(horizon, dim):
    net, x = ConditionalTransformer(dim, **SMALL, time="fourier"), torch.randn(2, horizon, dim)
    assert net(x, torch.rand(2)).shape == x.shape


def test_steps_are_told_apart_by_their_position_alone():
    net, (x, t, cond, _) = _net().double(), _inputs(dtype=torch.float64)
    order = torch.arange(8).roll(3)
    assert not torch.allclose(net(x[:, order], t, cond), net(x, t, cond)[:, order])
    net.position.data.zero_()
    torch.testing.assert_close(net(x[:, order], t, cond), net(x, t, cond)[:, order], rtol=0, atol=1e-12)


def test_condition_and_time_matter_and_null_is_learned():
    net, (x, t, cond, _) = _net(), _inputs()
    base = net(x, t, cond)
    assert not torch.allclose(base, net(x, 1 - t, cond)) and not torch.allclose(
        base, net(x, t, cond.map(lambda part: part + 1))
    )
    null = net.null(cond)
    assert torch.equal(null.vector, net.null_cond.expand(4, 3))
    net(x, t, null).square().sum().backward()
    assert net.null_cond.grad.abs().min() > 0
    with pytest.raises(ValueError, match="no condition to drop"):
        ConditionalTransformer(2, **SMALL).null(cond)


def test_the_second_time_matters_where_it_is_asked_for():
    x, t, cond, r = _inputs()
    plain, net = _net(), _net(two_times=True)
    assert torch.equal(plain(x, t, cond, r), plain(x, t, cond))
    assert torch.equal(net(x, t, cond, t), net(x, t, cond)) and not torch.allclose(
        net(x, t, cond, r), net(x, t, cond)
    )


def test_forward_mode_derivative_is_the_difference_quotient():
    """As two-time methods need it, along x, t and r at once."""
    net, (x, t, cond, r) = _net(two_times=True).double(), _inputs(dtype=torch.float64)
    direction, step = (torch.randn_like(x), torch.ones_like(t), -0.3 * torch.ones_like(r)), 1e-6

    def run(x, t, r):
        return net(x, t, cond, r)

    value, derivative = torch.func.jvp(run, (x, t, r), direction)
    ahead, behind = (run(*(p + s * d for p, d in zip((x, t, r), direction, strict=True))) for s in (step, -step))
    quotient = (ahead - behind) / (2 * step)
    assert torch.equal(value, run(x, t, r))
    assert (derivative - quotient).norm() < 1e-5 * quotient.norm() and quotient.norm() > 1


@pytest.mark.parametrize("rows", [16, 32])
def test_a_row_does_not_depend_on_its_place_in_a_block(rows):
    torch.manual_seed(0)
    net = ConditionalTransformer(2, 40).eval()
    for parameter in net.parameters():
        parameter.data += 0.03 * torch.randn_like(parameter)
    check_rows_keep_their_values(net, rows)


def test_bfloat16_is_near_float32():
    net, (x, t, cond, _) = _net(), _inputs()
    check_bfloat16_is_near(net, x, t, cond)


def test_dropout_is_of_training_alone_and_follows_torchs_seed():
    net, (x, t, cond, _) = _net(dropout=0.5), _inputs()
    drawn = [(torch.manual_seed(seed), net(x, t, cond))[1] for seed in (0, 0, 1)]
    assert torch.equal(drawn[0], drawn[1]) and not torch.allclose(drawn[0], drawn[2])
    assert torch.equal(net.eval()(x, t, cond), _net().eval()(x, t, cond))


def test_learns_two_modes_that_the_condition_moves():
    """Flow matching on cond ± a ramp: samples lie on both modes and on nothing between."""
    torch.manual_seed(0)
    config = RunConfig(policy=PolicyConfig(1, 8, 8), net={"name": "transformer", **SMALL})
    config.method = {"name": "generative", "path": {"name": "linear"}, "prediction": "velocity", "steps": 20}
    model, generator = build_model(config, tiny.spec(dim=1), 1), torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam(model.parameters(), 5e-3)
    ramp = torch.linspace(0.5, 1, 8)[:, None]
    for _ in range(200):
        cond = torch.rand(64, 1, generator=generator) - 0.5
        sign = 2 * torch.randint(2, (64, 1, 1), generator=generator) - 1
        optimizer.zero_grad()
        model.loss({"action": cond[:, None] + sign * ramp, "obs": cond}, generator).mean().backward()
        optimizer.step()
    cond = torch.linspace(-0.5, 0.5, 200)[:, None]
    generators = [torch.Generator().manual_seed(seed) for seed in range(200)]
    with torch.no_grad():
        modes = model.eval().sample(Condition(cond), generators).chunks - cond[:, None]
    up = modes.mean((1, 2)) > 0
    assert 60 < up.sum() < 140
    error = (modes - torch.where(up[:, None, None], ramp, -ramp)).abs().mean((1, 2))
    assert error.median() < 0.1 and error.quantile(0.9) < 0.25, (error.median(), error.quantile(0.9))


def test_a_policy_from_its_checkpoint_frozen_or_not(tmp_path, capsys):
    run = tiny.config(net={"name": "transformer", **SMALL})
    model = tiny.model(run)
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    path, obs = tiny.save(tmp_path, run, model), tiny.observations(3)
    chunk = load_policy(path).predict(obs)
    built = build_policy(run, tiny.spec(), model, tiny.normalizer())
    np.testing.assert_array_equal(chunk, built.predict(obs))
    for prepared in ({"freeze": True}, {"compile": True}):  # it has no way to be, and acts as it is
        np.testing.assert_array_equal(load_policy(path, **prepared).predict(obs), chunk)
    assert "cannot be compiled" in capsys.readouterr().err


def test_the_horizon_is_given_by_the_policy():
    given = {"dim": 2, "cond_dim": 3, "horizon": 20}
    spec = {"name": "transformer", **SMALL}
    assert build("net", spec, **given).horizon == 20
    with pytest.raises(ValueError, match="no option 'horizon'"):
        build("net", spec | {"horizon": 8}, **given)


def test_errors_name_both_sides():
    net, (x, t, cond, r) = _net(two_times=True), _inputs(2)
    with pytest.raises(ValueError, match=r"\(2, 8, 5\).*\(B, T, 2\)"):
        net(torch.randn(2, 8, 5), t, cond)
    with pytest.raises(ValueError, match=r"17 steps.*horizon, 16"):
        net(torch.randn(2, 17, 2), t, cond)
    with pytest.raises(ValueError, match=r"t has shape \(3,\).*\(2,\)"):
        net(x, torch.rand(3), cond)
    with pytest.raises(ValueError, match=r"r has shape \(2, 1\).*\(2,\)"):
        net(x, t, cond, r[:, None])
    with pytest.raises(ValueError, match=r"None.*\(2, 3\)"):
        net(x, t)
    with pytest.raises(ValueError, match=r"\(2, 4\).*\(2, 3\)"):
        net(x, t, Condition(torch.randn(2, 4)))
    with pytest.raises(ValueError, match="width=16 with heads=3"):
        ConditionalTransformer(2, width=16, heads=3)
    with pytest.raises(ValueError, match="'layers': 0.*expected positive"):
        ConditionalTransformer(2, layers=0)
    with pytest.raises(ValueError, match="dropout=1.5; expected a fraction"):
        ConditionalTransformer(2, dropout=1.5)
    with pytest.raises(ValueError, match="even"):
        ConditionalTransformer(2, time_features=7)


def test_a_time_of_every_step():
    torch.manual_seed(0)
    net = ConditionalTransformer(2, 3, **SMALL)
    for weight in net.parameters():
        nn.init.normal_(weight, std=0.2)
    x, t, cond, _ = _inputs()
    steps = t[:, None].repeat(1, x.shape[1])
    expected = net(x, t, cond)
    torch.testing.assert_close(net(x, steps, cond), expected, rtol=0, atol=1e-4)
    steps[:, 3] = 1 - steps[:, 3]
    assert ((net(x, steps, cond) - expected).abs().sum(-1)[:, 3] > 1e-3).all()
