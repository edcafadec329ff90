"""Plots, videos and the page take their columns from the task; the next steps fit what was evaluated."""

import functools
import re
import shlex
import subprocess
import sys
from dataclasses import replace

import av
import numpy as np
import pytest
import tiny
from matplotlib.image import imread

from diffpolicy.config import EnvConfig, ExecutionConfig, plain
from diffpolicy.config.commands import EvaluateConfig, RecordConfig
from diffpolicy.config.compose import compose
from diffpolicy.evaluation import Observations, TaskSpec, Video, episode_resets, make_env, rollout, summarize
from diffpolicy.evaluation.episode import Episode
from diffpolicy.evaluation.evaluate import describe
from diffpolicy.evaluation.report import (
    Clip,
    Image,
    draw_actions,
    draw_fan_curves,
    draw_metric,
    draw_modes,
    draw_training,
    next_steps,
    provenance,
    write_document,
    write_page,
    write_video,
    write_videos,
)
from diffpolicy.evaluation.report.videos import Actions

LINE = make_env(tiny.ENV_ID)
TASK = TaskSpec.of(LINE())


def result_of(rows, env_id=tiny.ENV_ID, sampler=None, seeds=200_000):
    config = {"env": {"id": env_id, "options": {}}, "dataset": {"name": "zarr", "path": "a<b>.zarr"}}
    return {
        **summarize(rows),
        "network_calls": 3,
        "checkpoint": {"step": 70, "config": config},
        "settings": {"seeds": seeds, "sampler": sampler},
        **provenance(),
        "metrics": TASK.plain_metrics(),
        "episodes": rows,
    }


@pytest.fixture(scope="module")
def filmed():
    return rollout(tiny.Wanderer(), LINE.rendering(), episode_resets(200_000, 6), [Video(first=1), Observations()])


@pytest.fixture(scope="module")
def result(filmed):
    return result_of([episode.row() for episode in filmed], sampler={"solver": "euler", "steps": 8})


def test_video_is_in_real_time(tmp_path, filmed):
    frames = filmed[0].observed["video"]
    write_video(tmp_path / "a.mp4", frames, TASK.fps)
    with av.open(str(tmp_path / "a.mp4")) as video:
        assert video.streams.video[0].average_rate == 5
        decoded = [frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)]
    assert len(decoded) == len(frames) == filmed[0].steps + 1 and decoded[0].shape == (16, 16, 3)


def test_the_page_has_the_tasks_columns(tmp_path, filmed, result):
    write_video(tmp_path / "a.mp4", filmed[0].observed["video"], TASK.fps)
    draw_metric(tmp_path / "scores.png", result)
    images = [Image("Dist<ribution", tmp_path / "scores.png", "Of what.")]
    steps = next_steps(result, "RUN/best", "OUT", TASK)
    write_page(tmp_path / "report.html", result, images, [Clip(tmp_path / "a.mp4", filmed[0].row())], steps)
    page = (tmp_path / "report.html").read_text()
    assert "tiny/Line-v0, 6 episodes" in page and "greatest distance from the middle" in page
    assert f"{result['best']['mean']:.3f}" in page and f"{result['place']['low']:.3f}" in page
    assert "coverage" not in page and "score" not in page.replace("scores", "")
    successes = sum(row["success"] for row in result["episodes"])
    assert f"Successes: {successes} of 6" in page and f"Failures: {6 - successes} of 6" in page
    assert "Dist&lt;ribution" in page and "a&lt;b&gt;.zarr" in page and "<b>.zarr" not in page
    assert page.count("data:image/png;base64,") == page.count("data:video/mp4;base64,") == 1
    assert not re.search(r'(src|href)="(?!data:)', page), "a page that needs other files"
    assert "solver euler, 8 steps" in page and "seeds from 200000 on" in page
    settings = {**result["settings"], "execution": {**plain(ExecutionConfig()), "delay": 4, "guide": "linear"}}
    write_page(tmp_path / "late.html", {**result, "settings": settings})
    late = (tmp_path / "late.html").read_text()
    assert "8 steps, execution.guide=linear, execution.delay=4;" in late and "execution." not in page


def test_a_page_without_success_and_with_named_seeds(tmp_path):
    rows = [{"seed": k, "return": -1234.5 - k, "steps": 4} for k in range(3)]
    result = result_of(rows, "Pendulum-v1", seeds="published")
    write_page(tmp_path / "report.html", result)
    page = (tmp_path / "report.html").read_text()
    assert "-1235" in page or "-1236" in page
    assert "Wilson" not in page and "Failures" not in page and "the task&#39;s seeds &#39;published&#39;" in page
    draw_metric(tmp_path / "scores.png", result)
    assert imread(tmp_path / "scores.png").std() > 0.01


