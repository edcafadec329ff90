"""What binds chunks to those before them: ensembles, noise, warm starts, held entries; and what is refused."""

import math
from itertools import pairwise

import numpy as np
import pytest
import tiny_policy as tiny
import torch
from tiny_policy import METHODS, T_P, A, D, Episodes
from torch import nn

from diffpolicy import load_policy
from diffpolicy.config import ExecutionConfig, PolicyConfig
from diffpolicy.generative.paths import CosinePath, DiscretePath, LinearPath
from diffpolicy.policies import PlanRequest, build_policy
from diffpolicy.policies.chunking import SamplingContext
from diffpolicy.policies.execution import check_execution
from diffpolicy.policies.models.base import Sample

T_O = 2
REGRESSION, FLOW, DDPM = METHODS["regression"], {**METHODS["flow"], "steps": 2}, {**METHODS["ddpm"], "steps": 2}


def _policy(t_a=4, method=FLOW, t_o=T_O, block=None, net=None, **settings):
    run = tiny.config(method)
    run.policy = PolicyConfig(t_o, T_P, t_a)
    model = tiny.model(run)
    if net is not None:
        model.net = net
    return build_policy(
        run, tiny.spec(), model, tiny.normalizer(), block=block, execution=ExecutionConfig(**settings)
    )


def _episode(*options, seed=42, **settings):
    return Episodes(_policy(*options, **settings), [seed])


def _stream(chunks, t_o=T_O, count=1, seed=0):
    return np.random.default_rng(seed).uniform(0, 512, (chunks, count, t_o, D)).astype(np.float32)


def _normalized(actions):
    return tiny.normalizer().normalize("action", torch.from_numpy(actions)).numpy()


def _ensembled(chunks, t_o, t_a, weigh):
    """Step by step, from all that was predicted for a step: control step -> number of chunk -> action."""
    predicted, executed = {}, []
    for number, chunk in enumerate(chunks):
        for entry, action in enumerate(chunk):
            predicted.setdefault(number * t_a + entry - (t_o - 1), {})[number] = action.astype(np.float64)
        for step in range(number * t_a, (number + 1) * t_a):
            known = predicted[step]
            weights = weigh(number, sorted(known))
            executed.append(sum(w * known[n] for n, w in weights.items()) / sum(weights.values()))
    return np.array(executed)


def _of_act(m):
    return lambda now, known: {n: np.exp(-m * i) for i, n in enumerate(known)}  # known: the oldest first


def _by_age(weights):
    return lambda now, known: {n: weights[now - n] for n in known if now - n < len(weights)}


@pytest.mark.parametrize("method", [FLOW, REGRESSION], ids=["flow", "regression"])
@pytest.mark.parametrize(
    ("t_a", "ensemble", "weigh"),
    [
        (1, 0.01, _of_act(0.01)),
        (1, [0.4, 0.3, 0.2, 0.1], _by_age([0.4, 0.3, 0.2, 0.1])),
        (2, 0, _of_act(0)),
        (3, -0.7, _of_act(-0.7)),  # the newest counts most
        (4, [0.3, 0.0, 0.7], _by_age([0.3, 0.0, 0.7])),
        (8, 0.5, _of_act(0.5)),  # the older chunk does not reach the last step
        (8, [0.2, 0.8], _by_age([0.2, 0.8])),
    ],
)
def test_ensembles_are_the_means_of_all_predictions(method, t_a, ensemble, weigh):
    ensembled, plain = _episode(t_a, method, ensemble=ensemble), _episode(t_a, method)
    stream = _stream(18 if t_a < 3 else 6)
    found = [ensembled.next(obs) for obs in stream]
    chunks = [plain.next(obs).trajectory[0] for obs in stream]
    np.testing.assert_array_equal([chunk.trajectory[0] for chunk in found], chunks)  # sampled alike
    executed = np.concatenate([chunk.actions[0] for chunk in found])
    np.testing.assert_allclose(executed, _ensembled(chunks, T_O, t_a, weigh), rtol=1e-5)
    raw = np.concatenate([chunk[T_O - 1 :][:t_a] for chunk in chunks])
    np.testing.assert_array_equal(executed[:t_a], raw[:t_a])  # the first chunk is alone
    assert np.abs(executed[t_a:] - raw[t_a:]).max() > 1e-3


