"""docs/recordings.md: every command of every format runs, from file to trained policy."""

import os
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
import recordings
from typed import typed

ROOT = Path(__file__).parent.parent
FORMATS = Path(os.environ.get("DIFFPOLICY_DATA", "/nowhere")) / "formats"
SHORT = ["training.steps=2", "training.batch_size=8", "training.warmup_steps=1", "training.validate_every=2"]
SHORT += ["net.widths=[8,16]", "policy.horizon=8", "policy.action_horizon=4", "speed=float32", "device=cpu"]
SHORT += ["encoder.scale=24", "encoder.crop=20", "encoder.widths=[8,8]"]
"""Cheap enough for a test; the rest is as the page has it."""


def _sections():
    """Heading of a format -> its commands, as lists of words."""
    page = (ROOT / "docs" / "recordings.md").read_text("utf-8").partition("<!-- formats:")[2]
    found = {}
    for section in page.split("\n## ")[1:]:
        blocks = re.findall(r"^```bash\n(.*?)^```$", section, re.DOTALL | re.MULTILINE)
        lines = "".join(blocks).replace("\\\n", " ").splitlines()
        found[section.partition("\n")[0]] = [shlex.split(line)[1:] for line in lines if line.startswith("diffpolicy")]
    return {heading: commands for heading, commands in found.items() if commands}


def _robomimic(folder):
    shutil.copyfile(FORMATS / "robomimic" / "robomimic_low_dim.hdf5", folder / "demo.hdf5")
    (folder / "libero_spatial").mkdir()
    recordings.libero(folder / "libero_spatial" / "bowl_demo.hdf5")
    recordings.libero(folder / "libero_spatial" / "plate_demo.hdf5", "push the plate")


def _npz(folder):
    (folder / "demos").mkdir()
    for number in range(3):
        walk = recordings.walk(20, 3, number)
        np.savez(folder / "demos" / f"demo_{number}.npz", state=walk, action=walk[:, :2])


def _maniskill(folder):
    path = recordings.maniskill(folder / "made")
    for file in path.parent.iterdir():
        shutil.copyfile(file, folder / file.name)


OWN = {
    "LeRobot": lambda folder: shutil.copytree(FORMATS / "lerobot_v30" / "video", folder / "lerobot_folder"),
    "robomimic, MimicGen, LIBERO": _robomimic,
    "ACT and ALOHA": lambda folder: recordings.aloha(folder / "aloha"),
    "ManiSkill": _maniskill,
    "UMI": lambda folder: shutil.copyfile(FORMATS / "umi" / "dataset.zarr.zip", folder / "dataset.zarr.zip"),
    "Minari": lambda folder: shutil.copytree(FORMATS / "minari" / "tinygoal" / "hdf5-v0", folder / "tinygoal-v0"),
    "Arrays in npz files": _npz,
}
FROM_FIXTURES = {"LeRobot", "robomimic, MimicGen, LIBERO", "UMI", "Minari"}


def test_every_format_of_the_page_is_run():
    assert OWN.keys() <= _sections().keys()


@pytest.mark.parametrize("heading", OWN)
def test_from_file_to_policy(heading, tmp_path, monkeypatch):
    if heading in FROM_FIXTURES and not FORMATS.is_dir():
        pytest.skip("DIFFPOLICY_DATA names no folder with formats")
    monkeypatch.setattr(os, "fsync", lambda handle: None)
    OWN[heading](tmp_path)
    for name, *words in _sections()[heading]:
        said = typed(name, *words, *(SHORT if name == "train" else []), cwd=tmp_path)
        if name == "convert":
            assert "train on it:" in said and "left out" not in said
        if name == "train":
            run = next(word for word in words if word.startswith("run_dir=")).removeprefix("run_dir=")
            assert (tmp_path / run / "checkpoints" / "last").exists()