def test_a_page_of_many_metrics_of_success_at_the_end_and_of_broken_episodes(tmp_path):
    """Success by both rules and four metrics are large, the others are a table; what broke off is listed."""
    rows = [
        {
            "seed": k,
            **{f"metric_{i}": k + i / 7 for i in range(6)},
            "success": True,
            "success_at_end": k == 0,
            "steps": 4,
        }
        for k in range(3)
    ]
    errors = [{"seed": 9 + k, "steps": k, "error": f"arm<1>, seed {9 + k}, step {k}: it fell"} for k in range(25)]
    result = {**result_of(rows), "errors": errors}
    write_page(tmp_path / "report.html", result)
    page = (tmp_path / "report.html").read_text()
    assert page.count('<div class="figure"') == 6 and page.count("<tr><td>metric ") == 2
    assert "<b>100%</b>success [" in page and "<b>33%</b>success at end [" in page
    assert "Broken off by the environment: 25 episodes" in page and page.count("it fell") == 20
    assert "arm&lt;1&gt;, seed 9, step 0: it fell" in page and "evaluation.json has them all" in page
    draw_metric(tmp_path / "scores.png", result)
    assert imread(tmp_path / "scores.png").std() > 0.01


def test_next_steps_fit_what_was_evaluated(result, line_expert):
    def commands(result, task):
        return [step.command for step in next_steps(result, "RUN/best", "OUT", task)]

    said = commands(result, TASK)
    assert "diffpolicy evaluate checkpoint=RUN/best env.id=tiny/Line-v0 episodes=24 out=OUT_24" in said
    assert "diffpolicy evaluate checkpoint=RUN/best env.id=tiny/Line-v0 steps=4 out=OUT_4_steps" in said
    assert "diffpolicy evaluate checkpoint=RUN/best env.id=tiny/Line-v0 modes=true out=OUT_modes" in said
    assert any("compare_to=OUT/evaluation.json" in command and "seeds=200000" in command for command in said)
    assert "diffpolicy record env.id=tiny/Line-v0 episodes=500 out=DEMOS" in said
    plain = commands({**result_of(result["episodes"], "Pendulum-v1")}, TaskSpec())
    assert not any(word in " ".join(plain) for word in ("modes", "record", "steps=", "push", "detour", "diffpolicy/"))
    for command in said + plain:
        assert command.split()[:2][0] == "diffpolicy" and command.split()[1] in ("evaluate", "record", "export")


def test_next_steps_name_the_environment_as_it_was_given(result, line_expert):
    """Settings of the evaluation, not of the training; another policy may observe something else."""
    kwargs = {"images": True, "width": 0.8, "name": "a, b", "obs_mode": "keypoints"}
    env = {**plain(EnvConfig(f"somewhere:{tiny.ENV_ID}", kwargs)), "task": "push", "obs_keys": ["obs"]}
    trained = {"observation": {"mode": "keypoints"}, "env": {"id": None}}
    result = {**result, "env": env, "checkpoint": {**result["checkpoint"], "config": trained}}
    lines = [step.command for step in next_steps(result, "RUN/best", "OUT", TASK) if "export" not in step.command]
    assert len(lines) == 5 and sum(line.startswith("diffpolicy record") for line in lines) == 1
    for line in lines:
        _, command, *settings = shlex.split(line)
        schema = {"evaluate": EvaluateConfig, "record": RecordConfig}[command]
        shown, keys = ({}, []) if "OTHER" in line else ({"images": True}, ["obs"])
        wanted = EnvConfig(env["id"], {**shown, "width": 0.8, "name": "a, b"}, "push", obs_keys=keys)
        assert compose(settings, command, schema).env == wanted


def test_the_results_in_words(result):
    lines = describe({**result, "difference": {"best": {"mean": 0.5, "low": -0.25, "high": 1}}}, "OUT").splitlines()
    assert [line.split(":")[0] for line in lines] == [
        "best", "place", "second_difference", "success", "best, paired difference",
        "6 episodes, 3 network calls per chunk",
        "results", "page",
    ]  # fmt: skip
    assert lines[4] == "best, paired difference: +0.500  [-0.250, +1.000]"


