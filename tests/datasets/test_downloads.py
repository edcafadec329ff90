"""Downloads, against a server on this machine."""

import hashlib
import http.server
import os
import threading
import zipfile
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from diffpolicy.datasets.buffer import ReplayBuffer
from diffpolicy.datasets.downloads import Published, check_digest, data_root, fetch, resolve

FOLDER = "toy/toy.zarr"


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture
def served(tmp_path, monkeypatch):
    """A folder served on 127.0.0.1; yields the folder and its address."""
    folder = tmp_path / "served"
    folder.mkdir()
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(QuietHandler, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield folder, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def digest(values):
    return hashlib.sha256(values.tobytes()).hexdigest()


@pytest.fixture
def toy(served, arrays, write_published, pack, tmp_path):
    """The toy data set as it would be published: the source, with its zip on the server."""
    folder, address = served
    pack(write_published(tmp_path / "toy.zarr", arrays), folder / "toy.zip", FOLDER + "/")
    digests = {name: digest(arrays[name].astype("<i8" if name.startswith("meta") else "<f4")) for name in arrays}
    return Published("the toy demonstrations", f"{address}/toy.zip", FOLDER, digests)


def test_fetch_places_the_data_set_and_cleans_up(toy, tmp_path, arrays, caplog):
    root = tmp_path / "root"
    path = fetch(toy, root)
    assert path == root / FOLDER
    np.testing.assert_array_equal(ReplayBuffer.open(path)["state"], arrays["data/state"])
    assert [p.name for p in root.iterdir()] == ["toy"]
    assert f"downloading {toy.url} into {root}" in caplog.text


def test_resolve_downloads_once(toy, tmp_path, monkeypatch, served):
    monkeypatch.setenv("DIFFPOLICY_DATA", str(tmp_path / "set"))
    path = resolve(toy)
    assert path == tmp_path / "set" / FOLDER
    (served[0] / "toy.zip").unlink()
    assert resolve(toy) == path


def test_an_unreachable_address_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    source = Published("the toy demonstrations", "http://127.0.0.1:9/toy.zip", FOLDER, {})
    root = tmp_path / "root"
    with pytest.raises(ConnectionError) as caught:
        fetch(source, root)
    message = str(caught.value)
    assert f"the toy demonstrations are not at {root / FOLDER}" in message
    assert f"download {source.url} and unpack it in {root}" in message
    assert "DIFFPOLICY_DATA" in message
    assert list(root.iterdir()) == []


def test_a_missing_file_on_the_server(served, tmp_path):
    source = Published("the toy demonstrations", served[1] + "/gone.zip", FOLDER, {})
    with pytest.raises(ConnectionError, match=r"404"):
        fetch(source, tmp_path / "root")


def test_a_broken_download_is_not_placed(toy, served, tmp_path):
    content = (served[0] / "toy.zip").read_bytes()
    for broken in (content[:-100], b"<html>moved</html>"):
        (served[0] / "toy.zip").write_bytes(broken)
        with pytest.raises(ValueError, match=r"toy.zip is not a whole zip file.*try again"):
            fetch(toy, tmp_path / "root")
    damaged = bytearray(content)
    damaged[len(content) // 3] ^= 1
    (served[0] / "toy.zip").write_bytes(damaged)
    with pytest.raises(ValueError, match=r"toy.zip"):
        fetch(toy, tmp_path / "root")
    assert list((tmp_path / "root").iterdir()) == []


def test_other_content_names_the_array(toy, served, tmp_path, arrays, write_published, pack):
    arrays["data/keypoint"][3] += 1
    pack(write_published(tmp_path / "other.zarr", arrays), served[0] / "toy.zip", FOLDER + "/")
    with pytest.raises(ValueError, match=r"data/keypoint of what came from .* is not the published array"):
        fetch(toy, tmp_path / "root")
    assert list((tmp_path / "root").iterdir()) == []


@pytest.mark.parametrize("name", [f"{FOLDER}/../../../../evil", f"{FOLDER}/..\\..\\evil"])
def test_unsafe_paths_are_refused(toy, served, tmp_path, name):
    with zipfile.ZipFile(served[0] / "toy.zip", "a") as archive:
        archive.writestr(name, b"boo")
    with pytest.raises(ValueError, match=r"unsafe path"):
        fetch(toy, tmp_path / "a/b/c/root")
    assert not list(tmp_path.rglob("evil"))


def test_only_the_data_set_is_unpacked(toy, served, tmp_path):
    with zipfile.ZipFile(served[0] / "toy.zip", "a") as archive:
        archive.writestr("../evil", b"boo")
        archive.writestr("toy/readme.txt", b"hello")
    fetch(toy, tmp_path / "root")
    assert not list(tmp_path.rglob("evil")) and not list(tmp_path.rglob("readme.txt"))


def test_another_zip_says_what_it_lacks(served, tmp_path):
    with zipfile.ZipFile(served[0] / "toy.zip", "w") as archive:
        archive.writestr("photos/cat.jpg", b"miaow")
    source = Published("the toy demonstrations", served[1] + "/toy.zip", FOLDER, {})
    with pytest.raises(ValueError, match=rf"does not hold {FOLDER}/"):
        fetch(source, tmp_path / "root")


def test_a_place_taken_meanwhile_is_kept(toy, tmp_path, monkeypatch):
    place = tmp_path / "root" / FOLDER
    real = os.rename

    def rename(source, target):
        place.mkdir(parents=True)
        (place / "mine").touch()
        real(source, target)

    monkeypatch.setattr("os.rename", rename)
    assert fetch(toy, tmp_path / "root") == place
    assert [p.name for p in place.iterdir()] == ["mine"]


def test_a_root_that_cannot_be_written_to(toy, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(PermissionError, match=rf"nothing can be written to .*file.*unpack it in .*{FOLDER}"):
        fetch(toy, tmp_path / "file/root")


def test_the_data_root(monkeypatch, tmp_path):
    monkeypatch.setenv("DIFFPOLICY_DATA", str(tmp_path))
    assert data_root() == tmp_path
    assert data_root("elsewhere") == Path("elsewhere")
    assert data_root("~/data") == Path.home() / "data"
    monkeypatch.setenv("DIFFPOLICY_DATA", "")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert data_root().name == "diffpolicy"


def test_digests_are_of_the_published_dtypes():
    source = Published("x", "x", "x", {"data/img": digest(np.arange(6, dtype="<f4")), "meta/episode_ends": ""})
    check_digest(source, "data/img", [np.arange(4, dtype=np.uint8), np.array([4, 5], ">i2")], "here", "cure")
    with pytest.raises(ValueError, match=r"data/img of here is not the published array of x .*; cure"):
        check_digest(source, "data/img", [np.arange(7, dtype=np.uint8)], "here", "cure")
