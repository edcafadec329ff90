"""The extras of pyproject.toml that bring pygame all name one distribution of it."""

from __future__ import annotations

import importlib.metadata
import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PYGAMES = {"pygame", "pygame-ce"}  # both install the import package `pygame`, and overwrite each other's files


def names(requirements: list[str]) -> set[str]:
    return {re.match(r"[\w.-]+", requirement).group().lower().replace("_", "-") for requirement in requirements}


def test_all_extras_name_the_same_pygame() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert names(extras["human"]) & PYGAMES == {"pygame"}
    assert not any("pygame-ce" in names(requirements) for requirements in extras.values())
    pinned = (ROOT / "constraints.txt").read_text().splitlines()
    assert names(pinned) & PYGAMES == {"pygame"}


def test_pins_of_gym_pusht_stand_in_its_extra_alone() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for extra in ("benchmark", "test"):  # so that its tests run by default, with a pymunk that it can use
        assert any(one.startswith("diffpolicy[") and "gym-pusht" in one for one in extras[extra])
        assert not {"gym-pusht", "pymunk"} & names(extras[extra])


def test_the_lowest_gymnasium_has_the_modes_of_resetting() -> None:
    needed = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    (lowest,) = (one.partition(">=")[2] for one in needed if one.startswith("gymnasium>="))
    assert tuple(map(int, lowest.split("."))) >= (1, 1), "AutoresetMode is of 1.1"


def test_gym_pusht_asks_for_it_too() -> None:
    try:
        needed = importlib.metadata.requires("gym-pusht")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("gym-pusht is not installed")
    assert names(needed) & PYGAMES == {"pygame"}