def test_extreme_decay_stays_finite():
    for m, age in ((1e4, 1), (-1e4, 0)):  # the older of two alone, where it reaches, or the newest alone
        ensembled, plain = _episode(8, ensemble=m), _episode(8)
        first, second = ([e.next(obs).actions[0] for obs in _stream(2)][1] for e in (ensembled, plain))
        assert np.isfinite(first).all() and (np.array_equal(first, second) is (age == 0))


def test_zero_noise_depends_on_nothing_but_the_observation():
    obs, policy = _stream(1)[0], _policy(noise="zero")
    episode = Episodes(policy)
    chunks = [episode.next(obs).trajectory, episode.next(obs).trajectory, Episodes(policy, [7]).next(obs).trajectory]
    np.testing.assert_array_equal(chunks[0], chunks[1])
    np.testing.assert_array_equal(chunks[0], chunks[2])
    assert not np.allclose(episode.next(_stream(1, seed=1)[0]).trajectory, chunks[0])


def test_the_temperature_is_the_deviation_of_the_noise():
    """Where nothing carries it on, a chunk of flow is its noise."""
    obs, seeds = np.repeat(_stream(1)[0], 200, 0), list(range(200))

    def noise(temperature, **how):
        policy = _policy(temperature=temperature, **how)
        policy.model.carried = lambda bind, x, *rest: Sample(x, 1)
        return policy.plan(PlanRequest(obs, [(seed, 0) for seed in seeds])).trajectory

    one, part = (policy_units(noise(value)) for value in (1.0, 0.7))
    np.testing.assert_allclose(part, 0.7 * one, atol=1e-5)
    assert abs(one.std() - 1) < 0.02
    assert not policy_units(noise(None, noise="zero")).any()


def policy_units(trajectory):
    normalizer = tiny.normalizer()
    return normalizer.normalize("action", torch.from_numpy(trajectory)).numpy()


def test_the_policys_own_temperature_counts_unless_another_is_asked_for():
    obs = tiny.observations(3)

    def planned(own, **execution):
        run = tiny.config("flow")
        run.policy.temperature = own
        execution = ExecutionConfig(**execution)
        policy = build_policy(run, tiny.spec(), tiny.model(run), tiny.normalizer(), execution=execution)
        return policy.plan(PlanRequest(obs, 3)).trajectory

    plain, cool = planned(1.0), planned(0.5)
    assert not np.allclose(plain, cool)
    np.testing.assert_array_equal(planned(1.0, temperature=0.5), cool)
    np.testing.assert_array_equal(planned(0.5, temperature=1.0), plain)
    np.testing.assert_array_equal(planned(0.5, noise="zero"), planned(1.0, noise="zero"))


def test_temperatures_that_mean_nothing():
    for bad in (0, -1.0, math.nan, math.inf, "warm", True):
        with pytest.raises(ValueError, match=r"temperature=.*; expected a number above 0; take execution.noise"):
            _policy(temperature=bad)
    with pytest.raises(ValueError, match=r"temperature=0.5 is not supported by the policy's method"):
        tiny.policy("regression", execution=ExecutionConfig(temperature=0.5))
    with pytest.raises(ValueError, match=r"temperature=0.5 of noise=zero; take one of the two"):
        _policy(temperature=0.5, noise="zero")
    run = tiny.config()
    run.policy.temperature = 0
    with pytest.raises(ValueError, match=r"policy.temperature=0; expected a number above 0"):
        tiny.model(run)  # before any training
    run = tiny.config("regression")
    run.policy.temperature = 0.5  # of the recipe: ignored by a method that starts from no noise
    cool = build_policy(run, tiny.spec(), tiny.model(run), tiny.normalizer())
    obs = tiny.observations(2)
    np.testing.assert_array_equal(cool.predict(obs), tiny.policy("regression").predict(obs))


def test_an_episodes_noise_is_that_of_its_first_chunk():
    obs, same, plain = _stream(1)[0], _policy(noise="episode"), _policy()
    for seed in (42, 43):
        episode, other = Episodes(same, [seed]), Episodes(plain, [seed])
        first = other.next(obs).trajectory
        for _ in range(3):
            np.testing.assert_array_equal(episode.next(obs).trajectory, first)
        assert not np.allclose(other.next(obs).trajectory, first)


class _Net(nn.Module):
    """Answers with `answer`, and writes down at which x and t it was asked."""

    def __init__(self, answer):
        super().__init__()
        self.weight, self.answer, self.asked = nn.Parameter(torch.zeros(())), answer, []

    def forward(self, x, t, cond, r=None):
        self.asked.append((x.clone(), float(t[0])))
        return self.answer.expand_as(x)


