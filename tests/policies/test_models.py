"""Methods: what each learns, what it draws, and what it refuses."""

import math

import numpy as np
import pytest
import tiny_policy as tiny
import torch
from tiny_policy import METHODS, T_O, T_P, WINDOWS, A, D, windows
from torch import nn

from diffpolicy.config import PolicyConfig, SamplerConfig
from diffpolicy.policies import ModelSpec, build_model
from diffpolicy.policies.chunking import SamplingContext
from diffpolicy.policies.models import nearest
from diffpolicy.util.condition import Condition


def _model(method, **options):
    section = METHODS[method] if isinstance(method, str) else method
    return tiny.model(tiny.config({**section, **options}))


def _generators(count):
    return [torch.Generator().manual_seed(i) for i in range(count)]


def _drawn(model, cond):
    return model.sample(Condition(cond), _generators(len(cond)))


def _train(model, batch_at, steps, lr=1e-2):
    optimizer, losses = torch.optim.Adam(model.train().parameters(), lr), []
    for step in range(steps):
        optimizer.zero_grad()
        value = model.loss(batch_at(step), torch.Generator().manual_seed(0))
        value.mean().backward()
        optimizer.step()
        losses.append(value.mean().item())
    model.eval()
    return losses


@pytest.mark.parametrize("method", [method for method in METHODS if method != "nearest"])
def test_training_lowers_the_loss_by_every_weight(method):
    model = _model(method)
    batch = {"action": torch.rand(64, *model.shape) - 0.5, "obs": torch.zeros(64, model.spec.cond_dim)}
    losses = _train(model, lambda _: batch, 12)
    assert losses[-1] < losses[0] and model.loss(batch, torch.Generator()).shape == (64,)
    assert all(p.grad is not None for name, p in model.named_parameters() if "null_cond" not in name)


@pytest.mark.parametrize("cameras", [None, tiny.CAMERAS])
def test_a_perceptron_reads_what_is_observed_before_the_network(cameras):
    """All that the network is told passes through it, the pictures' features too, and it is trained."""
    run = tiny.config("flow", cameras)
    run.policy.features = 8
    model = tiny.model(run)
    read = model if cameras is None else model.actor
    batch = windows(16, D if cameras is None else 3)
    for name, shape in (cameras or {}).items():
        batch[name] = torch.randint(0, 256, (16, T_O, *shape), dtype=torch.uint8)
    seen = torch.randn(16, read.spec.cond_dim)
    by_hand = read.reader[2](nn.functional.mish(read.reader[0](seen)))
    assert model.condition(batch).vector.shape == (16, 8) and torch.equal(read.told(seen).vector, by_hand)
    losses = _train(model, lambda _: batch, 12)
    assert losses[-1] < losses[0]
    assert all(p.grad is not None for name, p in model.named_parameters() if "null_cond" not in name)


@pytest.mark.parametrize("cameras", [None, tiny.CAMERAS])
def test_some_windows_are_trained_on_without_their_history(cameras, monkeypatch):
    """In training alone, vectors and pictures of the same windows, and the actions stay as they are."""
    run = tiny.config("flow", cameras)
    run.policy.history_dropout = 0.25
    model = tiny.model(run)
    batch = windows(400, D if cameras is None else 3)
    for name, shape in (cameras or {}).items():
        batch[name] = torch.randint(0, 256, (400, T_O, *shape), dtype=torch.uint8)
    given, seen, real = {name: values.clone() for name, values in batch.items()}, [], model.condition

    def watched(observed, generator=None):
        seen.append(observed)
        return real(observed, generator)

    monkeypatch.setattr(model, "condition", watched)
    with torch.no_grad():
        model.train().loss(batch, torch.Generator().manual_seed(0))
        model.eval().loss(batch, torch.Generator().manual_seed(0))
    trained, judged = seen
    lost = (trained["obs"][:, 0] == batch["obs"][:, -1]).all(1)
    assert 0.15 < lost.float().mean() < 0.35
    for name, values in batch.items():
        assert torch.equal(values, given[name]) and torch.equal(judged[name], values)
        if name == "action":
            assert torch.equal(trained[name], values)
        else:
            expected = values[:, -1:].expand_as(values)
            assert torch.equal(trained[name][lost], expected[lost])
            assert torch.equal(trained[name][~lost], values[~lost])
    lstm = tiny.config("lstm_gmm")
    lstm.policy.history_dropout = 0.25
    steps = {"obs": torch.rand(8, 10, D), "action": torch.rand(8, 10, A)}
    sequences = tiny.model(lstm).train()
    kept = [sequences.loss(steps, torch.Generator().manual_seed(seed)) for seed in (0, 1)]
    assert torch.equal(*kept), "it learns from every step"
    run.policy.history_dropout = 1.0
    with pytest.raises(ValueError, match=r"policy.history_dropout=1.0; expected a share of the windows in \[0, 1\)"):
        tiny.model(run)


