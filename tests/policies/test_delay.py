"""Chunks that take effect late, and what makes them agree with what is executed meanwhile."""

import math

import gymnasium as gym
import numpy as np
import pytest
import tiny
import tiny_policy
import torch
from tiny_policy import METHODS, T_P, A

from diffpolicy import evaluate_policy, load_policy, make_env
from diffpolicy.config import EnvConfig, ExecutionConfig, PolicyConfig
from diffpolicy.config.compose import compose
from diffpolicy.evaluation.episode import Reset
from diffpolicy.evaluation.following import motion_of
from diffpolicy.evaluation.observers import Recorder
from diffpolicy.evaluation.rollout import rollout
from diffpolicy.evaluation.task import TaskSpec
from diffpolicy.generative.distances import apart
from diffpolicy.generative.guidance import SoftInpaint
from diffpolicy.generative.paths import CosinePath, LinearPath
from diffpolicy.generative.predictions import Estimate, estimate, velocity
from diffpolicy.policies import Agent, PlanRequest, build_policy
from diffpolicy.policies.chunking import Decided, Past
from diffpolicy.policies.execution import check_execution, delay_of, longest_delay, prefix_weights
from diffpolicy.policies.motion import Motion
from diffpolicy.util.seeds import generator

T_O, T_A = 2, 4
OBS = np.random.default_rng(0).uniform(0, 512, (40, 3, tiny_policy.D)).astype(np.float32)


def policy(method="flow", t_a=T_A, block=None, follows=(3, 4), **settings):
    run = tiny_policy.config({**METHODS[method]} if isinstance(method, str) else method)
    run.policy = PolicyConfig(T_O, T_P, t_a)
    execution = ExecutionConfig(**settings)
    made = build_policy(
        run, tiny_policy.spec(), tiny_policy.model(run), tiny_policy.normalizer(), block=block, execution=execution
    )
    made.motion = None if follows is None else Motion(follows)
    return made


def acted(made, steps=30, envs=(0, 1, 2), seeds=(5, 6, 7)):
    agent = Agent(made)
    agent.reset(list(envs), list(seeds))
    return np.stack([agent.act(OBS[k, list(envs)], list(envs)) for k in range(steps)])


def history(k, env):
    return OBS[[max(k - 1, 0), k], env]


@pytest.mark.parametrize("delay", [0, 1, 3, 4, 7, 11])
@pytest.mark.parametrize("method", ["flow", "regression"])
def test_a_chunk_takes_effect_so_many_steps_late(delay, method):
    made = policy(method, delay=delay)
    found, plain = acted(made), policy(method)
    for env, seed in enumerate((5, 6, 7)):
        chunks = [
            plain.plan(PlanRequest(history(k, env)[None], [(seed, n)])).trajectory[0]
            for n, k in enumerate(range(0, 30, T_A))
        ]
        for k in range(30):
            n = (k - delay) // T_A
            expected = chunks[n][T_O - 1 + k - n * T_A] if k >= delay else OBS[0, env, [3, 4]]
            np.testing.assert_allclose(found[k, env], expected, rtol=1e-4, atol=1e-2)


def test_where_nothing_says_how_to_hold_the_first_chunk_is_awaited():
    found, plain = acted(policy(delay=3, follows=None)), acted(policy())
    np.testing.assert_allclose(found[: T_A + 3, 0], _whole(0, 5)[T_O - 1 :][: T_A + 3], rtol=1e-4, atol=1e-2)
    np.testing.assert_allclose(found[:T_A], plain[:T_A], rtol=1e-4, atol=1e-2)


