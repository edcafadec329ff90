"""What a person names as "module:name": found, also in the working folder, or refused in one sentence."""

import sys

import pytest

from diffpolicy.util.imports import import_named, is_import_path


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    for name in ("named_here", "named_broken"):
        sys.modules.pop(name, None)


def test_a_file_of_the_working_folder(here):
    (here / "named_here.py").write_text("class Makes:\n    def one():\n        return 1\n")
    assert import_named("named_here:Makes.one", "expert")() == 1
    assert import_named("collections:OrderedDict", "expert").__name__ == "OrderedDict"
    with pytest.raises(ValueError, match=r"expert=named_here:Maks: unknown name 'Maks' \(did you mean 'Makes'"):
        import_named("named_here:Maks", "expert")


def test_what_cannot_be_imported_is_said_in_one_sentence(here):
    (here / "named_broken.py").write_text("raise KeyError('x')\n")
    with pytest.raises(ImportError, match=r"expert=named_broken:make cannot be imported: KeyError: 'x'"):
        import_named("named_broken:make", "expert")
    with pytest.raises(ImportError, match="env.factory=named_away:make cannot.*no such module; install its package"):
        import_named("named_away:make", "env.factory")


@pytest.mark.parametrize("path", ["make", "my-module:make", "a:b:c", ":make", "runs/best", "C:\\runs", None, "1a:b"])
def test_what_is_no_import_path(path):
    assert not is_import_path(path)
    with pytest.raises(ValueError, match='expected "module:name"; as in expert=my_module:make'):
        import_named(path, "expert")
