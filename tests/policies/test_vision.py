"""Policies that see: the same contract with mappings of pictures and numbers."""

import re
from contextlib import nullcontext
from types import SimpleNamespace

import gymnasium as gym
import numpy as np
import pytest
import torch

from diffpolicy import checkpoint, load_policy
from diffpolicy.datasets.build import DatasetConfig
from diffpolicy.datasets.normalizer import Normalizer
from diffpolicy.evaluation import EnvConfig, rollout
from diffpolicy.policies import ActionQueue, Execution, Policy, build_actor, observed_by
from diffpolicy.scripts.train import Config, _check_fit

T_O, T_P, T_A = 2, 16, 8
CONFIG = {
    "policy": {"obs_horizon": T_O, "horizon": T_P, "action_horizon": T_A},
    "dataset": {"obs_keys": ["agent", "grip"]},
    "method": {"name": "generative", "path": {"name": "linear"}, "prediction": "velocity", "steps": 2},
    "net": {"name": "unet1d", "widths": [8, 16], "time_features": 8},
    "encoder": {"name": "image", "crop": 12, "widths": [8, 16], "keypoints": 3},
    "cameras": {"front": [16, 16, 3], "wrist": [12, 14, 1]},
    "env": {"id": None, "options": {}},
}


def _normalizer():
    rng = np.random.default_rng(0)
    return Normalizer.fit({"obs": rng.uniform(0, 512, (99, 3)), "action": rng.uniform(100, 400, (99, 2))})


def _policy(**options):
    torch.manual_seed(0)
    actor = build_actor(CONFIG, 3, 2).eval()
    return Policy(actor, _normalizer(), T_O, T_P, T_A, cameras=observed_by(CONFIG), **options)


def _obs(rows, steps=T_O, seed=0):
    rng, leading = np.random.default_rng(seed), (rows,) if steps is None else (rows, steps)
    return {
        "front": rng.integers(0, 256, (*leading, 16, 16, 3), np.uint8),
        "wrist": rng.integers(0, 256, (*leading, 12, 14, 1), np.uint8),
        "agent": rng.uniform(0, 512, (*leading, 2)).astype(np.float32),
        "grip": rng.uniform(0, 512, (*leading, 1)).astype(np.float32),
        "unused": np.zeros(leading),
    }


def test_chunks_depend_on_everything_that_is_seen():
    policy, obs = _policy(), _obs(3)
    policy.reset(range(3), [1, 2, 3])
    chunks = policy.predict(obs)
    assert chunks.shape == (3, T_A, 2) and chunks.dtype == np.float32
    for name in ("front", "wrist", "agent", "grip"):
        policy.reset(range(3), [1, 2, 3])
        other = {**obs, name: _obs(3, seed=1)[name]}
        assert np.abs(policy.predict(other) - chunks).max() > 1e-3, name


def test_rows_do_not_depend_on_their_batch():
    policy, obs = _policy(block=4), _obs(6)
    policy.reset(range(6), range(6))
    together = policy.predict(obs)
    policy.reset(range(6), range(6))
    apart = [policy.predict({k: v[i : i + 1] for k, v in obs.items()}, [i])[0] for i in range(6)]
    np.testing.assert_allclose(np.stack(apart), together, atol=1e-3)  # px


def test_the_condition_is_laid_out_step_by_step():
    policy, obs = _policy(), _obs(3)
    seen = {name: torch.from_numpy(obs[name]) for name in ("front", "wrist")}
    seen["cond"] = torch.randn(3, T_O * 3)
    steps = policy.actor._encoded(seen, {}).unflatten(1, (T_O, -1))
    assert steps.shape == (3, T_O, 3 + 6 + 6)
    for t in range(T_O):
        apart = [encoder(seen[name][:, t : t + 1]) for name, encoder in policy.actor.encoders.items()]
        expected = torch.cat([seen["cond"][:, 3 * t : 3 * t + 3], *apart], dim=1)
        torch.testing.assert_close(steps[:, t], expected)


