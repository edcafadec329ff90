"""Names of configs: those of this project, those of installed packages, and what is refused."""

import pytest

from diffpolicy import registry
from diffpolicy.registry import build, known, lookup


@pytest.fixture
def package(tmp_path, monkeypatch):
    """An installed package with a network and a path of its own, and one that tries to replace `unet1d`."""
    info = tmp_path / "other-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: other\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[diffpolicy.net]\nmine = other_nets:Mine\nunet1d = other_nets:Mine\nlost = other_nets:Lost\n"
    )
    (tmp_path / "other_nets.py").write_text(
        "class Mine:\n    def __init__(self, dim, size=3):\n        self.size = size\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    registry.known.cache_clear()
    yield
    registry.known.cache_clear()


def test_installed_packages_extend_every_kind(package):
    made = build("net", {"name": "mine", "size": 5}, dim=2)
    assert type(made).__module__ == "other_nets" and made.size == 5
    assert lookup("net", "unet1d").__module__ == "diffpolicy.nets.unet1d_fast"
    with pytest.raises(
        ValueError, match=r"net 'mine' has no option 'siez' \(did you mean 'size'\?\); expected one of"
    ):
        build("net", {"name": "mine", "siez": 5}, dim=2)
    with pytest.raises(ValueError, match=r"net 'lost' \(other_nets:Lost\) cannot be imported"):
        lookup("net", "lost")


@pytest.mark.parametrize("kind", ["net", "encoder", "classifier", "path", "model", "transform", "source", "expert"])
def test_every_name_leads_to_something(kind):
    assert all(callable(lookup(kind, name)) for name in known(kind))


@pytest.mark.parametrize(
    ("kind", "spec", "given", "says"),
    [
        ("net", {"name": "unet"}, {}, r"unknown net 'unet' \(did you mean 'unet"),
        ("net", {"name": "os:system"}, {}, "unknown net 'os:system'"),
        ("net", {"widths": [8]}, {}, "a net without a name.*one of unet1d"),
        ("net", {"name": "unet1d", "dim": 3}, {"dim": 2}, "'unet1d' has no option 'dim'"),
        ("net", {"name": "unet1d"}, {"channels": 1}, "'unet1d' does not take channels"),
        ("path", {"name": "ddpm", "steps": "many"}, {}, "path 'ddpm' cannot be made with"),
        ("nett", {"name": "unet1d"}, {}, r"unknown kind of the registry 'nett' \(did you mean 'net'"),
    ],
)
def test_what_is_refused(kind, spec, given, says):
    with pytest.raises(ValueError, match=says):
        build(kind, spec, **given)


def test_a_registered_name_is_not_taken_by_something_else():
    with pytest.raises(ValueError, match="'unet1d' is .* already"):
        registry.register("net", "unet1d", "elsewhere:Net")
