"""The README's code runs, its links lead somewhere, and its numbers are those of the raw results."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import results_table

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"


def _blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README.read_text(), re.DOTALL)


def test_ten_lines_learn_two_moons():
    (code,) = [block for block in _blocks("python") if "moons" in block]
    torch.manual_seed(0)
    scope = {}
    exec(code, scope)
    samples, moons = scope["samples"], scope["moons"]
    assert samples.shape == (1000, 2)
    # Nearly all samples lie on the moons, within the width that 1500 steps of a small network leave, and on both.
    angle = torch.linspace(0, torch.pi, 200)
    curve = torch.cat([torch.stack([s * angle.cos() + s / 2, s * angle.sin() - s / 4], dim=1) for s in (-1.0, 1.0)])
    assert torch.cdist(moons, curve).amin(1).max() < 0.02
    near = torch.cdist(samples, curve)
    assert (near.amin(1) < 0.2).float().mean() > 0.9
    assert 0.35 < (near.argmin(1) < 200).float().mean() < 0.65


def test_own_demonstrations_example_runs(tmp_path, monkeypatch):
    (code,) = [block for block in _blocks("python") if "from_episodes" in block]
    monkeypatch.chdir(tmp_path)
    exec(code, {})
    assert (tmp_path / "demos.zarr").exists()


def test_every_python_block_compiles():
    assert len([compile(block, "README", "exec") for block in _blocks("python")]) == 3


def test_links_lead_somewhere():
    links = re.findall(r"\]\(([^)#]+)\)", README.read_text())
    assert len(links) > 5
    missing = [link for link in links if not link.startswith("http") and not (ROOT / link).exists()]
    assert not missing


def test_numbers_are_those_of_the_raw_results(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["results_table.py", "--check"])
    results_table.main()  # exits, and says which page differs, where one does
    tables = re.findall(r"<!-- (\w+):begin -->\n(.*?)<!-- \1:end -->", README.read_text(), re.DOTALL)
    assert len(tables) == 1 and all(table.count("\n|") >= 2 for _, table in tables), "a table is empty"


def test_it_stays_short():
    text = README.read_text()
    assert len(text.splitlines()) <= 150 and len(text.split()) <= 1000


@pytest.mark.parametrize("script", ["demo.sh", "test.sh"])
def test_the_two_commands_are_there(script):
    assert f"bash scripts/{script}" in README.read_text()
    assert subprocess.run(["bash", "-n", ROOT / "scripts" / script]).returncode == 0
