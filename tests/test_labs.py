"""The notebooks of the course's labs: stored without outputs, and, run small, right in all that they assert."""

import ast
import json
import re
import sys
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import pytest

from diffpolicy.datasets import data_root
from diffpolicy.datasets.sources import mnist

ROOT = Path(__file__).parent.parent
LABS = sorted((ROOT / "docs" / "labs").glob("*.ipynb"))
MAX_BYTES = 40_000
INSTALLED = {*sys.stdlib_module_names, "diffpolicy", "matplotlib", "torch"}  # what a notebook may import


@pytest.fixture(params=LABS, ids=lambda file: file.stem)
def lab(request):
    return request.param


def _cells(lab, kind):
    return [cell for cell in json.loads(lab.read_text("utf-8"))["cells"] if cell["cell_type"] == kind]


def _codes(lab):
    return ["".join(cell["source"]) for cell in _cells(lab, "code")]


def _text(lab):
    return "\n\n".join("".join(cell["source"]) for cell in _cells(lab, "markdown"))


def test_there_is_a_notebook_for_each_lab():
    assert [file.name[:4] for file in LABS] == ["lab1", "lab2", "lab3"]


def test_stored_small_and_without_what_a_run_leaves(lab):
    book = json.loads(lab.read_text("utf-8"))
    assert book["metadata"]["kernelspec"]["name"] == "python3" and lab.stat().st_size < MAX_BYTES
    for cell in _cells(lab, "code"):
        assert cell["outputs"] == [] and cell["execution_count"] is None and cell["metadata"] == {}
    assert not re.search(r"/(home|Users|root|tmp|content)/", lab.read_text("utf-8")), "a path of one machine"
    ids = [cell["id"] for cell in book["cells"]]
    assert len(set(ids)) == len(ids)


def test_begins_with_how_to_install_and_the_size(lab):
    first = _codes(lab)[0]
    (install,) = re.findall(r"%pip install -c (\S+) -e (\S+)", first)
    assert (lab.parent / install[0]).resolve() == ROOT / "constraints.txt"
    assert (lab.parent / install[1]).resolve() == ROOT
    assert 'SIZE = float(os.environ.get("LAB_SIZE", 1))' in first


def test_questions_have_folded_answers_and_links_lead_somewhere(lab):
    text = _text(lab)
    answers = re.findall(r"\*\*Question\.\*\* [^<]+\?[^<]*\n\n<details>\n<summary>Answer</summary>\n\n", text)
    assert len(answers) == text.count("**Question.**") == text.count("</details>") >= 3
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        assert "://" in link or (lab.parent / link).resolve().exists(), link
    for figure in re.findall(r"figure\s+`(\w+)`", text):
        assert (ROOT / "docs" / "gallery" / f"{figure}.png").exists(), figure


def test_imports_exist_wherever_the_package_is_installed(lab):
    for node in (node for code in _codes(lab) for node in ast.walk(ast.parse(code))):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [node.module] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            assert {name.split(".")[0] for name in names} <= INSTALLED, ast.unparse(node)
            exec(ast.unparse(node), {})


def _few_digits(monkeypatch):
    """Leave twenty of MNIST's test digits of each class for all that is read."""
    if not (data_root() / "mnist" / "t10k-images-idx3-ubyte.gz").exists():
        pytest.skip("needs MNIST: set DIFFPOLICY_DATA to the folder that holds mnist/")
    few = mnist.load_mnist("test").per_class(20)
    monkeypatch.setattr(mnist, "load_mnist", lambda split, root=None: few)


def test_runs_and_what_it_asserts_holds(lab, tmp_path, monkeypatch):
    codes = _codes(lab)
    assert sum(isinstance(node, ast.Assert) for code in codes for node in ast.walk(ast.parse(code))) >= 5
    if "load_mnist" in codes[0]:
        _few_digits(monkeypatch)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("LAB_SIZE", "0.001")
    plt.switch_backend("Agg")
    before, names = set(plt.get_fignums()), {"__name__": "lab"}
    for number, code in enumerate(codes):
        exec(compile(code, f"{lab.name}, code cell {number}", "exec"), names)
    drawn = set(plt.get_fignums()) - before
    assert len(drawn) >= 4
    plt.close("all")