def _whole(k, seed, env=0):
    return policy().plan(PlanRequest(history(k, env)[None], [(seed, k // T_A)])).trajectory[0]


def test_delays_are_drawn_by_the_episodes_seed_and_the_chunks_number():
    weights = [0.5, 0.0, 0.25, 0.25]
    assert longest_delay(weights) == 3 and longest_delay([1.0, 0.0]) == 0 and longest_delay(2) == 2
    drawn = [delay_of(weights, seed, number) for seed in range(200) for number in range(10)]
    shares = np.bincount(drawn, minlength=4) / 2000
    np.testing.assert_allclose(shares, weights, atol=0.04)
    made = policy(delay=weights)
    found = acted(made)
    np.testing.assert_allclose(found[:, [1]], acted(made, envs=(1,), seeds=(6,)), rtol=1e-4, atol=1e-2)
    chunks = [_whole(k, 5) for k in range(0, 30, T_A)]
    begins = [n * T_A + delay_of(weights, 5, n) for n in range(len(chunks))]
    for k in range(30):
        n = max((i for i, begin in enumerate(begins) if begin <= k), default=None)
        expected = OBS[0, 0, [3, 4]] if n is None else chunks[n][T_O - 1 + k - n * T_A]
        np.testing.assert_allclose(found[k, 0], expected, rtol=1e-4, atol=1e-2)


@pytest.mark.parametrize("delay", [2, 4])
def test_held_entries_are_those_that_are_pending(delay):
    made, asked = policy(delay=delay, inpaint=delay), []
    plan = made.plan
    made.plan = lambda request: asked.append((request, plan(request))) or asked[-1][1]
    found = acted(made, envs=(0,), seeds=(5,))
    for n, (request, chunk) in enumerate(asked):
        pending, executed = request.decided[0].pending, request.decided[0].executed
        assert len(pending) == delay
        np.testing.assert_array_equal(found[n * T_A :][:delay, 0], pending[: 30 - n * T_A])
        np.testing.assert_allclose(chunk.trajectory[0, T_O - 1 :][:delay], pending, rtol=1e-5, atol=1e-3)
        if n:
            np.testing.assert_array_equal(executed[-1], found[n * T_A - 1, 0])
            np.testing.assert_allclose(chunk.trajectory[0, 0], executed[0], rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("settings", [{"delay": 3}, {"delay": [0.5, 0.5]}, {"candidates": 3}, {"action_noise": 0.1}])
def test_an_episode_does_not_depend_on_its_neighbors(settings):
    run = tiny_policy.config("flow")
    run.policy = PolicyConfig(2, T_P, 4)
    spec = tiny_policy.spec(dim=2)
    run.found.observation = spec.to_plain()
    made = build_policy(
        run, spec, tiny_policy.model(run), tiny_policy.normalizer(2), block=8, execution=ExecutionConfig(**settings)
    )
    made.motion = Motion((0, 0))
    resets = [Reset(seed) for seed in range(10)]
    together, alone = (
        rollout(Agent(made), lambda: gym.make(tiny.ENV_ID), resets, [Recorder("state")], envs=envs) for envs in (8, 3)
    )
    for one, other in zip(together, alone, strict=True):
        np.testing.assert_array_equal(one.observed["recording"]["action"], other.observed["recording"]["action"])


def test_actions_are_carried_out_with_an_error():
    plain, noisy = acted(policy()), acted(policy(action_noise=3.0))
    error = (noisy - plain)[:T_A]
    assert np.isfinite(noisy).all() and 1.5 < error.std() < 4.5
    many = acted(policy(noise="zero", action_noise=3.0), steps=T_A, envs=range(3), seeds=(1, 2, 3))
    assert len(np.unique(many - acted(policy(noise="zero"), steps=T_A, seeds=(1, 2, 3)))) > 20


@pytest.mark.parametrize("steps", [8, 15])
@pytest.mark.parametrize(("pending", "reach"), [(0, 5), (2, 6), (4, 4), (3, 15)])
def test_weights_are_those_of_the_paper(pending, reach, steps):
    """H = `steps`, and H - s = `reach`."""
    reach = min(reach, steps)
    for schedule in ("exponential", "linear", "ones", "zeros"):
        found = prefix_weights(schedule, pending, reach, steps)
        for i in range(steps):
            c = (reach - i) / (reach - pending + 1)
            exponential = c * (math.exp(c) - 1) / (math.e - 1)
            between = {"exponential": exponential, "linear": c, "ones": 1.0, "zeros": 0.0}[schedule]
            expected = 1.0 if i < pending else between if i < reach else 0.0
            assert float(found[i]) == pytest.approx(expected, rel=1e-5)


class _Gaussian:
    """The exact field of data N(mean, covariance): E[data | x] is linear in x."""

    calls, needs_grad = 1, False

    def __init__(self, path, mean, covariance):
        self.path, self.mean, self.covariance = path, mean, covariance

    def gain(self, t):
        alpha, sigma = float(self.path.alpha(t)[0]), float(self.path.sigma(t)[0])
        whole = alpha**2 * self.covariance + sigma**2 * torch.eye(len(self.mean), dtype=torch.float64)
        return alpha, alpha * self.covariance @ torch.linalg.inv(whole)

    def __call__(self, x, t, cond=None):
        alpha, gain = self.gain(t)
        data = self.mean + (x[..., 0].double() - alpha * self.mean) @ gain.t()
        return estimate("data", data[..., None].to(x.dtype), x, t, self.path)


def _walk(size=6):
    """Numbers that hang together: covariance of a slowly varying sequence."""
    i = torch.arange(size, dtype=torch.float64)
    return torch.zeros(size, dtype=torch.float64), torch.exp(-(i[:, None] - i).abs() / 4)


@pytest.mark.parametrize("jacobian", [True, False])
def test_soft_inpainting_is_the_papers_velocity(jacobian):
    """Equation 2 to 4 of Black et al. 2025, by hand, where the Jacobian is known."""
    field = _Gaussian(LinearPath(), *_walk())
    known, weights = torch.randn(3, 6, 1, dtype=torch.float64), torch.rand(6, 1, dtype=torch.float64)
    x = torch.randn(3, 6, 1, dtype=torch.float64)
    for tau in (0.05, 0.3, 0.8, 0.99):
        t = torch.full((3,), tau, dtype=torch.float64)
        guided = velocity(SoftInpaint(field, known, weights, 5.0, jacobian)(x, t), t, field.path)
        free = field(x, t)
        error = (weights * (known - free.data))[..., 0]
        push = error @ field.gain(t)[1] if jacobian else error
        r2 = (1 - tau) ** 2 / (tau**2 + (1 - tau) ** 2)
        expected = velocity(free, t, field.path)[..., 0] + min(5.0, (1 - tau) / (tau * r2)) * push
        torch.testing.assert_close(guided[..., 0], expected)


@pytest.mark.parametrize("path", [LinearPath(), CosinePath()], ids=str)
def test_soft_inpainting_brings_samples_to_what_is_known(path):
    from diffpolicy.generative.sampling import sample, time_grid
    from diffpolicy.generative.solvers import make_solver

    mean, covariance = _walk()
    field = _Gaussian(path, mean, covariance)
    known = torch.tensor([1.5, 1.4, 0, 0, 0, 0], dtype=torch.float64)[:, None].expand(400, 6, 1)
    weights = torch.tensor([1.0, 1.0, 0, 0, 0, 0], dtype=torch.float64)[:, None]
    noise = torch.randn(400, 6, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    times = time_grid("uniform", 20, path)
    drawn = {}
    for name, one in (("free", field), ("guided", SoftInpaint(field, known, weights))):
        drawn[name] = sample(make_solver("euler").bind(one, path), noise, times)[..., 0]
    apart = {name: float((x[:, :2] - known[:, :2, 0]).abs().mean()) for name, x in drawn.items()}
    assert apart["guided"] < apart["free"] / 4
    gain = covariance[2:, :2] @ torch.linalg.inv(covariance[:2, :2])
    conditional = gain @ known[0, :2, 0]  # what follows goes with it
    off = {name: float((x[:, 2:].mean(0) - conditional).abs().mean()) for name, x in drawn.items()}
    assert off["guided"] < off["free"] / 3


def test_without_weights_nothing_is_guided_and_inference_mode_is_refused():
    field = _Gaussian(LinearPath(), *_walk())
    x, t = torch.randn(2, 6, 1, dtype=torch.float64), torch.full((2,), 0.4, dtype=torch.float64)
    soft = SoftInpaint(field, torch.ones(6, 1), torch.zeros(6, 1))
    assert soft.needs_grad and not SoftInpaint(field, torch.ones(6, 1), torch.zeros(6, 1), jacobian=False).needs_grad
    for mine, free in zip(soft(x, t), field(x, t), strict=True):
        torch.testing.assert_close(mine, free)
    with torch.inference_mode(), pytest.raises(RuntimeError, match="which inference mode forbids; .*jacobian=False"):
        soft(x, t)


@pytest.mark.parametrize("jacobian", [True, False])
@pytest.mark.parametrize("method", ["flow", "ddpm"])
def test_a_guided_chunk_lies_nearer_to_what_is_pending(method, jacobian):
    rows = np.arange(1, 9)
    obs = np.stack([history(k, 0) for k in rows])
    pending = np.full((3, A), 250.0, np.float32)
    decided = [Decided(np.empty((0, A), np.float32), pending)] * len(rows)
    apart = {}
    for guide in (None, "zeros", "ones"):
        how = {} if guide is None else {"guide": guide, "guide_jacobian": jacobian}
        made = policy(method, delay=3, **how)
        chunk = made.plan(PlanRequest(obs, [(k, 1) for k in range(len(rows))], None, decided))
        apart[guide] = np.abs(chunk.trajectory[:, T_O - 1 :][:, :3] - pending).mean()
        assert np.isfinite(chunk.trajectory).all()
    assert apart["zeros"] < apart[None] and apart["ones"] == apart["zeros"], "there is no last chunk"


@pytest.mark.parametrize("settings", [{"inpaint": 2}, {"warm_start": 0.5}, {"guide": "ones"}, {"candidates": 3}])
def test_a_last_chunk_that_is_long_over_binds_nothing(settings):
    made, plain = policy(**settings), policy()
    obs = np.stack([history(4, env) for env in range(3)])
    keys = [(s, 1) for s in (5, 6, 7)]
    past = torch.full((T_P, A), 0.9)
    stale = [Past((past,), past[:0], (600,))] * 3
    found, expected = made.plan(PlanRequest(obs, keys, stale)), plain.plan(PlanRequest(obs, keys))
    np.testing.assert_allclose(found.trajectory, expected.trajectory, rtol=1e-4, atol=1e-2)
    fresh = made.plan(PlanRequest(obs, keys, [Past((past,), past[:0], (4,))] * 3))
    assert np.abs(fresh.trajectory - expected.trajectory).max() > 1e-2


def test_what_is_executed_with_an_error_is_held_as_it_was_executed():
    made, asked = policy(action_noise=5.0, inpaint=0), []
    plan = made.plan
    made.plan = lambda request: asked.append((request, plan(request))) or asked[-1][1]
    found = acted(made, envs=(0,), seeds=(5,))
    for n, (_, chunk) in enumerate(asked[1:], start=1):
        np.testing.assert_allclose(chunk.trajectory[0, 0], found[n * T_A - 1, 0], rtol=1e-4, atol=1e-2)


def test_how_far_chunks_are_from_the_nearest_others():
    draw = np.random.default_rng(0)
    chunks, others = draw.normal(size=(2, 5, 7, 2)), draw.normal(size=(2, 4, 7, 2))
    found = apart(torch.from_numpy(chunks), torch.from_numpy(others))
    alone = apart(torch.from_numpy(chunks), torch.from_numpy(chunks), itself=True)
    for b in range(2):
        for i in range(5):
            to = [np.linalg.norm(chunks[b, i] - one, axis=1).mean() for one in others[b]]
            assert abs(float(found[b, i]) - np.mean(sorted(to)[:3])) < 1e-9
            to = [np.linalg.norm(chunks[b, i] - chunks[b, k], axis=1).mean() for k in range(5) if k != i]
            assert abs(float(alone[b, i]) - np.mean(sorted(to)[:3])) < 1e-9


def test_a_chunk_stands_off_from_what_a_weaker_policy_samples(tmp_path):
    """The weaker one draws what the better one draws with other noise; where they agree, agreement decides."""
    config = tiny_policy.config("flow", t_a=T_A)
    path = tiny_policy.save(tmp_path / "run" / "late", config, tiny_policy.model(config, 0))
    weak = tiny_policy.save(tmp_path / "run" / "early", config, tiny_policy.model(config, 1))
    how = {"candidates": 5, "weaker": str(weak)}
    better, alone = (load_policy(path, execution=ExecutionConfig(**one)) for one in (how, {"candidates": 5}))
    same = load_policy(path, execution=ExecutionConfig(**{**how, "weaker": str(path)}))
    obs = np.stack([history(0, env) for env in range(3)])
    keys = [(s, 0) for s in (5, 6, 7)]
    chosen, first = better.plan(PlanRequest(obs, keys)), alone.plan(PlanRequest(obs, keys))
    assert chosen.calls.tolist() == [2 * 5 * 3] * 3 and first.calls.tolist() == [5 * 3] * 3
    assert np.abs(chosen.trajectory - first.trajectory).max() > 1, "another candidate is executed in some episode"
    seen = torch.from_numpy(obs)
    observed = better.normalizer.apply({"obs": seen.repeat_interleave(5, 0)})
    with torch.no_grad():
        draws = better._chunker.draws([generator(*key) for key in keys], 15)
        both = [
            one.sample(one.condition(observed), draws).chunks[:, T_O - 1 :].unflatten(0, (3, 5))
            for one in (better.model, *better.weaker)
        ]
    best = (apart(both[0], both[0], itself=True) - apart(both[0], both[1])).argmin(1)
    wanted = better.in_units(both[0][torch.arange(3), best], seen, T_O - 1)
    np.testing.assert_allclose(chosen.trajectory[:, T_O - 1 :], wanted, rtol=1e-3, atol=0.1)
    assert np.isfinite(same.plan(PlanRequest(obs, keys)).trajectory).all()


def test_a_weaker_policy_that_is_none_is_refused(tmp_path):
    config = tiny_policy.config("flow", t_a=T_A)
    path = tiny_policy.save(tmp_path / "run", config)
    other = tiny_policy.save(tmp_path / "other", tiny_policy.config("flow", t_a=T_A - 1))
    with pytest.raises(ValueError, match=r"weaker=.* with candidates=1; expected several to choose among"):
        load_policy(path, execution=ExecutionConfig(weaker=str(path)))
    with pytest.raises(ValueError, match="an earlier checkpoint of the same run"):
        load_policy(path, execution=ExecutionConfig(candidates=4, weaker=str(other)))


def test_the_nearest_of_several_chunks_is_executed():
    first = policy(delay=2)
    obs = np.stack([history(4, env) for env in range(3)])
    before = first.plan(PlanRequest(np.stack([history(0, env) for env in range(3)]), [(s, 0) for s in (5, 6, 7)]))
    pending = [chunk[T_O - 1 + T_A :][:2] for chunk in before.trajectory]
    decided = [Decided(np.empty((0, A), np.float32), one) for one in pending]
    pasts = [
        Past(
            (torch.from_numpy(first.normalizer.normalize("action", torch.from_numpy(chunk)).numpy()),), torch.empty(0)
        )
        for chunk in before.trajectory
    ]
    keys = [(s, 1) for s in (5, 6, 7)]
    many = policy(delay=2, candidates=6)
    chosen = many.plan(PlanRequest(obs, keys, pasts, decided))
    alone = policy(delay=2).plan(PlanRequest(obs, keys, pasts, decided))
    assert chosen.calls.tolist() == [6 * 3] * 3

    def loss(trajectory, env):
        expected = before.trajectory[env][T_A:]
        expected = np.concatenate([expected[T_O - 1 :][:2] * 0 + pending[env], expected[T_O - 1 :][2:]])
        scale = 0.5 ** np.arange(len(expected))
        normal = [many.normalizer.normalize("action", torch.from_numpy(x)).numpy() for x in (trajectory, expected)]
        apart = np.linalg.norm(normal[0][T_O - 1 :][: len(expected)] - normal[1], axis=1)
        return float((apart * scale).sum())

    for env in range(3):
        assert loss(chosen.trajectory[env], env) <= loss(alone.trajectory[env], env) + 1e-5
    assert sum(loss(chosen.trajectory[env], env) < loss(alone.trajectory[env], env) - 1e-3 for env in range(3)) >= 1
    start = many.plan(PlanRequest(obs, keys)), policy(delay=2).plan(PlanRequest(obs, keys))
    np.testing.assert_allclose(start[0].trajectory, start[1].trajectory, rtol=1e-4, atol=1e-2)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"delay": -1}, "delay=-1; expected a number of control steps >= 0, or weights"),
        ({"delay": 1.5}, "delay=1.5"),
        ({"delay": [0.0, 0.0]}, r"delay=\[0.0, 0.0\]; expected weights >= 0 of the delays 0, 1, 2"),
        ({"delay": [0.5, -0.5]}, "weights >= 0"),
        ({"guide": "exponentiel"}, "unknown guide 'exponentiel' .did you mean 'exponential'"),
        ({"guide": "ones", "inpaint": 2}, "guide and inpaint together; take one of the two"),
        ({"guide_jacobian": False}, "guide_jacobian=False without a guide; name guide too"),
        ({"guide": "ones", "guide_bound": 0}, "guide_bound=0; expected a number above 0"),
        ({"candidates": 0}, "candidates=0; expected a number of chunks from 1 on"),
        ({"action_noise": -1.0}, "action_noise=-1.0; expected a standard deviation >= 0"),
    ],
    ids=str,
)
def test_settings_that_mean_nothing_are_refused(settings, says):
    with pytest.raises(ValueError, match=says):
        check_execution(ExecutionConfig(**settings))
    with pytest.raises(ValueError, match=says):
        policy(**settings)


@pytest.mark.parametrize(
    ("method", "settings", "says"),
    [
        ("flow", {"delay": 12}, "delay=12 of chunks with .* = 5 of T_p=16 actions; expected at most .* = 11 steps"),
        ("regression", {"guide": "ones"}, "guide=ones is not supported by the policy's method"),
        ("regression", {"candidates": 4}, "candidates=4 is not supported"),
        ("mean_flow", {"guide": "ones", "delay": 2}, "guide=ones is not supported"),
        ("two_step", {"guide": "linear"}, "guide=linear is not supported"),
    ],
)
def test_remedies_that_the_method_cannot_follow_are_refused(method, settings, says):
    with pytest.raises(ValueError, match=says):
        policy(method, **settings)


@pytest.mark.parametrize(
    ("name", "kwargs"),
    [
        ("PushT", {"obs_mode": "state"}),
        ("PushT", {"obs_mode": "keypoints"}),
        ("PushT", {"obs_mode": "corners", "goal": "random"}),
        ("PushT", {"obs_mode": "pixels"}),
        ("Detour", {}),
        ("PushBlocks", {}),
    ],
)
def test_environments_say_which_numbers_follow_the_action(name, kwargs):
    make = make_env(f"diffpolicy/{name}-v0", kwargs)
    env = make()
    columns = list(TaskSpec.of(env).follows)
    obs, info = env.reset(seed=3)
    vector = obs["agent"] if isinstance(obs, dict) else obs
    np.testing.assert_allclose(vector[columns], info["state"][:2], atol=1e-3)
    target = np.clip(vector[columns] + 40, 30, 480).astype(np.float32)
    for _ in range(10):
        obs = env.step(target)[0]
    vector = obs["agent"] if isinstance(obs, dict) else obs
    assert np.abs(vector[columns] - target).max() < 15
    for _ in range(3):
        obs = env.step(vector[columns])[0]
    after = obs["agent"] if isinstance(obs, dict) else obs
    assert np.abs(after[columns] - vector[columns]).max() < 5, "it holds the robot where it is"


def test_an_evaluation_with_a_delay_holds_first(tmp_path):
    run = tiny_policy.config("flow", env=EnvConfig("diffpolicy/PushT-v0", {"obs_mode": "state"}, max_steps=12))
    spec = tiny_policy.spec()
    run.found.observation = spec.to_plain()
    path = tiny_policy.save(tmp_path, run)
    found = {}
    for delay in (0, 6):
        how = {"episodes": 2, "workers": 0, "videos": 0, "execution": {"delay": delay}}
        found[delay] = evaluate_policy(path, **how)
        assert found[delay]["settings"]["execution"]["delay"] == delay
    assert found[0]["episodes"] != found[6]["episodes"]
    made = load_policy(path, execution=ExecutionConfig(delay=6))
    env = EnvConfig("diffpolicy/PushT-v0", {"obs_mode": "state"})
    make = make_env(env)
    task = TaskSpec.of(make())
    made.motion = motion_of(task, env, run, made)
    (one,) = rollout(Agent(made), make, [Reset(3, limit=10)], [Recorder("state")])
    recorded = one.observed["recording"]
    np.testing.assert_allclose(recorded["action"][:6], np.repeat(recorded["state"][:1, :2], 6, axis=0), atol=1e-3)
    assert np.abs(recorded["action"][6] - recorded["action"][5]).max() > 1
    for other in (EnvConfig(env.id, estimator="somewhere"), EnvConfig(env.id, obs_keys=["agent"])):
        assert motion_of(task, other, run, made) is None, "who knows which numbers these are"


def test_a_frozen_network_is_not_differentiated(tmp_path):
    path = tiny_policy.save(tmp_path, tiny_policy.config("flow", t_a=4))
    for how in ({"freeze": True}, {"compile": True}):
        with pytest.raises(
            ValueError, match="guide=ones of a network frozen for inference.*take guide_jacobian=False"
        ):
            load_policy(path, execution=ExecutionConfig(guide="ones"), **how)
    frozen = load_policy(path, freeze=True, execution=ExecutionConfig(guide="ones", guide_jacobian=False))
    plain = load_policy(path, execution=ExecutionConfig(guide="ones", guide_jacobian=False))
    pending = [Decided(np.empty((0, A), np.float32), np.full((2, A), 250.0, np.float32))]
    ask = PlanRequest(history(3, 0)[None], 5, None, pending)
    np.testing.assert_allclose(frozen.plan(ask).trajectory, plain.plan(ask).trajectory, rtol=1e-3, atol=0.1)


def _moved(count, seed=0):
    """Two numbers that follow random actions as a damped mass does, beside three others."""
    draw = np.random.default_rng(seed)
    actions = draw.uniform(100, 400, (count, 2))
    x = [np.array([200.0, 300.0])] * 2
    for k in range(count - 1):
        before = actions[k - 1] if k else x[-1]
        x.append(0.698 * x[-1] - 0.107 * x[-2] + 0.296 * actions[k] + 0.113 * before)
    return np.concatenate([draw.uniform(0, 512, (count, 3)), np.stack(x[1:])], axis=1), actions


def test_the_motion_is_that_of_the_recording():
    motion = Motion.fit((3, 4), [_moved(40, seed) for seed in range(3)])
    np.testing.assert_allclose(motion.response, [[0.698, -0.107, 0.296, 0.113]] * 2, atol=1e-6)
    assert motion.error.max() < 1e-6
    obs, actions = _moved(40, seed=9)
    for steps in (0, 1, 2, 5):
        for now in (1, 10):
            decided = Decided(actions[now - 1 : now], actions[now : now + steps])
            ahead = motion.forward(obs[now - 1 : now + 1], decided)
            np.testing.assert_allclose(ahead[:, 3:], obs[now - 1 + steps : now + 1 + steps, 3:], atol=1e-6)
            others = [min(now - 1 + steps, now), now]
            np.testing.assert_array_equal(ahead[:, :3], obs[others, :3])
    alone = motion.forward(obs[:1], Decided(np.empty((0, 2)), actions[:3]))
    np.testing.assert_allclose(alone[0, 3:], obs[3, 3:], atol=1e-6)
    with pytest.raises(ValueError, match="no episode of at least three steps"):
        Motion.fit((3, 4), [_moved(2)])


def test_a_policy_plans_from_where_it_will_be():
    made = policy(delay=3, roll_forward=True)
    made.motion = Motion.fit((3, 4), [_moved(40)])
    found, plain = acted(made, envs=(0,), seeds=(5,)), policy()
    hold, executed = OBS[0, 0, [3, 4]], []
    for n, k in enumerate(range(0, 30, T_A)):
        pending = np.array([hold] * 3) if not n else found[k : k + 3, 0]
        seen = made.motion.forward(history(k, 0), Decided(np.array(executed[-1:]).reshape(-1, 2), pending))
        chunk = plain.plan(PlanRequest(seen[None].astype(np.float32), [(5, n)])).trajectory[0][T_O - 1 :]
        expected = np.concatenate([pending, chunk])[: min(T_A + 3, 30 - k)]
        np.testing.assert_allclose(found[k : k + len(expected), 0][:T_A], expected[:T_A], rtol=1e-4, atol=1e-2)
        executed += list(found[k : k + T_A, 0])


def test_what_is_not_known_to_follow_is_not_rolled_forward(tmp_path):
    made = policy(delay=2, roll_forward=True)
    with pytest.raises(ValueError, match="roll_forward, and it is not known which numbers follow the action"):
        acted(made)
    for other in ({"inpaint": 2}, {"guide": "ones"}, {"candidates": 4}, {"ensemble": 0.1}):
        with pytest.raises(
            ValueError, match=f"roll_forward, .* and {next(iter(other))}, which look at the last chunk"
        ):
            policy(delay=2, roll_forward=True, **other)


def test_pusht_is_rolled_forward_exactly():
    """Its agent is a mass on a spring, so that the fit to demonstrations leaves nothing."""
    run = compose(["task=pusht_expert", "run_dir=r"])
    env = make_env(run.env)()
    made = policy(roll_forward=True)
    made.observation = tiny_policy.spec(dim=18)
    motion = motion_of(TaskSpec.of(env), run.env, run, made)
    assert motion.columns == (16, 17) and np.median(motion.error) < 0.5
    obs = [env.reset(seed=1)[0]]
    actions = np.linspace(obs[0][16:], [300.0, 200.0], 8, dtype=np.float32)
    for action in actions:
        obs.append(env.step(action)[0])
    ahead = motion.forward(np.stack(obs[2:4]), Decided(actions[2:3], actions[3:7]))
    np.testing.assert_allclose(ahead[:, 16:], np.stack(obs)[6:8, 16:], atol=1.0)


def test_estimates_keep_the_invariant():
    field = _Gaussian(CosinePath(), *_walk())
    x, t = torch.randn(2, 6, 1, dtype=torch.float64), torch.full((2,), 0.4, dtype=torch.float64)
    found = SoftInpaint(field, torch.ones(6, 1), torch.ones(6, 1))(x, t)
    assert isinstance(found, Estimate)
    alpha, sigma = field.path.alpha(t)[:, None, None], field.path.sigma(t)[:, None, None]
    torch.testing.assert_close(alpha * found.data + sigma * found.noise, x)
