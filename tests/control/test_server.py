"""A policy over the network: the same chunks, in batches, whatever the others send."""

import asyncio
import contextlib
import http.client
import threading
import time

import msgpack
import numpy as np
import pytest
import tiny_policy
from websockets.sync.client import connect

from diffpolicy.config import ExecutionConfig
from diffpolicy.control import wire
from diffpolicy.control.client import RemotePlanner
from diffpolicy.control.local import LocalPlanner
from diffpolicy.control.planning import Ask, Metadata, Plan
from diffpolicy.control.runner import RealTimeRunner
from diffpolicy.control.server import PolicyServer
from diffpolicy.control.wire import WireError, pack, unpack

D, A, T_O, T_P = tiny_policy.D, tiny_policy.A, tiny_policy.T_O, tiny_policy.T_P


class Running:
    """A server in a thread."""

    def __init__(self, planner, **how):
        self.server, self._up = PolicyServer(planner, port=how.pop("port", 0), **how), threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True)
        self._thread.start()
        assert self._up.wait(10)

    async def _serve(self):
        ready = asyncio.Event()
        self._loop, self._task = asyncio.get_running_loop(), asyncio.current_task()
        serving = asyncio.create_task(self.server.run(ready))
        await ready.wait()
        self._up.set()
        with contextlib.suppress(asyncio.CancelledError):
            await serving

    def stop(self):
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._task.cancel)
            self._thread.join(10)

    @property
    def uri(self):
        return f"ws://127.0.0.1:{self.server.port}"

    def get(self, path, token=None):
        there = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=5)
        there.request("GET", path, headers={"Authorization": f"Bearer {token}"} if token else {})
        answer = there.getresponse()
        return answer.status, answer.read().decode()


@pytest.fixture
def serve():
    running = []

    def start(planner, **how):
        running.append(Running(planner, **how))
        return running[-1]

    yield start
    for one in running:
        one.stop()


@pytest.fixture(scope="module")
def planner():
    return LocalPlanner(tiny_policy.policy("flow", t_a=4, block=8, execution=ExecutionConfig(inpaint=2)), fps=10.0)


def ask(seed=0, number=1, last=True):
    draw = np.random.default_rng(seed)
    obs = list(draw.uniform(0, 512, (T_O, D)).astype(np.float32))
    acts = draw.uniform(100, 400, (T_P, A)).astype(np.float32)
    return Ask(obs, (seed, number), acts[:1], acts[1:3], acts if last else None, 4 if last else 0)


def test_a_remote_policy_plans_as_a_local_one(serve, planner):
    remote = RemotePlanner(serve(planner).uri)
    assert remote.metadata.fps == 10.0 and remote.metadata.execution["inpaint"] == 2
    assert remote.metadata.fields["obs"]["shape"] == [D] and remote.metadata.horizon == T_P
    for seed in range(4):
        for last in (True, False):
            mine, theirs = planner.plan(ask(seed, last=last)), remote.plan(ask(seed, last=last))
            np.testing.assert_array_equal(mine.trajectory, theirs.trajectory)
            assert mine.calls == theirs.calls == 3
    held = remote.plan(ask(7)).trajectory
    np.testing.assert_allclose(held[T_O - 1 :][:2], ask(7).pending, rtol=1e-4, atol=1e-2)
    remote.close()


def test_requests_that_wait_together_are_one_batch(serve, planner):
    class Slow:
        metadata = planner.metadata
        sizes: list[int] = []  # noqa: RUF012

        def plan_all(self, asks):
            self.sizes.append(len(asks))
            time.sleep(0.5 if len(self.sizes) == 1 else 0)  # the others are there when the first is answered
            return planner.plan_all(asks)

    running = serve(Slow())
    found, robots = {}, [RemotePlanner(running.uri) for _ in range(6)]
    threads = [
        threading.Thread(target=lambda k=k, one=one: found.update({k: one.plan(ask(k)).trajectory}))
        for k, one in enumerate(robots)
    ]
    for one in threads:
        one.start()
    for one in threads:
        one.join(10)
    assert sum(Slow.sizes) == 6 and max(Slow.sizes) >= 4
    for k in range(6):
        np.testing.assert_allclose(found[k], planner.plan(ask(k)).trajectory, rtol=1e-4, atol=1e-2)


