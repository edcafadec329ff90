"""The command that drives an environment by the wall clock, and what it leaves."""

import json

import av
import numpy as np
import pytest
import tiny
import tiny_policy
from control.test_server import Running
from typed import typed

from diffpolicy import checkpoint
from diffpolicy.config import EnvConfig, load_config, plain
from diffpolicy.config.control import DriveConfig
from diffpolicy.control.drive import drive
from diffpolicy.control.guard import Limits
from diffpolicy.control.planners import make_planner
from diffpolicy.datasets import load_demonstrations
from diffpolicy.datasets.spec import ObservationSpec
from diffpolicy.policies import build_model

ENV = "diffpolicy/PushT-v0"
LIMITS = Limits([200.0, 150.0], [300.0, 350.0], [20.0, 20.0])


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    run = tiny_policy.config("flow", t_a=4, env=EnvConfig(ENV, {"obs_mode": "state"}))
    run.found.observation, run.found.limits = tiny_policy.spec().to_plain(), LIMITS.to_plain()
    return tiny_policy.save(tmp_path_factory.mktemp("run"), run)


def test_typed(path, tmp_path):
    settings = (f"checkpoint={path}", "rate=40", "seconds=1", "episodes=2", "seed=7", "steps=2")
    said = typed("drive", *settings, "out=OUT", cwd=tmp_path)
    result = json.loads((tmp_path / "OUT" / "drive.json").read_text())
    assert "OUT/report.html" in said and "chunks by their delay in steps" in said
    assert [run["seed"] for run in result["runs"]] == [7, 8] and result["rate"] == 40
    for run, series in zip(result["runs"], result["series"], strict=True):
        actions = np.array(series["actions"])
        assert run["steps"] == len(series["starts"]) == len(actions) == 40
        assert (actions >= LIMITS.low - 1e-3).all() and (actions <= LIMITS.high + 1e-3).all()
        assert (np.abs(np.diff(actions, axis=0)) <= LIMITS.speed + 1e-3).all()
        assert run["holds"] == len(series["held"]) and run["changed"] == len(series["changed"])
        assert sum(run["interventions"].values()) >= run["changed"] > 0, "an untrained policy goes anywhere"
        assert run["success"] is False and 0 <= run["score"] <= 1
    assert sum(result["delays"].values()) == sum(len(series["arrivals"]) for series in result["series"])
    page = (tmp_path / "OUT" / "report.html").read_text()
    assert "data:video/mp4" in page and "data:image/png" in page and "seeds from 7 on" in page
    with av.open(str(tmp_path / "OUT" / "film.mp4")) as film:
        assert sum(1 for _ in film.decode(video=0)) == 41, "one frame before the first step, and one after each"
    again = typed("drive", *settings, "out=OUT", cwd=tmp_path, ok=False)
    assert "drive.json exists; choose another out, or overwrite=true" in again


def test_a_server_drives_as_a_policy_here_does(path, tmp_path):
    server = Running(make_planner(DriveConfig(checkpoint=str(path), steps=2)))
    try:
        env = EnvConfig(ENV, {"obs_mode": "state"})
        how = {"out": str(tmp_path), "rate": 20.0, "seconds": 0.5, "film": False}
        result = drive(DriveConfig(server=server.uri, token="hush", env=env, **how))
        how["out"], other = str(tmp_path / "other"), EnvConfig(ENV, {"obs_mode": "keypoints"})
        with pytest.raises(
            ValueError, match="the environment shows .obs. of shape .20,.; expected .5,., as the policy observes"
        ):
            drive(DriveConfig(server=server.uri, env=other, **how))
    finally:
        server.stop()
    assert result["metadata"]["action_horizon"] == 4 and result["runs"][0]["steps"] == 10
    assert result["settings"]["token"] is None and not (tmp_path / "other").exists()
    assert "No film: film=false." in (tmp_path / "report.html").read_text()


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ([], "neither checkpoint=… nor server=…; expected one of them"),
        (["server=ws://nowhere:1", "checkpoint={path}"], "checkpoint=… and server=…; expected one of them"),
        (["server=ws://nowhere:1"], "server=… without an environment; expected env.id=…"),
        (
            ["server=ws://nowhere:1", f"env.id={ENV}", "steps=3"],
            "steps for a server; give them to `diffpolicy serve`",
        ),
        (["server=ws://localhost:1", f"env.id={ENV}"], "no server at ws://localhost:1"),
        (["checkpoint={path}", "rate=0"], "rate=0.0; expected a number above 0"),
        (["checkpoint={path}", "seconds=-1"], "seconds=-1.0; expected a number above 0"),
        (["checkpoint={path}", "episodes=0"], "episodes=0; expected at least 1"),
        (["checkpoint={path}", "hold=[1,2,3]"], "hold=[1.0, 2.0, 3.0]; expected 2 finite numbers"),
        (["checkpoint={path}", "hold=[nan,1]"], "hold=[nan, 1.0]; expected 2 finite numbers"),
        (["checkpoint={path}", "token=x"], "token=… without a server; leave it out"),
        (["server=ws://nowhere:1", f"env.id={ENV}", "device=cpu"], "device for a server"),
        (["checkpoint={path}", "execution.delay=2"], "execution.delay=2 of a policy that plans for a robot"),
    ],
)
def test_what_is_refused_before_anything_moves(path, tmp_path, settings, says):
    given = [one.format(path=path) for one in settings]
    assert says in typed("drive", *given, "out=OUT", cwd=tmp_path, ok=False)
    assert not (tmp_path / "OUT").exists()


