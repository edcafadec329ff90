"""Policies and recordings from the hub, against a local server that speaks the few calls this takes."""

import base64
import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

import numpy as np
import pytest
import tiny_policy
from typed import typed

from diffpolicy import ReplayBuffer, checkpoint, load_policy
from diffpolicy.policies import share
from diffpolicy.util import hub

COMMIT = "0" * 40


class _Hub(BaseHTTPRequestHandler):
    """Repositories in memory: {"user/name": {file: bytes}}. It knows one commit, the newest."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def _send(self, content=b"", status=200, **headers):
        if isinstance(content, (dict, list)):
            content = json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": len(content), **headers}.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    @property
    def _address(self):
        return f"http://127.0.0.1:{self.server.server_port}"

    def _missing(self):
        self._send(b"{}", 404, X_Error_Code="RepoNotFound")

    def do_GET(self):
        parts = unquote(self.path.partition("?")[0]).strip("/").split("/")
        self.server.asked.append((self.command, "/".join(parts)))
        if parts[0] == "api" and len(parts) >= 4:
            files = self.server.repos.get("/".join(parts[2:4]))
            if files is None:
                return self._missing()
            if "tree" in parts:
                entries = [
                    {"type": "file", "path": name, "size": len(data), "oid": _oid(data)}
                    for name, data in files.items()
                ]
                return self._send(entries, Content_Type="application/json")
            listed = [{"rfilename": name} for name in files]
            return self._send({"id": "/".join(parts[2:4]), "sha": COMMIT, "siblings": listed, "private": False})
        if parts[0] == "datasets":
            parts = parts[1:]
        files = self.server.repos.get("/".join(parts[:2]), {})
        data = files.get("/".join(parts[4:]))
        if data is None:
            return self._send(b"", 404, X_Error_Code="EntryNotFound", X_Repo_Commit=COMMIT)
        self._send(data, ETag=f'"{_oid(data)}"', X_Repo_Commit=COMMIT)

    do_HEAD = do_GET

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        parts = unquote(self.path.partition("?")[0]).strip("/").split("/")
        self.server.asked.append((self.command, "/".join(parts)))
        if parts[:3] == ["api", "repos", "create"]:
            asked = json.loads(body)
            name = f"{asked.get('organization') or 'me'}/{asked['name']}"
            self.server.private[name] = asked.get("private", asked.get("visibility") == "private")
            self.server.repos.setdefault(name, {})
            return self._send({"url": f"{self._address}/{name}", "name": name, "id": name})
        repo = "/".join(parts[2:4])
        if "preupload" in parts:
            files = [
                {"path": one["path"], "uploadMode": "regular", "shouldIgnore": False}
                for one in json.loads(body)["files"]
            ]
            return self._send({"files": files})
        if "commit" in parts:
            for line in body.splitlines():
                one = json.loads(line)
                if one["key"] == "file":
                    self.server.repos[repo][one["value"]["path"]] = base64.b64decode(one["value"]["content"])
            return self._send(
                {"success": True, "commitOid": COMMIT, "commitUrl": f"{self._address}/{repo}/commit/{COMMIT}"}
            )
        if parts[-1] == "validate-yaml":
            return self._send({"errors": [], "warnings": []})
        self._missing()


def _oid(data):
    return hashlib.sha1(data).hexdigest()


@pytest.fixture
def server(tmp_path, monkeypatch):
    httpd = ThreadingHTTPServer(("127.0.0.1", 0), _Hub)
    httpd.repos, httpd.private, httpd.asked = {}, {}, []
    threading.Thread(target=httpd.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{httpd.server_port}"
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setenv("HF_ENDPOINT", address)
    monkeypatch.setenv("HF_TOKEN", "hf_of_a_test")
    monkeypatch.setattr(constants, "ENDPOINT", address)
    template = f"{address}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    yield httpd
    httpd.shutdown()
    httpd.server_close()


@pytest.fixture
def run(tmp_path):
    made = tiny_policy.config(run_dir="/private_place/RUN", data_root="/private_place/data")
    made.dataset.path, made.dataset.episodes = "/private_place/demos.zarr", "/private_place/chosen.txt"
    made.init_from = "/private_place/OTHER"
    return tiny_policy.save(tmp_path / "RUN", made)


def test_a_policy_goes_up_and_comes_back_the_same(server, run, tmp_path):
    out = typed("push", run, "hf://me/policy", cwd=tmp_path)
    assert "uploaded README.md, checkpoint.json, config.yaml, ema.safetensors, normalizer.safetensors" in out
    assert server.private == {"me/policy": True}, "private unless asked otherwise"
    again, obs = load_policy("hf://me/policy"), np.zeros((2, 2, load_policy(run).obs_dim), np.float32)
    np.testing.assert_array_equal(again.predict(obs), load_policy(run).predict(obs))
    everything = b"".join(server.repos["me/policy"].values())
    assert b"private_place" not in everything and b"model.safetensors" not in everything
    card = server.repos["me/policy"]["README.md"].decode()
    assert 'load_policy("hf://me/policy")' in card and "pipeline_tag: robotics" in card


def test_what_is_there_is_not_downloaded_again(server, run, tmp_path):
    typed("push", run, "hf://me/policy", "private=false", cwd=tmp_path)
    assert server.private == {"me/policy": False}
    first = checkpoint.locate("hf://me/policy")
    server.asked.clear()
    assert checkpoint.locate("hf://me/policy") == first
    assert not [path for method, path in server.asked if method == "GET" and "resolve" in path]


def test_nothing_is_uploaded_unasked(server, run, tmp_path):
    assert "would upload to hf://me/policy: README.md" in typed(
        "push", run, "hf://me/policy", "dry_run=true", cwd=tmp_path
    )
    load_policy(run)
    assert server.asked == [] and server.repos == {}


def test_the_card_names_an_environment_by_its_factory():
    env = {"id": None, "factory": "arm:make"}
    assert "arm:make" in share._results({"env": env, "episodes": [{"seed": 3}]}, [])


def test_results_stand_in_the_card(server, run, tmp_path):
    saved = checkpoint.read(run)
    result = {
        "success": {"mean": 0.75, "low": 0.5, "high": 0.9},
        "checkpoint": {
            "sha256": {"ema.safetensors": saved.sha256["ema.safetensors"]},
            "config": {**saved.config, "env": {"id": "a/B"}},
        },
        "episodes": [{"seed": 7}, {"seed": 8}],
        "settings": {"checkpoint": "/private_place/RUN", "out": "/private_place/OUT", "steps": 10},
    }
    (tmp_path / "E").mkdir()
    (tmp_path / "E" / "evaluation.json").write_text(json.dumps(result))
    (tmp_path / "E" / "episode_7.mp4").write_bytes(b"film")
    typed("push", run, "hf://me/policy", "evaluation=E", cwd=tmp_path)
    card = server.repos["me/policy"]["README.md"].decode()
    assert "| success | 0.750 | 0.500 to 0.900 |" in card and "seeds 7 to 8" in card and "episode_7.mp4" in card
    assert server.repos["me/policy"]["episode_7.mp4"] == b"film"
    shared = json.loads(server.repos["me/policy"]["evaluation.json"])
    assert shared["settings"] == {"steps": 10} and "private_place" not in json.dumps(shared)
    result["checkpoint"]["sha256"]["ema.safetensors"] = "0"
    (tmp_path / "E" / "evaluation.json").write_text(json.dumps(result))
    error = typed("push", run, "hf://me/other", "evaluation=E", cwd=tmp_path, ok=False)
    assert "of another checkpoint" in error and "me/other" not in server.repos


def test_a_recording_is_trained_on_where_it_is(server, tmp_path):
    rng = np.random.default_rng(0)
    episodes = [{"obs": rng.random((30, 2)), "action": rng.random((30, 2))} for _ in range(3)]
    ReplayBuffer.from_episodes(episodes).save(tmp_path / "demos.zarr")
    files = [file for file in (tmp_path / "demos.zarr").rglob("*") if file.is_file()]
    server.repos["them/demos"] = {
        file.relative_to(tmp_path / "demos.zarr").as_posix(): file.read_bytes() for file in files
    }
    tiny = ["net.widths=[8,16]", "net.time_features=8", "training.batch_size=8", "training.steps=1"]
    out = typed("train", "task=own", "dataset.path=hf://them/demos", *tiny, "run_dir=RUN2", cwd=tmp_path)
    assert out.rstrip().endswith("RUN2/checkpoints/best")
    inspected = typed("inspect", "hf://them/demos", cwd=tmp_path)
    assert "3 episodes" in inspected and "hf://them/demos" in inspected and COMMIT not in inspected
    converted = typed("convert", "hf://them/demos", "AGAIN", cwd=tmp_path)
    assert "3 episodes, 90 frames" in converted and COMMIT not in converted
    assert ReplayBuffer.open(tmp_path / "AGAIN").attrs["source"]["name"] == "hf://them/demos"


def test_errors_in_words(server, run, tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match="hf://me/nothing is not on the hub, or not for you; .*hf auth login"):
        load_policy("hf://me/nothing")
    assert "is no address; expected hf://user/repo" in typed("push", run, "me/policy", cwd=tmp_path, ok=False)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    with pytest.raises(OSError, match="the hub did not answer|not on the hub"):
        load_policy("hf://me/elsewhere")


@pytest.mark.parametrize(
    ("address", "parts"),
    [
        ("hf://a/b", ("a/b", None, None)),
        ("hf:/a/b", ("a/b", None, None)),
        ("hf://datasets/a/b.c@v1/x/y", ("a/b.c", "v1", "x/y")),
    ],
)
def test_addresses(address, parts):
    assert hub.is_address(address) and hub.parse(address) == parts