def test_health_metrics_and_token(serve, planner):
    running = serve(planner, token="open sesame")
    assert running.get("/health") == (200, "ok\n")
    assert running.get("/metrics")[0] == 401 and running.get("/metrics", "open barley")[0] == 401
    for token in (None, "open barley"):
        with pytest.raises(ConnectionError, match="refuses .*401.*is it a server of diffpolicy, and the token right"):
            RemotePlanner(running.uri, token=token)
    remote = RemotePlanner(running.uri, token="open sesame")
    remote.plan(ask())
    status, text = running.get("/metrics", "open sesame")
    assert status == 200 and "diffpolicy_chunks_total 1\n" in text and "diffpolicy_connected 1\n" in text
    assert 'diffpolicy_refused_total{why="token"} 4' in text
    assert running.get("/elsewhere", "open sesame")[0] == 404


def test_a_wrong_robot_fails_on_its_first_message(serve, planner):
    remote = RemotePlanner(serve(planner).uri)
    with pytest.raises(WireError, match=r"'obs' of shape \(3,\); the policy observes \(5,\)"):
        remote.plan(Ask([np.zeros(3), np.zeros(3)], (0, 0), np.empty((0, A)), np.empty((0, A))))
    with pytest.raises(WireError, match="'obs' holds NaN or infinity"):
        remote.plan(Ask([np.full(D, np.nan)] * 2, (0, 0), np.empty((0, A)), np.empty((0, A))))
    with pytest.raises(WireError, match="the server says: 1 observations; expected the last 2"):
        remote.plan(Ask([np.zeros(D)], (0, 0), np.empty((0, A)), np.empty((0, A))))
    assert remote.plan(ask()).trajectory.shape == (T_P, A)


def hostile(draw):
    """Messages that nobody should send."""
    good = wire.asking(ask(), 1)
    plain = msgpack.unpackb(pack(good), raw=False)
    while True:
        kind = draw.integers(8)
        if kind < 3:
            yield draw.bytes(int(draw.integers(0, 300)))
        elif kind == 3:
            packed = bytearray(pack(good))
            packed[draw.integers(len(packed))] = draw.integers(256)
            yield bytes(packed)
        elif kind == 4:
            yield pack(good)[: draw.integers(1, len(pack(good)))]
        elif kind == 5:
            name = draw.choice([*plain])
            yield msgpack.packb(
                {**plain, str(name): [None, -1, "x", [], {}, 2**63, {"__array__": [1]}][draw.integers(7)]}
            )
        elif kind == 6:
            huge = {"__array__": ["float64", [2**40, 2**20], b"1234"]}
            yield msgpack.packb({**plain, "last": huge})
        else:
            yield msgpack.packb(b"\xff" * int(draw.integers(10)))


def test_hostile_messages_are_answered_and_the_others_served_on(serve, planner):
    running = serve(planner)
    other, draw = RemotePlanner(running.uri), np.random.default_rng(0)
    messages = hostile(draw)
    for _ in range(10):
        with connect(running.uri, compression=None, proxy=None) as bad:
            bad.recv()
            for _ in range(40):
                bad.send(next(messages))
                said = unpack(bad.recv(timeout=10))
                assert said["type"] in ("error", "chunk")
        assert np.isfinite(other.plan(ask()).trajectory).all()
    with connect(running.uri, compression=None, proxy=None) as bad:
        bad.recv()
        bad.send("text")
        assert "text came; expected a message in binary" in unpack(bad.recv(timeout=10))["says"]
        bad.send(b"0" * (wire.message_limit(planner.metadata) + 1))
        with pytest.raises(Exception, match="1009"):
            bad.recv(timeout=10)
    assert np.isfinite(other.plan(ask()).trajectory).all()


@pytest.mark.parametrize(
    ("array", "says"),
    [
        (["object", [1], b"12345678"], "an array of 'object'"),
        (["float32", [2], b"123"], r"shape \[2\] with 3 bytes; expected 8"),
        (["float32", [-1], b""], "with shape"),
        (["float32", [1] * 9, b"1234"], "with shape"),
        (["float32", [True], b"1234"], "with shape"),
        (["float32"], "without data type, shape and bytes"),
    ],
)
def test_arrays_that_are_none(array, says):
    with pytest.raises(WireError, match=says):
        unpack(msgpack.packb({"type": "plan", "x": {"__array__": array}}))