@pytest.mark.parametrize("method", METHODS)
def test_a_sample_does_not_depend_on_the_others(method):
    model = _model(method, **({"k": 3} if method == "nearest" else {}))
    cond = torch.rand(6, model.spec.cond_dim)
    with torch.no_grad():
        together = _drawn(model, cond).chunks
        apart = [model.sample(Condition(cond[i : i + 1]), _generators(6)[i : i + 1]).chunks for i in range(6)]
        torch.testing.assert_close(torch.cat(apart), together, atol=1e-5, rtol=1e-5)
        other = model.sample(Condition(cond), _generators(7)[1:]).chunks
    assert torch.equal(other, together) == (method in ("regression", "two_step", "nearest"))


@pytest.mark.parametrize("method", ["two_step", "regression", "lstm_gmm", "nearest"])
def test_methods_without_a_sampler_say_so(method):
    model = _model(method)
    assert model.sampler == {}
    model.configure(SamplerConfig())
    for refused in (SamplerConfig("heun"), SamplerConfig(steps=10)):
        with pytest.raises(ValueError, match=f"{type(model).__name__} has no sampler; given solver='heun'|steps=10"):
            model.configure(refused)


def test_what_methods_declare():
    found = {method: (type(m := _model(method)).learns, m.has_net, m.bound) for method in METHODS}
    assert found == {
        "flow": (True, True, math.inf),
        "ddpm": (True, True, 1.0),
        "mean_flow": (True, True, math.inf),
        "tokens": (True, True, 1.0),
        "refined": (True, True, math.inf),
        "two_step": (True, True, math.inf),
        "regression": (True, True, math.inf),
        "lstm_gmm": (True, False, 1.0),
        "nearest": (False, False, math.inf),
    }


def test_options_of_the_process_are_checked_by_name():
    with pytest.raises(ValueError, match=r"'generative' has no option 'predicton' \(did you mean 'prediction'"):
        _model("flow", predicton="noise")
    with pytest.raises(ValueError, match=r"model 'mean_flow' has no option 'share'"):
        _model("mean_flow", share=0.5)


def test_regression_answers_with_the_mean_of_two_modes():
    model, ramp = _model("regression"), torch.linspace(0, 1, 16)[:, None].expand(16, 2)
    batch = {"action": torch.stack([0.4 + ramp, 0.4 - ramp]), "obs": torch.zeros(2, T_O, D)}
    _train(model, lambda _: batch, 100)
    # Half the squared distance between the modes cannot be removed: (1/16) Σ ramp².
    loss = model.loss(batch, torch.Generator()).mean().item()
    assert loss == pytest.approx(ramp.square().mean().item(), rel=1e-2)
    chunks, calls = _drawn(model, batch["obs"].flatten(1))
    assert calls == 1
    torch.testing.assert_close(chunks, torch.full((2, 16, 2), 0.4), atol=0.05, rtol=0)


