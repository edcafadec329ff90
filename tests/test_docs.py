"""The pages: links lead somewhere, code compiles, commands and settings exist, quotes are what they quote."""

import re
import shlex
from pathlib import Path

import plugin
import pytest
import yaml

from diffpolicy.cli import COMMANDS
from diffpolicy.config.compose import prepare

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
WRITTEN = sorted(
    [
        *DOCS.glob("*.md"),
        *(page for folder in ("tutorials", "guides", "reference", "design") for page in (DOCS / folder).glob("*.md")),
    ]
)
PAGES = [
    *WRITTEN,
    ROOT / "CONTRIBUTING.md",
    ROOT / "CHANGELOG.md",
    DOCS / "results" / "README.md",
]
MAX_FILES, MAX_LINES = 14, 2000

_LINK = re.compile(r"\]\(([^)\s]+)\)")
_FENCE = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_TABLE = re.compile(r"<!-- (\w+):begin -->.*?<!-- \1:end -->", re.DOTALL)  # written from raw results
_QUOTE = re.compile(r"<!-- file: (\S+) -->\n+```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)


@pytest.fixture(scope="module", autouse=True)
def plugged_in(tmp_path_factory):
    """The pages name parts of the package that the tutorials are about."""
    with plugin.installed(tmp_path_factory.mktemp("site")):
        yield


def _name(page):
    return str(page.relative_to(ROOT))


def _blocks(page, *languages):
    return [code for language, code in _FENCE.findall(page.read_text("utf-8")) if language in languages]


def _commands(page):
    """The `diffpolicy` commands of a page, as lists of words."""
    for block in _blocks(page, "bash"):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if words[:1] == ["torchrun"] and "diffpolicy" in words:
                words = words[words.index("diffpolicy") :]
            if words[:1] == ["diffpolicy"]:
                yield words[1:]


def _anchors(page):
    """The anchors of a page's headings, as the site makes them."""
    text = _FENCE.sub("", page.read_text("utf-8"))
    titles = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", title).strip().lower()) for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_links_lead_somewhere(page):
    for link in _LINK.findall(_FENCE.sub("", page.read_text("utf-8"))):
        target, _, anchor = link.partition("#")
        if "://" in target:
            continue
        file = (page.parent / target).resolve() if target else page
        assert file.exists(), f"{target} is not there"
        if anchor and file.suffix == ".md":
            assert anchor in _anchors(file), f"{target} has no heading for #{anchor}"


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_python_compiles(page):
    for code in _blocks(page, "python"):
        compile(code, _name(page), "exec")


@pytest.mark.parametrize("page", [ROOT / "README.md", *PAGES], ids=_name)
def test_commands_and_settings_exist(page):
    from importlib import import_module

    for words in _commands(page):
        if not words or words[0].startswith("-"):
            continue
        name, *settings = words
        assert name in COMMANDS, f"diffpolicy {name}"
        command = import_module(f"diffpolicy.cli.{name.replace('-', '_')}")
        given = [word for word in settings if "=" in word]
        prepare(name, command.SCHEMA, command.GROUPS, given)


@pytest.mark.parametrize("page", WRITTEN, ids=_name)
def test_words_of_the_house(page):
    text = _TABLE.sub("", page.read_text("utf-8"))
    british = re.search(
        r"\b\w*(normalis|optimis|quantis|behaviour|colour|neighbour|licence|grey\b|centre\b)\w*", text
    )
    assert not british, british
    assert "solver=heun steps=5" not in text
    retired = re.search(r"diffpolicy-(train|evaluate|make|inspect|export|sample|gallery|measure|compare|bench)", text)
    assert not retired, retired


@pytest.mark.parametrize("page", WRITTEN, ids=_name)
def test_quotes_are_what_they_quote(page):
    text = page.read_text("utf-8")
    quotes = _QUOTE.findall(text)
    assert len(quotes) == text.count("<!-- file: "), "a quote without its block"
    for file, code in quotes:
        assert code.strip() in (ROOT / file).read_text("utf-8"), f"differs from {file}"


def test_every_page_is_in_the_navigation():
    text = (ROOT / "mkdocs.yml").read_text("utf-8")
    linked = set(re.findall(r"(\S+\.md)(?: #.*)?$", text.partition("\nnav:")[2], re.MULTILINE))
    there = {
        str(page.relative_to(DOCS)) for page in [*WRITTEN, DOCS / "gallery/README.md", DOCS / "results/README.md"]
    }
    there |= {f"labs/{lab.stem}.md" for lab in (DOCS / "labs").glob("*.ipynb")}  # pages that the site makes of them
    assert linked == there


def test_reading_order_is_short():
    section = (DOCS / "architecture.md").read_text("utf-8").partition("## Reading order")[2].partition("\n## ")[0]
    steps = re.findall(r"^\d+\. \[[^\]]+\]\(\.\./([^)]+)\)", section, re.MULTILINE)
    assert 5 <= len(steps) <= MAX_FILES and len(set(steps)) == len(steps)
    lines = sum(len((ROOT / file).read_text("utf-8").splitlines()) for file in steps)
    assert lines <= MAX_LINES, f"{lines} lines"


def test_citation_and_changelog_name_this_version():
    version = re.search(r'^version = "([^"]+)"', (ROOT / "pyproject.toml").read_text("utf-8"), re.MULTILINE)[1]
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))["version"] == version
    assert f"## {version}" in (ROOT / "CHANGELOG.md").read_text("utf-8")
