"""What binds chunks to those before them: ensembles, noise, warm starts, held entries; and what is refused."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn

from diffpolicy import checkpoint, load_policy
from diffpolicy.datasets.normalizer import Normalizer
from diffpolicy.generative.paths import CosinePath, DiscretePath, LinearPath
from diffpolicy.policies import ActionQueue, Execution, Policy, build_actor

T_O, T_P, D, A = 2, 16, 5, 2
REGRESSION = {"name": "regression"}
FLOW = {"name": "generative", "path": {"name": "linear"}, "prediction": "velocity", "steps": 2}
DDPM = FLOW | {"path": {"name": "ddpm", "steps": 20}, "prediction": "noise", "solver": "ddim", "clip": 1.0}


def _config(method=FLOW, t_o=T_O):
    return {
        "policy": {"obs_horizon": t_o, "horizon": T_P, "action_horizon": 4},
        "method": method,
        "net": {"name": "unet1d", "widths": [8, 16], "time_features": 8},
        "env": {"id": None, "options": {}},
    }


def _normalizer():
    rng = np.random.default_rng(0)
    return Normalizer.fit({"obs": rng.uniform(0, 512, (99, D)), "action": rng.uniform(100, 400, (99, A))})


def _policy(t_a=4, method=FLOW, t_o=T_O, block=None, net=None, **settings):
    torch.manual_seed(0)
    actor = build_actor(_config(method, t_o), D, A).eval()
    if net is not None:
        actor.net = net
    policy = Policy(actor, _normalizer(), t_o, T_P, t_a, block, execution=Execution(**settings))
    policy.reset([0], [42])
    return policy


def _stream(chunks, t_o=T_O, rows=1, seed=0):
    return np.random.default_rng(seed).uniform(0, 512, (chunks, rows, t_o, D)).astype(np.float32)


def _normalized(actions):
    return _normalizer().normalize("action", torch.from_numpy(actions)).numpy()


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
    policy, plain = _policy(t_a, method, ensemble=ensemble), _policy(t_a, method)
    stream = _stream(20 if t_a < 3 else 6)
    executed = np.concatenate([policy.predict(obs)[0] for obs in stream])
    chunks = [plain.trajectories(obs)[0] for obs in stream]  # the same: no chunk depends on what is executed
    expected = _ensembled(chunks, T_O, t_a, weigh)
    np.testing.assert_allclose(executed, expected, rtol=1e-5)
    raw = np.concatenate([chunk[T_O - 1 :][:t_a] for chunk in chunks])
    np.testing.assert_array_equal(executed[:t_a], raw[:t_a])  # the first chunk is alone
    assert np.abs(executed[t_a:] - raw[t_a:]).max() > 1e-3
    twin = _policy(t_a, method, ensemble=ensemble)
    np.testing.assert_array_equal([twin.trajectories(obs)[0] for obs in stream], chunks)


def test_extreme_decay_stays_finite():
    for m, age in ((1e4, 1), (-1e4, 0)):  # the older of two alone, where it reaches, or the newest alone
        policy, plain = _policy(8, ensemble=m), _policy(8)
        first, second = ([p.predict(obs)[0] for obs in _stream(2)][1] for p in (policy, plain))
        assert np.isfinite(first).all() and (np.array_equal(first, second) is (age == 0))


def test_zero_noise_depends_on_nothing_but_the_observation():
    obs = _stream(1)[0]
    policy = _policy(noise="zero")
    chunks = [policy.trajectories(obs) for _ in range(2)]
    policy.reset([0], [7])
    chunks.append(policy.trajectories(obs))
    np.testing.assert_array_equal(chunks[0], chunks[1])
    np.testing.assert_array_equal(chunks[0], chunks[2])
    assert not np.allclose(policy.trajectories(_stream(1, seed=1)[0]), chunks[0])


def test_an_episodes_noise_is_that_of_its_first_chunk():
    obs, policy, plain = _stream(1)[0], _policy(noise="episode"), _policy()
    first = plain.trajectories(obs)
    for _ in range(3):
        np.testing.assert_array_equal(policy.trajectories(obs), first)
    assert not np.allclose(plain.trajectories(obs), first)
    for seeds in ([43], None):  # and without seeds
        for p in (policy, plain):
            p.reset([0], seeds)
        other = policy.trajectories(obs)
        np.testing.assert_array_equal(other, plain.trajectories(obs))
        assert not np.allclose(other, first)


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
    generator = torch.Generator().manual_seed(1)
    chunk = torch.rand(T_P, A, generator=generator)
    net = _Net(chunk)
    method = FLOW | {"path": spec, "prediction": "data", "solver": "ddim", "steps": 10}
    policy = _policy(4, method, net=net, warm_start=0.58, noise="zero")
    obs = _stream(1)[0]
    policy.trajectories(obs)
    assert len(net.asked) == policy.calls == 10
    net.answer, net.asked = _shifted(chunk, 4), []
    second = _normalized(policy.trajectories(obs))[0]
    np.testing.assert_allclose(second, net.answer, atol=1e-5)
    np.testing.assert_allclose([t for _, t in net.asked], [0.58, 0.6, 0.7, 0.8, 0.9], atol=1e-6)
    assert policy.calls == 5
    for x, t in net.asked:
        expected = path.alpha(torch.tensor(t, dtype=torch.float64)).item() * net.answer
        np.testing.assert_allclose(x[0], expected, atol=1e-4)


def test_a_warm_start_is_from_the_noised_last_chunk():
    """At rest (velocity 0) sampling ends where it began: t0·shifted + (1 − t0)·noise, and the noise is chunk 1."""
    policy = _policy(3, FLOW | {"steps": 4}, net=_Net(torch.zeros(())), warm_start=0.25, noise="episode")
    obs = _stream(1)[0]
    noise, second, third = (torch.from_numpy(_normalized(policy.trajectories(obs))[0]) for _ in range(3))
    np.testing.assert_allclose(second, 0.25 * _shifted(noise, 3) + 0.75 * noise, atol=1e-4)
    np.testing.assert_allclose(third, 0.25 * _shifted(second, 3) + 0.75 * noise, atol=1e-4)
    assert policy.calls == 3  # a time of the grid itself: [0.25, 0.5, 0.75, 1]


def test_calls_are_those_of_a_chunk_that_follows_another():
    policy, obs = _policy(method=FLOW | {"steps": 10}, warm_start=0.5), _stream(1, rows=2)[0]
    policy.predict(obs, [0, 1])
    assert policy.calls == 10
    policy.predict(obs, [0, 2])  # one of each
    assert policy.calls == 5
    policy.reset([3, 4], [8, 9])
    policy.predict(obs, [3, 4])
    assert policy.calls == 5 and policy.actor.calls == 10


@pytest.mark.parametrize("method", [FLOW, DDPM], ids=["flow", "ddpm"])
@pytest.mark.parametrize(("t_o", "t_a", "d"), [(2, 4, 0), (2, 8, 7), (3, 1, 2), (4, 2, 3), (1, 4, 2)])
@pytest.mark.parametrize("more", [{}, {"ensemble": 0.1, "warm_start": 0.4}], ids=["alone", "combined"])
def test_held_entries_are_as_executed_and_as_planned(method, t_o, t_a, d, more):
    stream = _stream(5, t_o)
    raw, acting, free = (_policy(t_a, method, t_o, inpaint=i, **more) for i in (d, d, None))
    chunks = [raw.trajectories(obs)[0] for obs in stream]
    executed = np.concatenate([acting.predict(obs)[0] for obs in stream])
    apart = [free.trajectories(obs)[0] for obs in stream]
    np.testing.assert_array_equal(chunks[0], apart[0])
    for number, (last, chunk) in enumerate(pairwise(chunks), start=1):
        now = number * t_a
        past = executed[max(now - (t_o - 1), 0) : now]
        np.testing.assert_array_equal(chunk[t_o - 1 - len(past) : t_o - 1], past)
        np.testing.assert_array_equal(chunk[t_o - 1 :][:d], last[t_o - 1 + t_a :][:d])
        beyond = last[t_o - 1 + t_a + d :]
        assert not len(beyond) or not np.array_equal(chunk[t_o - 1 + d :][: len(beyond)], beyond)
    assert np.abs(chunks[1] - apart[1]).max() > 1e-3


ALL = {"noise": "episode", "ensemble": 0.1, "warm_start": 0.4, "inpaint": 1}


@pytest.mark.parametrize("settings", [{"noise": "zero", "ensemble": [0.5, 0.5]}, {"inpaint": 2}, ALL], ids=str)
def test_rows_do_not_depend_on_their_batch(settings):
    """Episodes that begin at different times, in slots used before, as if each were alone."""
    policy, stream = _policy(block=16, **settings), _stream(6, rows=5)
    begins = {0: [0, 1], 2: [2], 3: [1, 3, 4]}  # call -> slots
    seeds, together = {}, {}
    for call, obs in enumerate(stream):
        for slot in begins.get(call, []):
            seeds[slot] = 10 * call + slot
            policy.reset([slot], [seeds[slot]])
        slots = list(seeds)[::-1]
        for slot, actions in zip(slots, policy.predict(obs[slots], slots), strict=True):
            together.setdefault(seeds[slot], []).append(actions)
    assert len(together) == 6
    for seed, actions in together.items():
        begin, slot = divmod(seed, 10)
        alone = _policy(block=16, **settings)
        alone.reset([7], [seed])
        again = [alone.predict(obs[slot][None], [7])[0] for obs in stream[begin : begin + len(actions)]]
        np.testing.assert_array_equal(actions, again)


def test_a_reset_forgets():
    policy, stream = _policy(**ALL), _stream(3)
    first = [policy.predict(obs) for obs in stream]
    policy.reset([0], [42])
    np.testing.assert_array_equal([policy.predict(obs) for obs in stream], first)
    policy.reset()
    assert policy.predict(stream[0]).shape == (1, 4, A) and policy.predict(stream[0][:0], []).shape == (0, 4, A)


@pytest.mark.parametrize("t_a", range(1, 9))
def test_any_action_horizon(t_a):
    queue = ActionQueue(_policy(t_a, **ALL))
    queue.reset([0, 1], [5, 6])
    observed = np.random.default_rng(2).uniform(0, 512, (20, 2, D))
    actions = np.stack([queue.act(obs) for obs in observed])
    assert actions.shape == (20, 2, A) and np.isfinite(actions).all()
    assert np.abs(np.diff(actions, axis=0)).max(axis=(1, 2)).min() > 0


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"noise": "epsiode"}, "'epsiode'; did you mean episode"),
        ({"ensemble": [0.5, 0.4]}, r"\[0.5, 0.4\] sum to 0.9"),
        ({"ensemble": [1.2, -0.2]}, r">= 0.*\[1.2, -0.2\]"),
        ({"ensemble": [0.0, 1.0]}, "the newest one's above 0"),
        ({"ensemble": []}, r">= 0.*\[\]"),
        ({"ensemble": float("nan")}, "nan"),
        ({"ensemble": "mean"}, "'mean'"),
        ({"ensemble": True}, "True"),
        ({"warm_start": 1.0}, "between 0 .* and 1 .*given 1.0"),
        ({"warm_start": 0}, "given 0"),
        ({"inpaint": -1}, "-1"),
        ({"inpaint": 1.5}, "1.5"),
        ({"inpaint": True}, "True"),
    ],
    ids=str,
)
def test_settings_that_mean_nothing_are_refused(settings, says):
    with pytest.raises(ValueError, match=says):
        Execution(**settings)


@pytest.mark.parametrize(
    ("t_a", "how", "settings", "says"),
    [
        (4, {}, {"ensemble": [0.2] * 5}, r"5 weights.*T_o=2, T_p=16, T_a=4 no more than 4"),
        (15, {}, {"ensemble": 0.1}, "averages nothing.*T_a=15: take an action horizon T_a <= T_p - T_o = 14"),
        (4, {}, {"inpaint": 12}, "inpaint=12 reaches beyond.*inpaint can be up to 11"),
        (4, {"t_o": 1}, {"inpaint": 0}, "T_o=1"),
        (4, {"method": REGRESSION}, {"noise": "zero", "inpaint": 1}, "noise=zero, inpaint=1.*takes ensemble"),
        (4, {"method": REGRESSION}, {"warm_start": 0.5, "ensemble": 0.1}, "warm_start=0.5: this policy's actor"),
    ],
)
def test_settings_that_do_not_fit_the_policy_are_refused(t_a, how, settings, says):
    with pytest.raises(ValueError, match=says):
        _policy(t_a, **how, **settings)


def test_the_widest_settings_that_fit():
    widest = ((4, {"ensemble": [0.25] * 4, "inpaint": 11}), (14, {"ensemble": 0.1}), (15, {"inpaint": 0}))
    for t_a, settings in widest:
        policy = _policy(t_a, **settings)
        assert all(np.isfinite(policy.predict(obs)).all() for obs in _stream(6))


def test_chosen_when_a_checkpoint_is_loaded(tmp_path):
    policy = _policy(**ALL)
    tensors = policy.actor.state_dict()
    groups = {"model": tensors, "ema": tensors, "normalizer": _normalizer().to_tensors()}
    path = checkpoint.write(tmp_path, 1, groups, _config(), {})
    loaded = load_policy(path, execution=Execution(**ALL))
    loaded.reset([0], [42])
    assert loaded.execution == policy.execution and load_policy(path).execution == Execution()
    for obs in _stream(3):
        np.testing.assert_array_equal(loaded.predict(obs), policy.predict(obs))
    with pytest.raises(ValueError, match="up to 3"):
        load_policy(path, action_horizon=12, execution=Execution(inpaint=4))