def test_mean_flow_takes_any_number_of_steps_and_no_solver():
    model, cond = _model("mean_flow"), torch.zeros(2, T_O * D)
    assert model.sampler == {"solver": "flow_map", "steps": 1, "grid": "uniform", "options": {}}
    one = _drawn(model, cond)
    model.configure(SamplerConfig("flow_map", 4, "uniform"))
    four = _drawn(model, cond)
    assert (one.calls, four.calls) == (1, 4) and (one.chunks - four.chunks).abs().max() > 1e-3
    for refused in (SamplerConfig("dpmpp_2m"), SamplerConfig(grid="log_snr"), SamplerConfig(options={"eta": 1.0})):
        with pytest.raises(ValueError, match=r"for mean_flow; expected steps alone"):
            model.configure(refused)
    with pytest.raises(ValueError, match="steps"):
        model.configure(SamplerConfig(steps=0))


@pytest.mark.parametrize("fraction", [0.0, 1.0])
def test_mean_flow_without_spans_is_flow_matching(fraction):
    """As a batch of few samples is by chance."""
    model = _model("mean_flow", span_fraction=fraction, power=0.0)
    data, cond = torch.rand(4, T_P, A), torch.rand(4, T_O * D)
    loss = model.loss({"action": data, "obs": cond}, torch.Generator().manual_seed(0))
    source = torch.Generator().manual_seed(0)
    t = torch.rand(4, 3, generator=source, dtype=torch.float64)[:, 1].float()
    noise = torch.randn(data.shape, generator=source)
    x = (1 - t)[:, None, None] * noise + t[:, None, None] * data
    by_hand = (model.net(x, t, Condition(cond), r=t) - (data - noise)).square().mean((1, 2))
    assert torch.allclose(loss, by_hand) == (fraction == 0)


def test_two_steps_are_two_regressions():
    model, asked = _model("two_step"), []
    data, noise = torch.rand(5, T_P, A), torch.randn(5, T_P, A, generator=torch.Generator().manual_seed(0))

    class Fixed(nn.Module):
        def forward(self, x, t, cond):
            asked.append((x, t))
            return torch.full_like(x, 0.5) + 0.1 * x

    model.net = Fixed()
    loss = model.loss({"action": data, "obs": torch.zeros(5, T_O, D)}, torch.Generator().manual_seed(0))
    near = data + 0.1 * noise
    torch.testing.assert_close(asked[0][0], torch.cat([torch.zeros_like(data), near]))
    torch.testing.assert_close(asked[0][1], torch.tensor([0.0] * 5 + [0.9] * 5))
    first, second = ((0.5 - data) ** 2).mean((1, 2)), ((0.5 + 0.1 * near - data) ** 2).mean((1, 2))
    torch.testing.assert_close(loss, first / 0.81 + second / 0.01)
    chunks, calls = _drawn(model, torch.zeros(1, T_O * D))
    torch.testing.assert_close(chunks, torch.full((1, T_P, A), 0.55))
    assert calls == 2
    with pytest.raises(ValueError, match="method.time=1.0; expected a time between 0 and 1"):
        _model("two_step", time=1.0)


def test_a_flow_starts_at_a_guess_of_the_mean():
    model, asked = _model("refined", spread=0.3), []
    source = torch.Generator().manual_seed(1)
    data, obs = (torch.rand(200, *shape, generator=source) for shape in ((T_P, A), (T_O, D)))

    class Still(nn.Module):
        def forward(self, x, t, cond):
            asked.append((x, t[:, None, None]))
            return torch.zeros_like(x)

    model.net = Still()
    loss = model.loss({"action": data, "obs": obs}, torch.Generator().manual_seed(0))
    guess = model.guess(obs.flatten(1)).view_as(data)
    x, t = asked[0]
    start = (x - t * data) / (1 - t)
    near = t.flatten() < 0.9
    left = (start - guess)[near]
    assert float(left.std()) == pytest.approx(0.3, rel=0.05) and abs(float(left.mean())) < 0.02
    missed = (guess - data).square().mean((1, 2))
    found = (data - start).square().mean((1, 2)) + missed
    torch.testing.assert_close(loss[near], found[near], rtol=1e-3, atol=1e-3)
    (taught,) = torch.autograd.grad(loss.sum(), model.guess[0].weight)
    torch.testing.assert_close(taught, torch.autograd.grad(missed.sum(), model.guess[0].weight)[0])

    drawn, calls = _drawn(model, obs.flatten(1))
    assert calls == 3 and float((drawn - guess).std()) == pytest.approx(0.3, rel=0.05)
    alone, _ = model.sample(Condition(obs.flatten(1)), _generators(200), SamplingContext(temperature=0))
    torch.testing.assert_close(alone, guess)


