"""Another package plugs in: a network, a method, data, a transform, an environment and an expert, by entry points."""

import json

import numpy as np
import plugin
import pytest

from diffpolicy import Agent, evaluate_policy, load_policy, make_env, registry, rollout, train_policy
from diffpolicy.config.commands import RecordConfig
from diffpolicy.config.compose import compose
from diffpolicy.evaluation import episode_resets
from diffpolicy.evaluation.record import record

SHORT = ["training.steps=8", "training.batch_size=16", "training.warmup_steps=2", "training.validate_every=4"]
QUICK = [*SHORT, "speed=float32", "device=cpu", "evaluation_episodes=2", "evaluation_workers=0"]
REACH = ["task=own", "dataset.name=reach", "observation.vectors=[position,goal]", "env.id=dummy/Reach-v0"]
SMALL = ["net.width=16", "net.layers=1"]


@pytest.fixture(scope="module", autouse=True)
def plugged_in(tmp_path_factory):
    with plugin.installed(tmp_path_factory.mktemp("site")):
        yield


@pytest.fixture(scope="module")
def run(tmp_path_factory, plugged_in):
    """A run in which everything but the machinery comes from the package."""
    folder = tmp_path_factory.mktemp("run")
    plugged = ["method=gaussian", "method.min_std=0.01", "net=residual_mlp", *SMALL, "dataset.transforms=[flip]"]
    return train_policy([*REACH, *plugged, *QUICK, f"run_dir={folder}"])


def test_a_run_made_of_the_package_trains_and_is_evaluated(run, tmp_path):
    policy = load_policy(run)
    assert type(policy.model).__name__ == "GaussianModel" and policy.model.min_std == 0.01
    assert type(policy.model.net).__name__ == "ResidualMLP" and len(policy.model.net.blocks) == 1
    assert policy.observation.vector_dim == 4 and policy.action_dim == 2
    result = evaluate_policy(run, tmp_path / "evaluation", episodes=3, workers=0, videos=1)
    assert len(result["episodes"]) == 3
    metrics = {"closeness", "final_distance", "second_difference", "success"}
    assert set(result["episodes"][0]) == {"seed", "steps", *metrics}
    assert 0 < result["closeness"]["mean"] <= 1
    assert "closeness" in (tmp_path / "evaluation" / "report.html").read_text()
    assert json.loads((tmp_path / "evaluation" / "evaluation.json").read_text())["episodes"] == result["episodes"]


def test_episodes_do_not_depend_on_their_number_side_by_side(run):
    resets = episode_resets(200_000, 3)
    together, alone = (
        rollout(Agent(load_policy(run, block=4)), make_env("dummy/Reach-v0"), resets, envs=envs) for envs in (3, 1)
    )
    assert [episode.row() for episode in together] == [episode.row() for episode in alone]


@pytest.mark.parametrize("method", ["flow", "mean_flow"])
def test_the_network_works_with_methods_of_this_project(tmp_path, method):
    best = train_policy([*REACH, f"method={method}", "net=residual_mlp", *SMALL, *QUICK, f"run_dir={tmp_path}"])
    obs = {"position": np.zeros((1, 2, 2), np.float32), "goal": np.ones((1, 2, 2), np.float32)}
    assert load_policy(best).predict(obs).shape == (1, 8, 2)


def test_the_transform_doubles_the_data(run, tmp_path):
    plain = train_policy([*REACH, "method=gaussian", "net=residual_mlp", *SMALL, *QUICK, f"run_dir={tmp_path}"])
    with_it, without = (load_policy(one).normalizer.to_tensors()["action.center"] for one in (run, plain))
    assert abs(float(with_it[0])) < 1e-6 < abs(float(without[0]))  # mirror images balance x


def test_the_expert_records(tmp_path):
    config = compose(["env.id=dummy/Reach-v0", "episodes=3", f"out={tmp_path / 'demos'}"], "record", RecordConfig)
    assert "3 episodes of 3 tried" in record(config)


def test_names_are_checked_like_our_own():
    assert {"residual_mlp"} == set(registry.choices("net"))
    with pytest.raises(ValueError, match=r"unknown net 'residual_mpl' \(did you mean 'residual_mlp'"):
        compose(["task=own", "net=residual_mpl", "run_dir=x"])
    with pytest.raises(ValueError, match=r"'residual_mlp' has no option 'widths'"):
        train_policy([*REACH, "net=residual_mlp", "net.widths=[8]", *QUICK, "run_dir=never"])