def test_the_queue_keeps_the_history():
    policy, asked = _policy(), []
    predict = policy.predict
    object.__setattr__(policy, "predict", lambda obs, slots=None: asked.append(obs) or predict(obs, slots))
    queue = ActionQueue(policy)
    queue.reset()
    seen = [_obs(2, None, seed) for seed in range(T_A + 1)]
    for obs in seen:
        reused = {name: values.copy() for name, values in obs.items()}
        assert queue.act(reused).shape == (2, 2)
        for values in reused.values():
            values[:] = 0  # a driver fills its buffers again
    assert len(asked) == 2
    for name in ("front", "agent"):
        np.testing.assert_array_equal(asked[0][name], np.stack([seen[0][name]] * 2, axis=1))
        np.testing.assert_array_equal(asked[1][name], np.stack([seen[-2][name], seen[-1][name]], axis=1))


def test_the_actor_inside_is_told_of_the_last_chunk():
    policy, obs = _policy(execution=Execution(noise="zero", warm_start=0.5, inpaint=2)), _obs(1)
    first, second = policy.trajectories(obs)[0], policy.trajectories(obs)[0]
    np.testing.assert_array_equal(second[: T_O + 1], first[T_A:][: T_O + 1])
    assert policy.calls == 1


def test_saved_and_loaded(tmp_path):
    policy, obs = _policy(), _obs(2)
    tensors = policy.actor.state_dict()
    groups = {"model": tensors, "ema": tensors, "normalizer": _normalizer().to_tensors()}
    loaded = load_policy(checkpoint.write(tmp_path, 1, groups, CONFIG, {}), solver="heun", steps=3, freeze=True)
    policy.actor.configure("heun", 3, None, None)
    policy.reset(range(2), [5, 6])
    loaded.reset(range(2), [5, 6])
    np.testing.assert_allclose(loaded.predict(obs), policy.predict(obs), atol=0.01)
    assert loaded.actor.calls == policy.actor.calls > 3 and loaded.actor.sampler["solver"] == "heun"


def test_the_encoders_are_trained_with_the_rest():
    policy, obs = _policy(), _obs(4)
    batch = {name: torch.from_numpy(obs[name]) for name in ("front", "wrist")}
    batch |= {"cond": torch.randn(4, T_O * 3), "data": torch.randn(4, T_P, 2)}
    value = policy.actor.train().loss(batch, torch.Generator().manual_seed(0))
    assert value.shape == (4,)
    value.mean().backward()
    for encoder in policy.actor.encoders.values():
        assert encoder.layers[0].conv.weight.grad.abs().max() > 0


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        (
            lambda obs: obs["agent"],
            TypeError,
            r"sees pictures: give a mapping with the pictures 'front' \(16, 16, 3\), 'wrist' \(12, 14, 1\) and "
            r"numbers 'agent', 'grip', not an array of shape \(3, 2, 2\)",
        ),
        (lambda obs: {k: v for k, v in obs.items() if k != "grip"}, ValueError, r"obs lacks 'grip'"),
        (
            lambda obs: {**obs, "front": obs["front"] / 255},
            TypeError,
            r"obs\['front'\] is float64; .* look like 0 to 1: give \(x \* 255\)\.round\(\)\.astype\(np\.uint8\)",
        ),
        (
            lambda obs: {**obs, "front": obs["front"][:, :1]},
            ValueError,
            r"'front'\] has shape .*= \(3, 2, 16, 16, 3\)",
        ),
        (
            lambda obs: {k: v for k, v in obs.items() if k != "wrist"} | {"wrist_rgb": obs["wrist"]},
            ValueError,
            r"obs lacks 'wrist' \(did you mean 'wrist_rgb'\?\); .* trained with the pictures .* given are \['front'",
        ),
        (
            lambda obs: {**obs, "front": obs["front"][:, :, :12, :12]},
            ValueError,
            r"\(3, 2, 12, 12, 3\); .* trained with pictures of \(16, 16, 3\); scale or crop them",
        ),
        (
            lambda obs: {**obs, "front": np.moveaxis(obs["front"], -1, -3)},
            ValueError,
            r"\(3, 2, 3, 16, 16\); .*; the channels come last: give np\.moveaxis\(x, -3, -1\)",
        ),
        (lambda obs: {k: v[0] for k, v in obs.items()}, ValueError, r"add the batch axis with obs\[None\]"),
        (lambda obs: {**obs, "front": np.uint8(7)}, ValueError, r"obs\['front'\] has shape \(\)"),
        (lambda obs: {**obs, "agent": 1.0}, ValueError, r"obs\['agent'\] has shape \(\)"),
        (lambda obs: {**obs, "wrist": obs["wrist"][:2]}, ValueError, r"'wrist'\] has shape \(2, 2, 12, 14, 1\)"),
        (lambda obs: {**obs, "agent": obs["agent"][:, :1]}, ValueError, r"'agent'\] has shape .*\(3, 2\)"),
        (lambda obs: {**obs, "grip": obs["agent"]}, ValueError, r"\(B, T_o, D\) = \(B, 2, 3\)"),
        (lambda obs: {**obs, "grip": obs["grip"] * np.nan}, ValueError, r"NaN or infinity"),
    ],
)
def test_observations_that_are_refused(change, kind, message):
    with pytest.raises(kind, match=message):
        _policy().predict(change(_obs(3)))