def test_a_guard_needs_to_know_its_limits_and_how_the_robot_holds(tmp_path):
    config = tiny_policy.config("flow", t_a=4, env=EnvConfig(ENV, {"obs_mode": "state"}))
    config.dataset.path = str(tmp_path / "gone")
    path = tiny_policy.save(tmp_path / "run", config)
    settings = (f"checkpoint={path}", "rate=40", "seconds=0.2", "film=false")
    said = typed("drive", *settings, "out=OUT", cwd=tmp_path, ok=False)
    assert "the limits of the actions are not known; take guard=false" in said
    typed("drive", *settings, "out=OUT", "guard=false", cwd=tmp_path)
    result = json.loads((tmp_path / "OUT" / "drive.json").read_text())
    assert result["runs"][0]["interventions"] == {} and result["runs"][0]["steps"] == 8


def test_limits_travel_in_the_checkpoint(tmp_path):
    settings = ["task=detour", "net.widths=[8,16]", "net.groups=4", "net.time_features=8", "training.steps=1"]
    typed("train", *settings, "training.evaluate_every=0", f"run_dir={tmp_path / 'run'}", "env.id=null", cwd=tmp_path)
    config = load_config(checkpoint.read(tmp_path / "run").config)
    recorded = load_demonstrations(config)
    alone = Limits.of([recorded["action"][part] for part in recorded.episode_slices()])
    found = Limits.from_plain(config.found.limits)
    assert (found.low <= alone.low).all() and (found.high >= alone.high).all(), "mirror images are learned from, too"
    np.testing.assert_allclose(found.speed, alone.speed, rtol=0.3)
    how = ("env.id=diffpolicy/Detour-v0", "rate=40", "seconds=0.2", "film=false")
    typed("drive", f"checkpoint={tmp_path / 'run'}", *how, "out=OUT", cwd=tmp_path)
    assert json.loads((tmp_path / "OUT" / "drive.json").read_text())["metadata"]["limits"] == config.found.limits


def test_whoever_does_not_know_how_to_hold_has_to_be_told(tmp_path):
    run = tiny_policy.config("flow", t_a=4, env=EnvConfig(tiny.ENV_ID))
    run.found.limits = Limits([-1, -1], [1, 1]).to_plain()
    run.found.observation = tiny_policy.spec(dim=2).to_plain()
    made = build_model(run, ObservationSpec.from_plain(run.found.observation), 2)
    tensors, normal = made.state_dict(), tiny_policy.normalizer(2).to_tensors()
    checkpoint.write(tmp_path / "run", 1, {"model": tensors, "ema": tensors, "normalizer": normal}, plain(run), {})
    settings = (f"checkpoint={tmp_path / 'run'}", "rate=50", "seconds=0.1", "out=OUT")
    said = typed("drive", *settings, cwd=tmp_path, ok=False)
    assert "nothing says how the robot holds; give hold=[…], the action with which it stays where it is" in said
    typed("drive", *settings, "hold=[0,0]", cwd=tmp_path)
    assert json.loads((tmp_path / "OUT" / "drive.json").read_text())["series"][0]["actions"][0] == [0, 0]
