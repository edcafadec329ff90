"""The pieces of an evaluation, composed: result, report, what they leave alone, and what is refused before."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import tiny
import tiny_policy
from matplotlib.figure import Figure

from diffpolicy.config import EnvConfig
from diffpolicy.datasets.spec import Field, ObservationSpec
from diffpolicy.evaluation import TaskSpec, compare, episode_resets, make_env, rollout
from diffpolicy.evaluation.evaluate import check_comparison, check_fit, evaluate, write_report
from diffpolicy.policies import Agent, build_model, build_policy

LINE = make_env(tiny.ENV_ID)
TASK = TaskSpec.of(LINE())
RESETS = episode_resets(200_000, 4)


@pytest.fixture(scope="module")
def agent():
    run, spec = tiny_policy.config("flow"), tiny_policy.spec(dim=2)
    model = build_model(run, spec, 2).eval()
    return Agent(build_policy(run, spec, model, tiny_policy.normalizer(2), block=16))


def evaluated(agent, **settings):
    checkpoint = {
        "step": 3,
        "config": {"env": {"id": tiny.ENV_ID, "options": {}}, "dataset": {"name": "zarr", "path": None}},
    }
    settings = {"seeds": 200_000, "sampler": None, **settings}
    return evaluate(agent, LINE, RESETS, TASK, settings, checkpoint, workers=0, progress=False)


def test_a_result_has_what_it_had_and_the_tasks_metrics(agent):
    result, episodes = evaluated(agent)
    assert list(result) == [
        "best", "place", "second_difference", "success", "network_calls", "minutes", "checkpoint", "settings",
        "versions", "processor",
        "threads", "commit", "metrics", "episodes", "errors",
    ]  # fmt: skip
    assert result["network_calls"] == 3
    assert list(result["metrics"]) == ["best", "place", "second_difference", "success"]
    assert result["episodes"] == [episode.row() for episode in episodes] and json.loads(json.dumps(result)) == result
    assert result["errors"] == []
    assert compare(result, result)["best"] == {"mean": 0.0, "low": 0.0, "high": 0.0}


def test_a_report_and_no_trace_of_it_in_the_agent(agent, tmp_path, monkeypatch):
    panels, savefig = {}, Figure.savefig

    def counted(figure, path, **how):
        panels[Path(path).name] = len(figure.axes)
        savefig(figure, path, **how)

    monkeypatch.setattr(Figure, "savefig", counted)
    result, episodes = evaluated(agent)
    out, run = tmp_path / "out", tmp_path / "run"
    (run / "checkpoints" / "best").mkdir(parents=True)
    (run / "metrics.jsonl").write_text('{"step": 1, "seconds": 0.1, "loss": 0.5}\n')
    out.mkdir()
    (out / "episode_7.mp4").touch()
    about = (run / "checkpoints" / "best", agent, LINE, RESETS, episodes)
    write_report(out, result, *about, TASK, 2)
    wanted = [episode.seed for good in (True, False) for episode in [e for e in episodes if e.success is good][:2]]
    videos = {f"episode_{seed}.mp4" for seed in wanted}
    plots = {"scores.png", "training.png", "fan.png", "actions.png"}
    assert videos and {file.name for file in out.iterdir()} == {"report.html", *plots, *videos}
    page = (out / "report.html").read_text()
    assert page.count("data:video/mp4") == len(videos) and page.count("data:image/png") == 4
    assert [e.row() for e in rollout(agent, LINE, RESETS)] == result["episodes"]
    assert panels["fan.png"] == 4, "moments, drawn over their frames"
    write_report(out, result, *about, dataclasses.replace(TASK, extent=None), 1)
    assert panels["fan.png"] == 4 * (1 + 2), "a frame, and curves of actions that are no places in it"
    write_report(out, result, *about, TASK, 0)
    assert not list(out.glob("*.mp4")) and not (out / "fan.png").exists() and not (out / "actions.png").exists()


def test_what_cannot_be_filmed_has_a_page_that_says_so(agent, tmp_path):
    result, episodes = evaluated(agent)
    blind = dataclasses.replace(LINE, render_mode=None)
    write_report(tmp_path, result, tmp_path / "a/b/c", agent, Blind(blind), RESETS, episodes, TASK, 2)
    assert {file.name for file in tmp_path.iterdir()} == {"report.html", "scores.png", "fan.png", "actions.png"}
    page = (tmp_path / "report.html").read_text()
    assert "cannot be filmed: render() returns a NoneType and no frame." in page and "<video" not in page


@dataclasses.dataclass
class Blind:
    """Makes environments that render nothing, whoever asks."""

    make: Any

    def __call__(self):
        return self.make()

    def rendering(self):
        return self.make


def test_an_environment_must_fit_the_demonstrations():
    run = tiny_policy.config("flow", env=EnvConfig(tiny.ENV_ID))
    check_fit(run, LINE, tiny_policy.spec(dim=2), 2)
    with pytest.raises(ValueError, match=r"tiny/Line-v0 .*shows \(2,\); expected \(5,\)"):
        check_fit(run, LINE, tiny_policy.spec(), 2)
    with pytest.raises(ValueError, match=r"takes actions \(2,\); expected \(3,\)"):
        check_fit(run, LINE, tiny_policy.spec(dim=2), 3)
    images = make_env(tiny.ENV_ID, {"images": True})
    check_fit(run, images, ObservationSpec({"image": Field("image", (8, 8, 3)), "obs": Field("vector", (2,))}), 2)
    for choose in ("last", "best", "place", "success"):  # the environment's metrics, one of which is called "best"
        choosing = dataclasses.replace(run, training=dataclasses.replace(run.training, choose=choose))
        check_fit(choosing, LINE, tiny_policy.spec(dim=2), 2)
    for choose in ("coverage", "second_difference"):
        choosing = dataclasses.replace(run, training=dataclasses.replace(run.training, choose=choose))
        with pytest.raises(
            ValueError, match=f"unknown training.choose .{choose}.*choose from last, score, best, pla"
        ):
            check_fit(choosing, LINE, tiny_policy.spec(dim=2), 2)
    with pytest.raises(ValueError, match="evaluation_episodes=51; expected 1 to 50"):
        check_fit(dataclasses.replace(run, evaluation_episodes=51), LINE, tiny_policy.spec(dim=2), 2)


def test_a_comparison_is_checked_before_any_episode(agent):
    env = {"id": tiny.ENV_ID, "options": {}}
    check_comparison(None, 0, RESETS, env)
    result, _ = evaluated(agent)
    check_comparison(result, 200_003, episode_resets(200_003, 9), env)
    with pytest.raises(ValueError, match="no initial states in common; evaluate both with the same seeds"):
        check_comparison(result, 0, episode_resets(0, 9), env)