def _shifted(chunk, t_a):
    return torch.cat([chunk[t_a:], chunk[-1:].expand(t_a, A)])


@pytest.mark.parametrize(
    ("path", "spec"),
    [
        (LinearPath(), {"name": "linear"}),
        (CosinePath(), {"name": "cosine"}),
        (DiscretePath(20), {"name": "ddpm", "steps": 20}),
    ],
    ids=["linear", "cosine", "ddpm"],
)
def test_a_warm_start_begins_at_the_last_chunk_and_reproduces_it(path, spec):
    """With a network that knows the data: what it is asked, and that an x on the way to the data stays on it."""
    chunk = torch.rand(T_P, A, generator=torch.Generator().manual_seed(1))
    net = _Net(chunk)
    method = FLOW | {"path": spec, "prediction": "data", "solver": "ddim", "steps": 10}
    episode, obs = _episode(4, method, net=net, warm_start=0.58, noise="zero"), _stream(1)[0]
    assert episode.next(obs).calls == len(net.asked) == 10
    net.answer, net.asked = _shifted(chunk, 4), []
    second = episode.next(obs)
    np.testing.assert_allclose(_normalized(second.trajectory)[0], net.answer, atol=1e-5)
    np.testing.assert_allclose([t for _, t in net.asked], [0.58, 0.6, 0.7, 0.8, 0.9], atol=1e-6)
    assert second.calls == 5
    for x, t in net.asked:
        expected = path.alpha(torch.tensor(t, dtype=torch.float64)).item() * net.answer
        np.testing.assert_allclose(x[0], expected, atol=1e-4)


def test_a_warm_start_is_from_the_noised_last_chunk():
    """At rest (velocity 0) sampling ends where it began: t0·shifted + (1 - t0)·noise, and the noise is chunk 1."""
    episode = _episode(3, FLOW | {"steps": 4}, net=_Net(torch.zeros(())), warm_start=0.25, noise="episode")
    found = [episode.next(_stream(1)[0]) for _ in range(3)]
    noise, second, third = (torch.from_numpy(_normalized(chunk.trajectory)[0]) for chunk in found)
    np.testing.assert_allclose(second, 0.25 * _shifted(noise, 3) + 0.75 * noise, atol=1e-4)
    np.testing.assert_allclose(third, 0.25 * _shifted(second, 3) + 0.75 * noise, atol=1e-4)
    assert found[-1].calls == 3  # a time of the grid itself: [0.25, 0.5, 0.75, 1]


@pytest.mark.parametrize("method", [FLOW, DDPM], ids=["flow", "ddpm"])
@pytest.mark.parametrize(("t_o", "t_a", "d"), [(2, 4, 0), (2, 8, 7), (3, 1, 2), (4, 2, 3), (1, 4, 2)])
@pytest.mark.parametrize("more", [{}, {"ensemble": 0.1, "warm_start": 0.4}], ids=["alone", "combined"])
def test_held_entries_are_as_executed_and_as_planned(method, t_o, t_a, d, more):
    stream = _stream(4, t_o)
    holding, free = (_episode(t_a, method, t_o, inpaint=i, **more) for i in (d, None))
    found = [holding.next(obs) for obs in stream]
    chunks = [chunk.trajectory[0] for chunk in found]
    executed = np.concatenate([chunk.actions[0] for chunk in found])
    apart = [free.next(obs).trajectory[0] for obs in stream]
    np.testing.assert_array_equal(chunks[0], apart[0])
    for number, (last, chunk) in enumerate(pairwise(chunks), start=1):
        now = number * t_a
        past = executed[max(now - (t_o - 1), 0) : now]
        np.testing.assert_array_equal(chunk[t_o - 1 - len(past) : t_o - 1], past)
        np.testing.assert_array_equal(chunk[t_o - 1 :][:d], last[t_o - 1 + t_a :][:d])
        beyond = last[t_o - 1 + t_a + d :]
        assert not len(beyond) or not np.array_equal(chunk[t_o - 1 + d :][: len(beyond)], beyond)
    assert np.abs(chunks[1] - apart[1]).max() > 1e-3


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"noise": "epsiode"}, r"unknown noise 'epsiode' \(did you mean 'episode'"),
        ({"ensemble": [0.5, 0.4]}, r"\[0.5, 0.4\] sum to 0.9; expected 1"),
        ({"ensemble": [1.2, -0.2]}, r"\[1.2, -0.2\]; expected numbers >= 0"),
        ({"ensemble": [0.0, 1.0]}, "the newest one's above 0"),
        ({"ensemble": []}, r"\[\]; expected numbers >= 0"),
        ({"ensemble": float("nan")}, "nan"),
        ({"ensemble": "mean"}, "'mean'"),
        ({"ensemble": True}, "True"),
        ({"warm_start": 1.0}, "warm_start=1.0; expected None or a time between 0"),
        ({"warm_start": 0}, "warm_start=0"),
        ({"inpaint": -1}, "-1"),
        ({"inpaint": 1.5}, "1.5"),
        ({"inpaint": True}, "True"),
    ],
    ids=str,
)
def test_settings_that_mean_nothing_are_refused(settings, says):
    with pytest.raises(ValueError, match=says):
        check_execution(ExecutionConfig(**settings))
    with pytest.raises(ValueError, match=says):
        _policy(**settings)