def test_a_flow_from_a_guess_is_no_diffusion():
    model = _model("refined")
    with pytest.raises(ValueError, match=r"solver=euler_maruyama, which takes x_0 for N\(0, I\)"):
        model.configure(SamplerConfig("euler_maruyama"))
    assert model.sampler["solver"] == "euler"
    with pytest.raises(ValueError, match=r"method.spread=0.*above 0"):
        _model("refined", spread=0)
    with pytest.raises(ValueError, match=r"method.path=.*cosine.*name=linear"):
        _model("refined", path={"name": "cosine"})


def test_a_mixture_learns_two_modes_as_two():
    """The loss comes down to the entropy of two narrow modes, and both are drawn equally often."""
    model, spread = _model("lstm_gmm"), 0.05
    source = torch.Generator().manual_seed(0)

    def batch(count=64):
        side = torch.randint(0, 2, (count, 10, 1), generator=source) - 0.5
        data = side + spread * torch.randn(count, 10, A, generator=source)
        return {"action": data, "obs": torch.zeros(count, 10, D)}

    _train(model, lambda _: batch(), 300)
    entropy = math.log(2) + A / 2 * math.log(2 * math.pi * math.e * spread**2)
    assert model.loss(batch(500), source).mean().item() == pytest.approx(entropy, abs=0.1)
    for std, around in ((None, spread), (1e-4, 1e-4)):
        model.std = std
        chunks = _drawn(model, torch.zeros(500, 10 * D)).chunks
        left = chunks[:, :, 0] < 0
        assert chunks.shape == (500, 10, A) and left.float().mean().item() == pytest.approx(0.5, abs=0.05)
        for side, center in ((left, -0.5), (~left, 0.5)):
            assert chunks[side].mean().item() == pytest.approx(center, abs=0.03)
        assert chunks[:, -1][left[:, -1]].std(0).max().item() == pytest.approx(around, rel=0.25)
        # Drawn anew at every step, whichever mode it was before.
        assert (left[:, 1:] == left[:, :-1]).float().mean().item() == pytest.approx(0.5, abs=0.05)


def test_a_mixture_predicts_one_action_after_each_observation():
    run = tiny.config("lstm_gmm")
    run.policy = PolicyConfig()
    with pytest.raises(ValueError, match=r"obs_horizon=2 and policy.horizon=16 for lstm_gmm.*take 10 for both"):
        tiny.model(run)
    with pytest.raises(ValueError, match=r"method.std=-1.0; expected at least 0"):
        _model("lstm_gmm", std=-1.0)


def test_bounded_methods_need_bounded_actions():
    def build(method, normalize, **options):
        run = tiny.config({**METHODS[method], **options})
        run.dataset.normalize = normalize
        return build_model(run, tiny.spec(), A, for_training=True)

    gaussian = {"action": "gaussian"}
    with pytest.raises(ValueError, match=r"lstm_gmm.* within ±1, and dataset.normalize.action=gaussian.*take limits"):
        build("lstm_gmm", gaussian)
    run = tiny.config("lstm_gmm")
    run.dataset.normalize = gaussian
    build_model(run, tiny.spec(), A)  # one that was trained comes back
    build("nearest", gaussian)
    build("flow", gaussian)
    build("flow", gaussian, clip=5.0)
    build("flow", {}, clip=1.0)
    for clip, normalize in ((1.0, gaussian), (0.5, {})):
        with pytest.raises(ValueError, match=rf"within ±{clip:g}.*take limits, or another method.clip"):
            build("flow", normalize, clip=clip)


