"""The house rules that no reviewer should have to hold by hand."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import diffpolicy

ROOT = Path(__file__).parent.parent

# Who may import whom: arrows point one way. A folder or module that is not named here fails the test.
BASE = {"util", "config", "registry"}
MAY_IMPORT = {
    "util": set(),
    "config": {"util", "registry"},
    "registry": {"util"},
    "generative": {"util"},
    "nets": {"util"},
    "datasets": BASE,
    "checkpoint": BASE,
    "policies": {*BASE, "generative", "nets", "datasets", "checkpoint"},
    "training": {*BASE, "generative", "nets", "datasets", "checkpoint"},
    "evaluation": {*BASE, "generative", "nets", "datasets", "checkpoint", "policies", "training"},
}
MAY_IMPORT["images"] = MAY_IMPORT["improvement"] = MAY_IMPORT["control"] = {*MAY_IMPORT["evaluation"], "evaluation"}
MAY_IMPORT["api"] = {*MAY_IMPORT["images"], "images", "improvement", "control"}
MAY_IMPORT["gallery"] = {*MAY_IMPORT["api"], "api"}
MAY_IMPORT["cli"] = {*MAY_IMPORT["gallery"], "gallery"}
MAY_IMPORT["__main__"] = {"cli"}
MAY_IMPORT["lab"] = {*MAY_IMPORT["cli"], "cli", "envs"}
MAY_IMPORT["envs"] = MAY_IMPORT["configs"] = MAY_IMPORT["data"] = set()
PUBLIC = {"__version__", *diffpolicy.__all__}  # offered by the package itself
LAB = {file.stem for file in (ROOT / "scripts" / "lab").iterdir()}  # its modules, siblings of each other
THIRD_PARTY = {"generative": {"torch", "numpy"}, "nets": {"torch", "einops"}}


def _files():
    for folder in ("diffpolicy", "envs", "scripts", "configs", "data"):
        yield from (ROOT / folder).rglob("*.py")


def _package(file):
    parts = file.relative_to(ROOT).with_suffix("").parts
    return "lab" if parts[0] == "scripts" else parts[1] if parts[0] == "diffpolicy" else parts[0]


def _imports(file):
    """Absolute names of all modules a file imports, wherever in the file."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield from [node.module] + [f"{node.module}.{alias.name}" for alias in node.names]


ON_A_ROBOT = ("planning", "guard", "runner", "wire", "client")  # of diffpolicy/control, each other's siblings alone


@pytest.mark.parametrize("name", [one for one in ON_A_ROBOT if (ROOT / f"diffpolicy/control/{one}.py").exists()])
def test_what_runs_on_a_robot_needs_no_torch(name):
    file = ROOT / f"diffpolicy/control/{name}.py"
    assert {one.split(".")[0] for one in _imports(file)} <= sys.stdlib_module_names | {
        "numpy",
        "msgpack",
        "websockets",
    }
    relative = [node.module for node in ast.walk(ast.parse(file.read_text())) if getattr(node, "level", 0)]
    assert set(relative) <= set(ON_A_ROBOT)
    code = f"import sys; sys.modules['torch'] = None; import diffpolicy.control.{name}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("file", list(_files()), ids=lambda file: str(file.relative_to(ROOT)))
def test_imports_point_one_way(file):
    package = _package(file)
    if package == "__init__":  # diffpolicy/__init__.py: the lazy front door
        return
    allowed = MAY_IMPORT[package] | {package, "util"} | ({"config"} if package != "util" else set())
    for name in _imports(file):
        top, *rest = name.split(".")
        if top == "diffpolicy" and rest and rest[0] not in PUBLIC:
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


def test_no_command_needs_more_than_sixty_lines():
    """Commands are thin: what they do is in the library."""
    long = {f.name: n for f in (ROOT / "diffpolicy/cli").glob("*.py") if (n := len(f.read_text().splitlines())) > 60}
    assert not long


def test_one_of_each_helper():
    """Close names, digests, locks, atomic writes and the choice of a device are written once, in util."""
    words = r"get_close_matches|os\.replace\(|hashlib|filelock|fcntl|cuda\.is_available|SeedSequence"
    for file in (ROOT / "diffpolicy").rglob("*.py"):
        if file.parent.name != "util":
            assert not (own := re.findall(words, file.read_text())), f"{file}: {own}"


def test_general_code_knows_no_task():
    """What is true of one task only is said by its source, its environment, its config, or the docs."""
    words = re.compile(r"coverage|push-?t\b|pusht|diffpolicy/\w+-v0", re.IGNORECASE)
    for file in (ROOT / "diffpolicy").rglob("*.py"):
        # migrate.py knows the names of old configs
        rooms = ("datasets/sources", "gallery", "registry.py", "config/migrate.py")
        if any(room in file.as_posix() for room in rooms):
            continue
        code = _without_docstrings(ast.parse(file.read_text()))
        assert not (found := words.findall(code)), f"{file.relative_to(ROOT)}: {found}"


def _without_docstrings(tree):
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)):
            first = node.body[0] if node.body else None
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
                node.body[0] = ast.Pass()
    return ast.unparse(tree)


def test_no_file_needs_more_than_four_hundred_lines():
    long = {str(f.relative_to(ROOT)): n for f in _files() if (n := len(f.read_text().splitlines())) > 400}
    assert not long


def test_top_level_is_what_the_design_names():
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True).stdout.split()
    if not tracked:
        pytest.skip("not a git checkout")
    allowed = {"pyproject.toml", "README.md", "LICENSE", "constraints.txt", ".gitignore", ".ci", "docs"}
    allowed |= {"CONTRIBUTING.md", "CHANGELOG.md", "CITATION.cff", "mkdocs.yml", ".github"}
    allowed |= {"diffpolicy", "envs", "configs", "data", "tests", "scripts"}
    assert {path.split("/")[0] for path in tracked} <= allowed


def test_nothing_unpickles():
    for file in _files():
        text = file.read_text()
        if file.name == "shards.py":  # what a process has pickled for its own workers, and no file
            text = text.replace("torch.load(io.BytesIO(pipe.recv_bytes())", "")
        assert not re.search(r"\bimport pickle|pickle\.load|allow_pickle=True|torch\.load\(", text), file
