"""Settings as they are typed: paths literally, sweeps to their end, help in no time."""

import re
import subprocess
import sys
from contextlib import closing

import pytest
from typed import BIN, typed

from diffpolicy.config import RunConfig, changes, load_config, plain
from diffpolicy.config.compose import compose
from diffpolicy.evaluation.adapters import policy_env


@pytest.mark.parametrize("path", ["2026_11_26", "1e3", "a=b", "Übung (1)", "it's", "null/x", "true", "a,b", "$x"])
def test_paths_are_taken_literally(path):
    assert compose([f"run_dir={path}"]).run_dir == path


def test_a_tilde_expands_and_null_is_none(monkeypatch):
    monkeypatch.setenv("HOME", "/home/someone")
    config = compose(["run_dir=~/runs", "dataset.path=null"])
    assert config.run_dir == "/home/someone/runs" and config.dataset.path is None


def test_one_refused_job_does_not_end_a_sweep(tmp_path):
    """The second of three has an impossible step number; the others run."""
    jobs = ["task=detour", "training.steps=1,0,2", "dataset.episodes=20", "env.id=null", "net.widths=[8,16]"]
    said = typed("train", "-m", *jobs, "run_dir=runs/${training.steps}", cwd=tmp_path, ok=False)
    assert "training.steps" in said and "1 refused" in said
    assert sorted(folder.name for folder in (tmp_path / "runs").iterdir()) == ["1", "2"]


def test_values_of_another_type_are_refused_in_words(tmp_path):
    said = typed("sample", "checkpoint=X", "out=Y", "guidance=3", cwd=tmp_path, ok=False)
    assert "guidance" in said and "Traceback" not in said


def test_help_imports_neither_torch_nor_hydra():
    code = (
        "import sys; from diffpolicy.cli import main; main(['--help']); main(['train', '--help']);"
        "print(sorted({'torch', 'hydra'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
    assert "training.steps=4000" in done.stdout and "pusht_expert" in done.stdout


def test_the_installed_command_answers_from_any_folder(tmp_path):
    done = subprocess.run([BIN / "diffpolicy", "trian"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2 and "did you mean 'train'" in done.stderr


def test_a_notebooks_plotting_backend_breaks_nothing(tmp_path):
    environment = {"MPLBACKEND": "module://matplotlib_inline.backend_inline"}
    done = subprocess.run(
        [BIN / "diffpolicy", "inspect"], cwd=tmp_path, capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr


def test_changes_name_what_affects_results_and_nothing_else():
    before, now = RunConfig(run_dir="a", seed=0), RunConfig(run_dir="b", seed=1, device="cpu")
    now.training.log_every, now.training.lr = 1, 2e-3
    assert changes(before, now) == ["seed: was 0, now 1", "training.lr: was 0.001, now 0.002"]


def test_a_config_survives_plain_data():
    config = compose(["task=pusht_pixels", "method=ddpm", "run_dir=x"])
    assert load_config(plain(config)) == config


def test_a_task_built_on_another_one():
    drawn, pixels = compose(["task=pusht_drawn", "run_dir=x"]), compose(["task=pusht_pixels", "run_dir=x"])
    assert drawn.observation.mode == "drawn" and drawn.env.kwargs == {"obs_mode": "pixels"} == pixels.env.kwargs
    advised = compose(["task=pusht_pixels", "observation.mode=drawn", "run_dir=x"])
    assert advised.observation == drawn.observation and advised.env == drawn.env
    assert drawn.dataset.transforms == ["align", "mirror"] and pixels.dataset.transforms == ["mirror"]
    assert (drawn.training, drawn.encoder) == (pixels.training, pixels.encoder)
    with closing(policy_env(drawn)()) as env:  # it acts on what the environment draws
        assert set(env.observation_space.spaces) == {"agent", "image"}


def test_settings_under_their_old_names():
    before = {"version": 2, "env": {"id": "diffpolicy/PushT-v0", "options": {"block": "ell"}}}
    assert load_config(before).env.kwargs == {"block": "ell"}
    assert load_config({"version": 2, "env": {"id": None}}).env.kwargs == {}
    with pytest.raises(ValueError, match=r"env.options.block is now env.kwargs.block$"):
        compose(["env.options.block=ell"])


def _of_version_3(*settings, kind="policy"):
    """A config as that version wrote it: without a choice, and with the uniform grid where there is one now."""
    config = plain(compose([*settings, "run_dir=x"]))
    del config["training"]["choose"]
    config["method"]["grid"] = config["method"].get("grid") or "uniform"
    return load_config({**config, "found": {"kind": kind}, "version": 3})


def test_a_config_of_version_3_keeps_what_chose_its_checkpoints_and_the_grid_that_was_named():
    assert _of_version_3("task=pusht").training.choose == "score"
    assert _of_version_3("task=pusht", "training.evaluate_every=0").training.choose == "last"
    assert _of_version_3("task=pusht", "env.id=null").training.choose == "last"
    assert _of_version_3("task=mnist", kind="images").training.choose == "last"
    assert _of_version_3("task=pusht").method["grid"] is None
    assert _of_version_3("task=pusht", "method=v").method["grid"] == "log_snr"
    assert _of_version_3("task=pusht", "method.solver=heun").method["grid"] == "uniform"
    assert not changes(_of_version_3("task=pusht"), compose(["task=pusht", "run_dir=x"])), "such runs resume"


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("observation.texts=task", 'observation.texts=task; expected a list; write "observation.texts=[task]"'),
        ("policy.condition_dropout=0.1", "expected a value by name; write policy.condition_dropout.NAME=0.1"),
        ("dataset.transforms=[mirror", "expected a list, with ] at its end; put quotes around the whole setting"),
    ],
)
def test_a_list_that_is_none_is_refused_with_how_to_write_it(setting, says):
    with pytest.raises(ValueError, match=re.escape(says)):
        compose(["task=own", "run_dir=x", setting])
    texts = compose(["task=own", "run_dir=x", "observation.texts=[a thing,b]"]).observation.texts
    assert texts == ["a thing", "b"] and compose(["task=own", "run_dir=x"]).observation.texts == []


def test_a_config_of_an_unknown_version_or_setting_is_refused():
    with pytest.raises(ValueError, match="version 99"):
        load_config({"version": 99})
    with pytest.raises(ValueError, match=r"training.stepz.*did you mean 'training.steps'"):
        load_config({"version": 2, "training": {"stepz": 1}})