def _by_hand(cond, memory, k):
    """Sample by sample, in float64."""
    answers = []
    for query in cond.double():
        distances = [(query - each).norm().item() for each in memory["obs"].flatten(1).double()]
        order = np.argsort(distances, kind="stable")[:k]
        weights = np.exp(-np.array(distances)[order])
        answers.append(sum(w * memory["action"][i].double() for w, i in zip(weights, order, strict=True)))
        answers[-1] /= weights.sum()
    return torch.stack(answers).float()


@pytest.mark.parametrize("k", [1, 3, WINDOWS])
def test_the_nearest_windows_answer(monkeypatch, k):
    model, asked = _model("nearest", k=k), windows(40, seed=1)
    found, calls = _drawn(model, asked["obs"].flatten(1))
    torch.testing.assert_close(found, _by_hand(asked["obs"].flatten(1), windows(), k))
    expected = (found - asked["action"]).square().mean((1, 2))
    torch.testing.assert_close(model.loss(asked, torch.Generator()), expected, atol=1e-6, rtol=0)
    monkeypatch.setattr(nearest, "_BLOCK", 7 * WINDOWS)  # distances in blocks of 7 samples
    torch.testing.assert_close(_drawn(model, asked["obs"].flatten(1)).chunks, found)
    assert calls == 0 and _drawn(model, asked["obs"].flatten(1)[:0]).chunks.shape == (0, T_P, A)


def test_neighbors_closer_than_a_product_rounds_are_told_apart():
    """Far from the origin, a dozen windows that differ by less than a squared length does; of equals the first."""
    model, memory = _model("nearest"), windows()
    memory["obs"][:12] = 1 + 1e-5 * torch.arange(12)[:, None, None]
    memory["obs"][12] = memory["obs"][5]
    model.remember([memory])
    torch.testing.assert_close(_drawn(model, memory["obs"][:13].flatten(1)).chunks, memory["action"][[*range(12), 5]])


def test_what_a_memory_refuses():
    for k in (0, WINDOWS + 1):
        with pytest.raises(ValueError, match=f"method.k={k}; expected 1 to {WINDOWS}"):
            _model("nearest", k=k)
    model = build_model(tiny.config("nearest"), tiny.spec(), A)
    assert _drawn(model, windows()["obs"].flatten(1)).chunks.isnan().all()  # nothing remembered
    with pytest.raises(ValueError, match=f"{WINDOWS + 4} windows; expected {WINDOWS}"):
        model.remember([windows(), windows(4)])
    with pytest.raises(ValueError, match="windows=None for nearest"):
        nearest.NearestModel(ModelSpec(A, D, T_P))


def test_tokens_are_drawn_from_the_middles_of_their_intervals():
    model = _model("tokens")
    chunks, calls = _drawn(model, torch.rand(50, model.spec.cond_dim))
    middles = (2 * torch.arange(16) + 1) / 16 - 1
    assert calls == 3 and set(chunks.unique().tolist()) <= set(middles.tolist())
    model.configure(SamplerConfig("euler", steps=5, options={"churn": 0.5}))
    assert _drawn(model, torch.rand(2, model.spec.cond_dim)).calls == 5
    with pytest.raises(ValueError, match="a solver of tau_leaping, euler"):
        model.configure(SamplerConfig("heun"))
    with pytest.raises(ValueError, match="temperature=0"):
        _model("tokens", temperature=0)


def test_tokens_learn_two_ways_and_never_their_mean():
    """Chunks that are all 0.8 or all −0.8: what is drawn is one of the two, whole."""
    torch.manual_seed(0)
    model = _model("tokens", levels=5, steps=20)
    cond = torch.zeros(128, model.spec.cond_dim)

    def batch(step):
        sides = torch.randint(2, (128, 1, 1), generator=torch.Generator().manual_seed(step)) * 1.6 - 0.8
        return {"action": sides.expand(128, *model.shape), "obs": cond}

    _train(model, batch, 150, lr=3e-3)
    chunks = _drawn(model, cond).chunks
    whole = (chunks.flatten(1) == chunks.flatten(1)[:, :1]).float().mean()
    assert whole > 0.8 and 0.1 < (chunks[:, 0, 0] > 0).float().mean() < 0.9
    assert float(chunks.abs().flatten().median()) == pytest.approx(0.8)
