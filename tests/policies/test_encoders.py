"""The encoder stage: images and vectors become the condition of a network, step by step."""

import numpy as np
import pytest
import tiny_policy as tiny
import torch
from tiny_policy import CAMERAS, T_O, T_P, A, Episodes, observations

from diffpolicy import load_policy
from diffpolicy.config import ExecutionConfig, SamplerConfig
from diffpolicy.datasets.spec import ObservationSpec
from diffpolicy.policies import build_policy


def _observed(count):
    """A normalized batch."""
    obs = observations(count, cameras=CAMERAS)
    return {"obs": torch.randn(count, T_O, 3), **{name: torch.from_numpy(obs[name]) for name in CAMERAS}}


def test_chunks_depend_on_everything_that_is_seen():
    policy, obs = tiny.policy(cameras=CAMERAS), observations(3, cameras=CAMERAS)
    chunks = policy.predict(obs)
    for name in (*CAMERAS, "agent", "grip"):
        other = {**obs, name: observations(3, cameras=CAMERAS, seed=1)[name]}
        assert np.abs(policy.predict(other) - chunks).max() > 1e-3, name
    np.testing.assert_array_equal(policy.predict({**obs, "unused": np.ones(3)}), chunks)


def test_the_condition_is_laid_out_step_by_step():
    model, observed = tiny.model(tiny.config(cameras=CAMERAS)), _observed(3)
    steps = model.condition(observed).vector.unflatten(1, (T_O, -1))
    assert steps.shape == (3, T_O, 3 + 6 + 6)
    for t in range(T_O):
        apart = [encoder(observed[name][:, t : t + 1]) for name, encoder in model.encoders.items()]
        expected = torch.cat([observed["obs"][:, t], *apart], dim=1)
        torch.testing.assert_close(steps[:, t], expected)


def test_images_are_cropped_at_random_in_training_alone():
    model, observed = tiny.model(tiny.config(cameras=CAMERAS)), _observed(4)
    center = model.condition(observed).vector
    assert torch.equal(model.condition(observed, torch.Generator().manual_seed(0)).vector, center)
    model.train()
    drawn = [model.condition(observed, torch.Generator().manual_seed(seed)).vector for seed in (0, 0, 1)]
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])
    assert not torch.equal(drawn[0], center)


def test_images_reach_the_step_that_they_belong_to():
    """With a model whose chunk has an action for each observed step."""
    model = tiny.model(tiny.config("lstm_gmm", CAMERAS))
    seen = {
        "obs": torch.randn(1, 10, 3),
        "front": torch.randint(0, 256, (1, 10, 16, 16, 3), dtype=torch.uint8),
        "wrist": torch.randint(0, 256, (1, 10, 12, 14, 1), dtype=torch.uint8),
    }

    def draw(observed):
        return model.sample(model.condition(observed), [torch.Generator().manual_seed(0)]).chunks

    before = draw(seen)
    for name in seen:
        later = seen[name].clone().unflatten(1, (10, -1))
        later[:, 7] = 255 - later[:, 7]
        after = draw({**seen, name: later.reshape(seen[name].shape)})
        torch.testing.assert_close(after[:, :7], before[:, :7])
        assert ((after - before)[:, 7:].abs().amax(-1) > 0).all(), name


def test_the_model_inside_is_given_the_last_chunk():
    episode = Episodes(
        tiny.policy({**tiny.METHODS["flow"], "steps": 2}, CAMERAS, execution=ExecutionConfig("zero", None, 0.5, 2))
    )
    obs = observations(1, cameras=CAMERAS)
    first, second = episode.next(obs), episode.next(obs)
    np.testing.assert_array_equal(second.trajectory[0, : T_O + 1], first.trajectory[0, 8:][: T_O + 1])
    assert second.calls == 1


def test_saved_and_loaded_with_another_sampler(tmp_path):
    path = tiny.save(tmp_path, tiny.config(cameras=CAMERAS))
    policy, loaded = tiny.policy(cameras=CAMERAS), load_policy(path, SamplerConfig("heun", 3), freeze=True)
    policy.model.configure(SamplerConfig("heun", 3))
    obs = observations(2, cameras=CAMERAS)
    np.testing.assert_allclose(loaded.predict(obs), policy.predict(obs), atol=0.01)
    assert loaded.model.sampler == policy.model.sampler


def test_encoders_are_trained_with_the_rest():
    model = tiny.model(tiny.config(cameras=CAMERAS)).train()
    losses = model.loss({**_observed(4), "action": torch.randn(4, T_P, A)}, torch.Generator().manual_seed(0))
    losses.mean().backward()
    assert losses.shape == (4,)
    for encoder in model.encoders.values():
        assert encoder.layers[0].conv.weight.grad.abs().max() > 0


def test_features_are_computed_once_a_chunk():
    policy, seen = tiny.policy(cameras=CAMERAS), []
    for encoder in policy.model.encoders.values():
        encoder.register_forward_hook(lambda *_: seen.append(1))
    policy.predict(observations(4, cameras=CAMERAS))
    assert len(seen) == 2  # one for each camera


@pytest.mark.parametrize("name", ["obs", "action", "weight", "type", "values"])
def test_names_that_a_camera_cannot_have(name):
    with pytest.raises(ValueError, match=rf"an observation called \['{name}'\]; expected another name"):
        tiny.model(tiny.config(cameras={name: (16, 16, 3)}))


def test_a_camera_may_have_dots_in_its_name():
    name = "observation.images.front"
    run = tiny.config(cameras={name: (16, 16, 3)})
    model, spec = tiny.model(run), ObservationSpec.from_plain(run.found.observation)
    assert all("observation/images/front" in key for key in model.state_dict() if key.startswith("encoders"))
    policy = build_policy(run, spec, model, tiny.normalizer(3))
    assert policy.predict(observations(3, cameras={name: (16, 16, 3)})).shape == (3, 8, A)


def test_names_of_a_checkpoint_stay_as_they_are():
    names = list(tiny.model(tiny.config(cameras=CAMERAS)).state_dict())
    assert {name.partition(".")[0] for name in names} == {"actor", "encoders"}
    assert all(name.startswith(("actor.net.", "encoders.front.", "encoders.wrist.")) for name in names)
    assert all(name.startswith("net.") for name in tiny.model(tiny.config()).state_dict())


def test_what_is_refused():
    with pytest.raises(ValueError, match=r"'nearest' learns nothing, and so no encoder of 'front', 'wrist'"):
        tiny.model(tiny.config("nearest", CAMERAS))
    with pytest.raises(ValueError, match=r"camera 'wrist': crop=12, scale=None for an image of 10 × 16 px"):
        tiny.model(tiny.config(cameras={"front": (16, 16, 3), "wrist": (10, 16, 3)}))