@pytest.mark.parametrize(
    ("made", "undone"),
    [
        (lambda x: x / 255, r"look like 0 to 1"),
        (lambda x: (x / 127.5 - 1).astype(np.float32), r"look like -1 to 1"),
        (lambda x: x.astype(np.float32), r"look like 0 to 255"),
        (lambda x: x.astype(np.int64), r"look like 0 to 255"),
    ],
)
def test_pictures_of_other_ranges_are_converted_as_the_error_says(made, undone):
    policy, obs = _policy(), _obs(3)
    with pytest.raises(TypeError, match=undone) as refused:
        policy.predict({**obs, "front": made(obs["front"])})
    cure = str(refused.value).partition(": give ")[2]
    converted = eval(cure, {"np": np, "x": made(obs["front"])})
    np.testing.assert_array_equal(converted, obs["front"])
    policy.predict({**obs, "front": converted})


def test_pictures_of_no_known_range():
    policy, obs = _policy(), _obs(3)
    with pytest.raises(TypeError, match=r"run from -9 to \d+, which is no known range"):
        policy.predict({**obs, "front": obs["front"].astype(np.int16) - 9})
    with pytest.raises(TypeError, match=r"is bool; pictures are uint8, 0 to 255$"):
        policy.predict({**obs, "front": obs["front"] > 9})


def test_no_rows_are_no_actions():
    assert _policy().predict(_obs(0)).shape == (0, T_A, 2)


def test_a_policy_of_numbers_refuses_a_mapping():
    torch.manual_seed(0)
    policy = Policy(build_actor({**CONFIG, "cameras": {}}, 3, 2), _normalizer(), T_O, T_P, T_A)
    for ask, steps in ((policy.predict, T_O), (ActionQueue(policy).act, None)):
        with pytest.raises(TypeError, match=r"without pictures: .* 3 numbers .* not a mapping with \['front'"):
            ask(_obs(3, steps))


class _Room(gym.Env):
    """Shows what it is told to, and takes two numbers."""

    def __init__(self, obs):
        self.obs = obs
        self.action_space = gym.spaces.Box(0, 512, (2,))

    def reset(self, seed=None, options=None):
        return self.obs, {}

    def step(self, action):
        return self.obs, 0.0, True, False, {"coverage": 0.0, "success": False}