def test_other_plots(tmp_path):
    log = [{"step": k, "loss": 1 / k, "evaluation/best": k / 9, "evaluation/place": -k} for k in range(1, 9)]
    draw_training(tmp_path / "rolled.png", log)
    draw_training(tmp_path / "plain.png", [{"step": row["step"], "loss": -row["loss"]} for row in log])
    states = np.linspace(0, 1, 10)[:, None] * [1, 0.5]
    draw_modes(tmp_path / "modes.png", [(states, "right"), (-states, "")], [(-states, "left")], TASK)
    for name in ("rolled", "plain", "modes"):
        assert imread(tmp_path / f"{name}.png").std() > 0.01
    assert imread(tmp_path / "rolled.png").shape[1] > 1.5 * imread(tmp_path / "plain.png").shape[1]
    write_document(tmp_path / "page.html", "A & B", ["<p>one</p>", "<p>two</p>"])
    page = (tmp_path / "page.html").read_text()
    assert "<title>A &amp; B</title>" in page and "<p>one</p><p>two</p>" in page


def test_actions_are_drawn_as_curves_where_they_are_no_places(tmp_path):
    """A panel for each number of an action, and no more than twelve; moments are where chunks start."""
    wandering = np.random.default_rng(0).normal(size=(40, 13)).cumsum(0)
    kept = {"actions": wandering, "observations": [np.full(5, step, np.float32) for step in range(41)]}
    episodes = [Episode(seed, success=done, observed=kept) for seed, done in enumerate((True, False, None))]
    draw_actions(tmp_path / "many.png", episodes)
    narrow = [Episode(0, observed={"actions": wandering[:, :3]})]
    draw_actions(tmp_path / "few.png", narrow)
    many, few = (imread(tmp_path / f"{name}.png") for name in ("many", "few"))
    assert many.shape[0] > 2 * few.shape[0] and many.std() > 0.01 and few.std() > 0.01
    asked = []

    class Alternatives:
        action_horizon, obs_horizon = 8, 2

        def predict(self, obs, seed):
            asked.append(obs[:, :, 0])
            return np.random.default_rng(seed).normal(size=(len(obs), 8, 3))

    narrow[0].observed["observations"] = kept["observations"]
    draw_fan_curves(tmp_path / "fan.png", Alternatives(), narrow[0], samples=6)
    assert [one[0].tolist() for one in asked] == [[0, 0], [7, 8], [15, 16], [23, 24]]
    assert all(one.shape == (6, 2) for one in asked) and imread(tmp_path / "fan.png").std() > 0.01


def test_which_numbers_of_an_action_are_a_place_is_said_by_the_task():
    assert TaskSpec().plane(2) == (0, 1) and not TaskSpec().plane(4)
    assert list(TaskSpec.from_metadata({"task": {"action_plane": [2, 0]}}).plane(4)) == [2, 0]


class Rolled(tiny.LineEnv):
    """Renders the first frames only, or breaks where it renders."""

    def __init__(self, breaks=False, render_mode=None):
        super().__init__(render_mode=render_mode)
        self.breaks, self.count = breaks, 0

    def render(self):
        self.count += 1
        if self.count > 2:
            raise OSError("the window is gone")
        return super().render()

    def step(self, action):
        if self.breaks:
            raise OSError("no light")
        return super().step(action)


@pytest.mark.parametrize(("breaks", "says"), [(False, "^OSError: the window is gone"), (True, "no light")])
def test_what_breaks_while_it_renders_costs_the_videos_alone(tmp_path, breaks, says):
    resets = episode_resets(0, 3)
    episodes = rollout(tiny.Wanderer(), tiny.LineEnv, resets, max_steps=5)
    resets = [replace(how, limit=5) for how in resets]
    made = functools.partial(Rolled, breaks, "rgb_array")
    clips, trouble = write_videos(tmp_path, tiny.Wanderer(), tiny.LineEnv, made, resets, episodes, TASK, 3)
    assert clips == [] and re.search(says, trouble) and not list(tmp_path.glob("*.mp4"))


class Lunging(tiny.Wanderer):
    """Asks for more than the bounds allow."""

    def act(self, obs, env_ids=None, infos=None):
        return 9 * np.sign(super().act(obs, env_ids, infos))


def test_actions_are_kept_within_their_bounds():
    (episode,) = rollout(Lunging(), LINE, episode_resets(0, 1), [Actions()])
    assert episode.observed["actions"].max() == LINE().action_space.high.max() < 9


def test_no_plot_goes_through_pyplot():
    code = "import sys, diffpolicy.evaluation.evaluate; sys.exit('matplotlib.pyplot' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