def test_numbers_of_the_other_byte_order_arrive_as_they_are():
    again = unpack(pack({"type": "x", "it": np.array([1.5, 2.5], ">f4")}))["it"]
    assert again.tolist() == [1.5, 2.5]


def test_a_page_in_a_browser_is_refused(serve, planner):
    from websockets.exceptions import InvalidStatus

    with pytest.raises(InvalidStatus, match="403"), connect(serve(planner).uri, origin="http://evil", proxy=None):
        pass


@pytest.mark.parametrize("dtype", wire.DTYPES)
def test_arrays_come_out_as_they_went_in(dtype):
    array = np.arange(6).reshape(2, 3).astype(dtype)
    again = unpack(pack({"type": "x", "it": array, "n": np.float64(1.5), "k": np.int64(3)}))
    assert again["it"].dtype == array.dtype and np.array_equal(again["it"], array)
    assert again["n"] == 1.5 and again["k"] == 3
    with pytest.raises(WireError, match="an array of object"):
        pack({"type": "x", "it": np.array([None])})
    with pytest.raises(WireError, match="a set; expected numbers"):
        pack({"type": "x", "it": {1}})


def test_a_policy_that_fails_says_so_to_its_robot_alone(serve, planner):
    class Picky:
        metadata = planner.metadata

        def plan_all(self, asks):
            if any(one.key[0] == 13 for one in asks):
                raise RuntimeError("thirteen")
            return planner.plan_all(asks)

    remote = RemotePlanner(serve(Picky()).uri)
    with pytest.raises(WireError, match="the server says: RuntimeError: thirteen"):
        remote.plan(ask(13))
    assert remote.plan(ask(12)).trajectory.shape == (T_P, A)


def test_a_robot_holds_while_the_server_is_away_and_goes_on_by_itself(serve):
    class Counting:
        metadata = Metadata(1, 8, 4, 1, {"obs": {"kind": "vector", "shape": [1], "unit": None}})

        def plan_all(self, asks):
            return [Plan((one.obs[-1][0] + np.arange(8))[:, None].astype(np.float32)) for one in asks]

    first = serve(Counting())
    port = first.server.port
    remote = RemotePlanner(first.uri, timeout=2.0)

    class Robot:
        def __init__(self):
            self.number, self.acted = 0, []

        def observe(self):
            if self.number == 30:
                first.stop()
            if self.number == 60:
                serve(Counting(), port=port)
            return np.array([float(self.number)])

        def act(self, action):
            self.acted.append(float(action[0]))
            self.number += 1

        def back(self):
            return self.number > 90 and self.acted[-5:] == list(map(float, range(self.number - 5, self.number)))

    robot = Robot()
    report = RealTimeRunner(robot, remote, 50.0, hold=lambda obs: np.array([-1.0])).run(1500, over=robot.back)
    away = [step for step, value in enumerate(robot.acted) if value == -1 and step >= 30]
    assert away and min(away) <= 30 + 8 + 2, "the rest of the last chunk, and two periods"
    assert robot.back(), "it goes on by itself"
    assert all(value in (-1.0, float(step)) for step, value in enumerate(robot.acted))
    assert any("went away" in why or "no server" in why for why in report.failures)


def test_nobody_there_and_somebody_else_there(serve):
    with pytest.raises(ConnectionError, match="no server at ws://127.0.0.1:1 "):
        RemotePlanner("ws://127.0.0.1:1", timeout=2)
    with pytest.raises(WireError, match="the server speaks version 0; this is 1: install the same"):
        wire.metadata_of({"type": "hello", "version": 0, "policy": {}})
    with pytest.raises(WireError, match="a message of type 'chunk'; expected a server's hello"):
        wire.metadata_of({"type": "chunk"})


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ({"port": 70000}, "port=70000; expected 0 to 65535"),
        ({"token": " "}, "an empty token"),
        ({"most": 0}, "most=0"),
    ],
)
def test_servers_that_mean_nothing(planner, how, says):
    with pytest.raises(ValueError, match=says):
        PolicyServer(planner, **how)