def test_an_environment_that_shows_other_pictures():
    shown = {name: values[0] for name, values in _obs(1, None).items()}
    assert len(rollout(_policy(), lambda: _Room(shown), [(0, None), (1, None)])) == 2
    for other, kind, message in [
        (
            {**shown, "front": np.zeros((24, 16, 3), np.uint8)},
            ValueError,
            r"\(2, 24, 16, 3\).*of \(16, 16, 3\); scale",
        ),
        ({**shown, "wrist": shown["wrist"] / 255}, TypeError, r"obs\['wrist'\] is float64; .*look like 0 to 1"),
        ({"agent": shown["agent"], "grip": shown["grip"]}, ValueError, r"obs lacks 'front'"),
        (shown["agent"], TypeError, r"sees pictures: give a mapping"),
    ]:
        with pytest.raises(kind, match=message):
            rollout(_policy(), lambda obs=other: _Room(obs), [(0, None), (1, None)])


@pytest.mark.parametrize(
    ("shown", "message"),
    [
        ({"front": ((16, 16, 3), np.uint8), "agent": ((3,), np.float32)}, None),
        ({"front": ((16, 16, 3), np.float32), "agent": ((3,), np.float32)}, r"'front' as float32 from 0 to 1.*uint8"),
        ({"front": ((24, 16, 3), np.uint8), "agent": ((3,), np.float32)}, r"\(16, 16, 3\).*has .*\(24, 16, 3\)"),
        ({"agent": ((3,), np.float32)}, r"'front': \(16, 16, 3\).*has \{'agent': \(3,\)\}"),
    ],
)
def test_environments_are_compared_with_the_demonstrations_before_training(monkeypatch, shown, message):
    env, top = _Room(None), {np.uint8: 255, np.float32: 1}
    boxes = {name: gym.spaces.Box(0, top[kind], shape, kind) for name, (shape, kind) in shown.items()}
    env.observation_space = gym.spaces.Dict(boxes)
    monkeypatch.setattr("diffpolicy.scripts.train.environment", lambda id, options: lambda: env)
    config = Config(dataset=DatasetConfig(obs_keys=["agent"]), env=EnvConfig("diffpolicy/Room-v0"))
    demonstrations = SimpleNamespace(obs_dim=3, action_dim=2)
    with pytest.raises(ValueError, match=message) if message else nullcontext():
        _check_fit(config, demonstrations, {"front": (16, 16, 3)})


@pytest.mark.parametrize("name", ["data", "cond", "type", "values"])
def test_names_that_a_camera_cannot_have(name):
    with pytest.raises(ValueError, match=f"no camera can be called '{name}'"):
        build_actor({**CONFIG, "cameras": {name: [16, 16, 3]}}, 3, 2)


def test_a_camera_may_have_dots_in_its_name():
    config = {**CONFIG, "cameras": {"observation.images.front": [16, 16, 3]}}
    actor, obs = build_actor(config, 3, 2), _obs(3)
    obs["observation.images.front"] = obs.pop("front")
    assert all("observation/images/front" in name for name in actor.state_dict() if name.startswith("encoders"))
    assert Policy(actor, _normalizer(), T_O, T_P, T_A, cameras=observed_by(config)).predict(obs).shape == (3, T_A, 2)


def test_what_the_queue_refuses():
    queue, obs = ActionQueue(_policy()), _obs(3, None)
    one = {name: values[0] for name, values in obs.items()}
    with pytest.raises(ValueError, match=r"\(16, 16, 3\); expected \(B, H, W, C\) .*add the batch axis"):
        queue.act(one)
    with pytest.raises(ValueError, match=r"obs lacks 'grip'"):
        queue.act({name: values for name, values in obs.items() if name != "grip"})
    with pytest.raises(ValueError, match=r"\(3, 12, 14, 1\); expected \(B, H, W, C\) = \(3, 16, 16, 3\)"):
        queue.act({**obs, "front": obs["wrist"]})
    with pytest.raises(TypeError, match="give a mapping"):
        queue.act(obs["agent"])
    for slots in ([0, 1], [0, 1, 1]):
        with pytest.raises(
            ValueError, match=rf"one slot per row of obs, each once; given {re.escape(str(slots))} for 3 rows"
        ):
            queue.act(obs, slots)
        with pytest.raises(ValueError, match="each once"):
            queue.policy.predict(_obs(3), slots)
    with pytest.raises(TypeError, match=r"pictures are uint8"):
        queue.act({**obs, "front": obs["front"] / 255})
