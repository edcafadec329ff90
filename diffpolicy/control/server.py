"""One policy for many robots, over WebSocket: requests that wait together are answered as one batch."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import http
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Protocol, final

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

from diffpolicy.control.planning import Ask, Metadata, Plan
from diffpolicy.control.wire import WireError, answer, asked, hello, message_limit, pack, unpack
from diffpolicy.util.errors import require

_SILENT = 20.0  # seconds after which a peer that answers no ping is let go


class Batched(Protocol):
    """Plans several chunks at once."""

    metadata: Metadata

    def plan_all(self, asks: Sequence[Ask]) -> list[Plan]:
        """Return a chunk for each request."""


@dataclass
class _Waiting:
    """A request that waits for its chunk."""

    ask: Ask
    future: asyncio.Future[Plan]


@dataclass
class Counts:
    """What a server has done."""

    chunks: int = 0
    batches: int = 0
    seconds: float = 0.0
    connections: int = 0
    connected: int = 0
    refused: Counter[str] = field(default_factory=Counter)

    def text(self) -> str:
        """Return them as Prometheus reads them."""
        lines = []
        for name, kind, value in (
            ("chunks_total", "counter", self.chunks),
            ("batches_total", "counter", self.batches),
            ("planning_seconds_total", "counter", self.seconds),
            ("connections_total", "counter", self.connections),
            ("connected", "gauge", self.connected),
        ):
            lines += [f"# TYPE diffpolicy_{name} {kind}", f"diffpolicy_{name} {value}"]
        lines.append("# TYPE diffpolicy_refused_total counter")
        lines += [f'diffpolicy_refused_total{{why="{why}"}} {count}' for why, count in sorted(self.refused.items())]
        return "\n".join(lines) + "\n"


@final
class PolicyServer:
    """Serves a planner.

    Args:
        planner: what is asked, in a thread of its own.
        host: address to listen on; the loopback address is reached from this machine alone.
        port: to listen on; 0 takes a free one.
        token: that clients have to name; None lets all in.
        most: requests in one batch.
    """

    def __init__(
        self, planner: Batched, host: str = "127.0.0.1", port: int = 8765, token: str | None = None, most: int = 64
    ) -> None:
        require(0 <= port < 2**16, f"port={port}", "0 to 65535")
        require(most >= 1, f"most={most}", "at least one request in a batch")
        require(token is None or token.strip(), "an empty token", "some characters, or none at all")
        self.planner, self.host, self.port, self.token, self.most = planner, host, port, token, most
        self.counts = Counts()
        self._waiting: asyncio.Queue[_Waiting] = asyncio.Queue()

    async def start(self) -> Server:
        """Listen, and return the server of websockets; `port` is then the one that it listens on."""
        limit = message_limit(self.planner.metadata)
        self._task = asyncio.create_task(self._work())
        how = {"ping_interval": _SILENT, "ping_timeout": _SILENT, "process_request": self._http, "max_queue": 1}
        # No page in somebody's browser may ask: only what names no origin, as programs do.
        server = await serve(
            self._robot, self.host, self.port, max_size=limit, compression=None, origins=[None], **how
        )
        self.port = next(iter(server.sockets)).getsockname()[1]
        return server

    async def run(self, ready: asyncio.Event | None = None) -> None:
        """Serve until it is cancelled."""
        async with await self.start() as server:
            if ready is not None:
                ready.set()
            listening = asyncio.create_task(server.serve_forever())
            try:
                done, _ = await asyncio.wait({listening, self._task}, return_when=asyncio.FIRST_COMPLETED)
                for one in done:
                    one.result()  # neither ends by itself
            finally:
                listening.cancel()
                self._task.cancel()

    def _http(self, connection: ServerConnection, request: Request) -> Response | None:
        """Answer what is no WebSocket, and refuse who may not come in."""
        path = request.path.partition("?")[0]
        if path == "/health":
            if self._task.done():
                return connection.respond(http.HTTPStatus.SERVICE_UNAVAILABLE, "planning has ended\n")
            return connection.respond(http.HTTPStatus.OK, "ok\n")
        if not self._may(request):
            self.counts.refused["token"] += 1
            return connection.respond(http.HTTPStatus.UNAUTHORIZED, "wrong or missing token\n")
        if path == "/metrics":
            return connection.respond(http.HTTPStatus.OK, self.counts.text())
        if request.headers.get("Upgrade", "").lower() != "websocket":
            return connection.respond(http.HTTPStatus.NOT_FOUND, "a WebSocket, /health and /metrics are here\n")
        return None

    def _may(self, request: Request) -> bool:
        if self.token is None:
            return True
        given = request.headers.get("Authorization", "").removeprefix("Bearer ")
        return hmac.compare_digest(given.encode(), self.token.encode())

    async def _robot(self, connection: ServerConnection) -> None:
        """One robot, from its first to its last message, one request at a time."""
        self.counts.connections += 1
        self.counts.connected += 1
        try:
            await connection.send(pack(hello(self.planner.metadata)))
            async for data in connection:
                await self._answer(connection, data)
        except ConnectionClosed:
            pass
        finally:
            self.counts.connected -= 1

    async def _answer(self, connection: ServerConnection, data: Any) -> None:
        number = None
        try:
            message = unpack(data)
            number = message.get("id")
            ask = asked(message, self.planner.metadata)
            one = _Waiting(ask, asyncio.get_running_loop().create_future())
            await self._waiting.put(one)
            reply = answer(await one.future, number)
        except WireError as error:
            self.counts.refused["message"] += 1
            reply = {"type": "error", "id": number if type(number) is int else None, "says": str(error)}
        except Exception as error:  # of the policy: the others are served on
            self.counts.refused["planning"] += 1
            reply = {"type": "error", "id": number, "says": f"{type(error).__name__}: {error}"}
        # Whoever does not read what is sent is let go, so that nothing piles up here.
        async with asyncio.timeout(_SILENT):
            await connection.send(pack(reply))

    async def _work(self) -> None:
        """Answer what waits, batch after batch."""
        loop = asyncio.get_running_loop()
        with ThreadPoolExecutor(1, "policy") as executor:
            while True:
                batch = [await self._waiting.get()]
                while len(batch) < self.most and not self._waiting.empty():
                    batch.append(self._waiting.get_nowait())
                began = time.perf_counter()
                await self._plan(loop, executor, batch)
                self.counts.seconds += time.perf_counter() - began

    async def _plan(
        self, loop: asyncio.AbstractEventLoop, executor: ThreadPoolExecutor, batch: Sequence[_Waiting]
    ) -> None:
        try:
            plans = await loop.run_in_executor(executor, self.planner.plan_all, [one.ask for one in batch])
            answers = list(zip(batch, plans, strict=True))
        except Exception as error:
            if len(batch) == 1:
                with contextlib.suppress(asyncio.InvalidStateError):
                    batch[0].future.set_exception(error)
                return
            for one in batch:  # to find whose it was
                await self._plan(loop, executor, [one])
            return
        self.counts.batches += 1
        self.counts.chunks += len(plans)
        for one, plan in answers:
            if not one.future.done():
                one.future.set_result(plan)