@pytest.mark.parametrize(
    ("t_a", "how", "settings", "says"),
    [
        (4, {}, {"ensemble": [0.2] * 5}, "5 ensemble weights, where 4 chunks overlap with T_o=2, T_p=16, T_a=4"),
        (15, {}, {"ensemble": 0.1}, "averages nothing.*T_a=15; take T_a <= T_p - T_o = 14"),
        (4, {}, {"inpaint": 12}, "inpaint=12 reaches beyond.*expected at most .* = 11"),
        (4, {"t_o": 1}, {"inpaint": 0}, "T_o=1"),
        (
            4,
            {"method": REGRESSION},
            {"noise": "zero", "inpaint": 1},
            "noise=zero, inpaint=1 .*settings of action_noise, delay, ensemble",
        ),
        (4, {"method": REGRESSION}, {"warm_start": 0.5, "ensemble": 0.1}, "warm_start=0.5 is not supported"),
        (
            4,
            {"method": METHODS["mean_flow"]},
            {"inpaint": 0},
            "inpaint=0 .*of action_noise, ask_above, ask_after, candidates, delay, .*roll_forward, .*warm",
        ),
    ],
)
def test_settings_that_do_not_fit_the_policy_are_refused(t_a, how, settings, says):
    with pytest.raises(ValueError, match=says):
        _policy(t_a, **how, **settings)


def test_the_widest_settings_that_fit():
    widest = ((4, {"ensemble": [0.25] * 4, "inpaint": 11}), (14, {"ensemble": 0.1}), (15, {"inpaint": 0}))
    for t_a, settings in widest:
        episode = _episode(t_a, **settings)
        assert all(np.isfinite(episode.next(obs).actions).all() for obs in _stream(6))


def test_chosen_when_a_checkpoint_is_loaded(tmp_path):
    execution = ExecutionConfig("episode", 0.1, 0.4, 1)
    run = tiny.config(t_a=4)
    path = tiny.save(tmp_path, run)
    loaded = load_policy(path, execution=execution)
    assert loaded.execution == execution and load_policy(path).execution == ExecutionConfig()
    both = [Episodes(loaded), Episodes(tiny.policy(t_a=4, execution=execution))]
    for obs in _stream(3):
        np.testing.assert_array_equal(*(episode.next(obs).actions for episode in both))
    with pytest.raises(ValueError, match="at most .* = 3"):
        load_policy(path, action_horizon=12, execution=ExecutionConfig(inpaint=4))


class _NoFloat64(torch.utils._python_dispatch.TorchDispatchMode):
    """Refuses float64 tensors on any device but the CPU, as Apple's GPUs do."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        if isinstance(out, torch.Tensor) and out.dtype == torch.float64:
            assert out.device.type == "cpu", function
        return out


@pytest.mark.parametrize("path", [LinearPath(), CosinePath(), DiscretePath(20)], ids=str)
def test_no_float64_is_made_on_a_device(path):
    like = torch.empty(3, T_P, A, device="meta")
    generators = [torch.Generator().manual_seed(seed) for seed in range(3)]
    with _NoFloat64():
        context = SamplingContext(expected=like, start=0.4)
        x, times = context.begin(like.shape, torch.linspace(0, 1, 5).double(), path, generators, like)
        chunker = _policy(ensemble=0.1, inpaint=2, warm_start=0.4)._chunker
        _, memory = chunker.execute(like, [None] * 3)
        chunker.execute(like, memory)
        assert chunker.context(memory).held.device.type == "meta"
    assert x.dtype == torch.float32 and x.device.type == "meta" and times.tolist()[0] == 0.4
