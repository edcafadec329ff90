"""A policy behind a network, asked as one in this process is: `RealTimeRunner(robot, RemotePlanner(uri), rate)`.

It needs numpy, msgpack and websockets.
"""

from __future__ import annotations

import contextlib
import time
from dataclasses import replace
from typing import final

from websockets.exceptions import InvalidHandshake, WebSocketException
from websockets.sync.client import ClientConnection, connect

from .planning import Ask, Metadata, Plan, Planner
from .wire import WireError, answered, as_array, asking, check_observation, metadata_of, pack, unpack

_FIRST_WAIT, _LONGEST_WAIT = 0.1, 2.0  # seconds between attempts to reach a server that is away


@final
class RemotePlanner(Planner):
    """Asks a server of `diffpolicy serve`. A server that is away is tried again, less and less often.

    Args:
        uri: such as "ws://robot-lab:8765".
        token: that the server asks for.
        timeout: seconds to wait for the connection, and for each chunk.

    Raises:
        ConnectionError: no server there, or one that refuses.
        WireError: something else that answers, or another version.
    """

    def __init__(self, uri: str, token: str | None = None, timeout: float = 10.0) -> None:
        self.uri, self._token, self._timeout = uri, token, timeout
        self._socket: ClientConnection | None = None
        self._open = contextlib.ExitStack()
        self._number, self._wait, self._next = 0, _FIRST_WAIT, 0.0
        self.metadata: Metadata = self._connect()

    def plan(self, ask: Ask) -> Plan:
        """Return the next chunk.

        Raises:
            ConnectionError: the server is away, or did not answer in time.
            WireError: it does not take this observation, or has become another policy's.
        """
        ask = replace(ask, obs=[check_observation(as_array(obs), self.metadata) for obs in ask.obs])
        if self._socket is None:
            self._reconnect()
        self._number += 1
        try:
            assert self._socket is not None
            self._socket.send(pack(asking(ask, self._number)))
            while True:
                message = unpack(self._socket.recv(timeout=self._timeout))
                if message["type"] == "error" or message.get("id") == self._number:
                    return answered(message, self._number, self.metadata)
        except (WebSocketException, OSError, TimeoutError) as error:
            self.close()
            says = f"{type(error).__name__}: {error}".rstrip(": ")
            raise ConnectionError(f"{self.uri}: the server went away ({says})") from None

    def close(self) -> None:
        """End the connection."""
        self._socket = None
        with contextlib.suppress(WebSocketException, OSError, TimeoutError):
            self._open.close()

    def _reconnect(self) -> None:
        left = self._next - time.monotonic()
        if left > 0:
            time.sleep(min(left, self._timeout))
        try:
            metadata = self._connect()
            if metadata != self.metadata:
                self.close()
                raise WireError(f"{self.uri} is another policy's server now; start the robot's program anew")
        except (ConnectionError, WireError):
            self._next = time.monotonic() + self._wait
            self._wait = min(2 * self._wait, _LONGEST_WAIT)
            raise
        self._wait = _FIRST_WAIT

    def _connect(self) -> Metadata:
        headers = {"Authorization": f"Bearer {self._token}"} if self._token else {}
        how = {"additional_headers": headers, "open_timeout": self._timeout, "max_size": 2**26, "proxy": None}
        try:
            socket = self._open.enter_context(connect(self.uri, **how))
        except InvalidHandshake as error:
            says = f"{self.uri} refuses ({error}); is it a server of diffpolicy, and the token right?"
            raise ConnectionError(says) from None
        except (OSError, TimeoutError, WebSocketException) as error:
            raise ConnectionError(f"no server at {self.uri} ({type(error).__name__}: {error})") from None
        try:
            metadata = metadata_of(unpack(socket.recv(timeout=self._timeout)))
        except WireError:
            self.close()
            raise
        except (WebSocketException, OSError, TimeoutError) as error:
            self.close()
            raise ConnectionError(f"{self.uri} said nothing ({type(error).__name__})") from None
        self._socket = socket
        return metadata
