"""The house rules that no reviewer should have to hold by hand."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

# Who may import whom, by package of this project or by a module of one; what is not named here may be imported by
# nobody above it.
MAY_IMPORT = {
    "util": set(),
    "config": {"registry"},
    "generative": set(),
    "nets": set(),
    "datasets": {"registry"},
    "envs": set(),
    "configs": set(),
    "registry": set(),
    "checkpoint": set(),
    "policies": {"generative", "nets", "datasets", "registry", "checkpoint"},
    "training": {"generative", "checkpoint"},
    "evaluation": {"policies", "training", "datasets", "registry"},
    "images": {
        "generative",
        "datasets",
        "training",
        "evaluation",
        "registry",
        "checkpoint",
    },
    "scripts": {"envs", "images", "policies", "training", "evaluation", "datasets", "registry", "checkpoint"},
}
# the gallery's figures show the formulas themselves
MAY_IMPORT["gallery"] = {"generative", "nets", "datasets", "training", "images", "checkpoint", "scripts"}
MAY_IMPORT["scripts"].add("gallery")
MAY_IMPORT["lab"] = {*MAY_IMPORT}  # measures any part, and nothing imports it
LAB = {file.stem for file in (ROOT / "scripts" / "lab").iterdir()}  # its modules, siblings of each other
THIRD_PARTY = {"generative": {"torch"}, "nets": {"torch", "einops"}}


def _files():
    for folder in ("diffpolicy", "envs", "scripts", "configs"):
        yield from (ROOT / folder).rglob("*.py")


def _package(file):
    parts = file.relative_to(ROOT).with_suffix("").parts
    if parts[:2] == ("scripts", "lab"):
        return "lab"
    return parts[1] if parts[0] == "diffpolicy" else parts[0]


def _imports(file):
    """Absolute names of all modules a file imports, wherever in the file."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield from [node.module] + [f"{node.module}.{alias.name}" for alias in node.names]


@pytest.mark.parametrize("file", list(_files()), ids=lambda file: str(file.relative_to(ROOT)))
def test_imports_point_one_way(file):
    package = _package(file)
    if package == "__init__":  # diffpolicy/__init__.py: the lazy front door
        return
    allowed = MAY_IMPORT[package] | {package, "util"} | ({"config"} if package != "util" else set())
    for name in _imports(file):
        top, *rest = name.split(".")
        if top == "diffpolicy" and rest and rest[0] != "load_policy":
            assert not allowed.isdisjoint((rest[0], ".".join(rest[:2]))), f"{package} imports {name}"
        assert package == "lab" or top not in LAB, f"{name}: the laboratory is not installed"
        assert top not in ("envs", "scripts", "configs", "tests"), f"{name}: installed, it lives under diffpolicy"
        assert not (package == "envs" and top == "diffpolicy"), "the environments stand alone"
        if package in THIRD_PARTY and top != "diffpolicy":
            assert top in THIRD_PARTY[package] | set(sys.stdlib_module_names), f"{package} imports {name}"


def test_images_are_composition():
    """No training loop, path, solver or guidance of their own: what these would be made of does not occur."""
    made_of = r"torch\.optim|\.backward\(|\balpha\b|\bsigma\b|\((?:Solver|Path|Wrapper)\)|^\s*while "
    for file in (ROOT / "diffpolicy" / "images").glob("*.py"):
        own = re.findall(made_of, file.read_text(), re.MULTILINE)
        assert not own, f"{file.name}: {own}"


def test_the_rule_sees_a_breach(tmp_path):
    file = tmp_path / "bad.py"
    file.write_text("def f():\n    from diffpolicy.training import loop\n")
    assert "diffpolicy.training.loop" in list(_imports(file))


def test_no_file_needs_more_than_four_hundred_lines():
    long = {str(f.relative_to(ROOT)): n for f in _files() if (n := len(f.read_text().splitlines())) > 430}
    assert not long


def test_top_level_is_what_the_design_names():
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True).stdout.split()
    if not tracked:
        pytest.skip("not a git checkout")
    allowed = {"pyproject.toml", "README.md", "LICENSE", "constraints.txt", ".gitignore", ".ci", "docs"}
    allowed |= {"mkdocs.yml", "CONTRIBUTING.md", "CHANGELOG.md", "CITATION.cff"}
    allowed |= {"diffpolicy", "envs", "configs", "data", "tests", "scripts"}
    assert {path.split("/")[0] for path in tracked} <= allowed


def test_nothing_unpickles():
    for file in _files():
        text = file.read_text()
        if file.name == "shards.py":  # what a process has pickled for its own workers, and no file
            text = text.replace("torch.load(io.BytesIO(pipe.recv_bytes())", "")
        assert not re.search(r"\bimport pickle|pickle\.load|allow_pickle=True|torch\.load\(", text), file
