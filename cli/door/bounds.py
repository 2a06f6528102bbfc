"""Bounds on one exchange with a hub, below HTTP: how long it may take in all, and how many bytes may come.

A timeout of a socket bounds only the silence between two bytes, and HTTP itself has no bound on how often a server says
``100 Continue`` or how large a chunk calls itself. Invariant: whatever comes, reading ends within ``PATIENCE`` and the
time that what came takes at ``SLOWEST``, and after ``most`` bytes.
"""

from __future__ import annotations

import http.client
import io
import socket
import ssl
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing_extensions import Buffer

#: Seconds of an exchange that are free, and bytes a second below which a hub counts as unreachable after them.
PATIENCE, SLOWEST = 60.0, 256 * 1024


class BoundedConnection(http.client.HTTPSConnection):
    """One connection for one request."""

    def __init__(self, host: str, port: int, *, timeout: float, context: ssl.SSLContext, most: int) -> None:
        super().__init__(host, port, timeout=timeout, context=context)
        self._most = most

    def connect(self) -> None:
        """Connect; what is read from then on is bounded."""
        super().connect()
        self.sock = _Socket(self.sock, self.timeout or PATIENCE, self._most)


class _Socket:
    """What ``http.client`` uses of a socket."""

    def __init__(self, inner: socket.socket, silence: float, most: int) -> None:
        self._inner = inner
        self._silence = silence
        self._most = most

    def sendall(self, data: Buffer) -> None:
        self._inner.sendall(data)

    def makefile(self, _mode: str) -> io.BufferedReader:
        raw = self._inner.makefile("rb", buffering=0)
        return io.BufferedReader(_Metered(raw, self._inner.settimeout, self._silence, self._most))

    def close(self) -> None:
        self._inner.close()


class _Metered(io.RawIOBase):
    def __init__(self, inner: io.RawIOBase, wait: Callable[[float], None], silence: float, most: int) -> None:
        super().__init__()
        self._inner = inner
        self._wait = wait
        self._silence = silence
        self._most = most
        self._got = 0
        self._began = time.monotonic()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Buffer) -> int | None:
        left = self._began + PATIENCE + self._got / SLOWEST - time.monotonic()
        if left <= 0:
            raise TimeoutError("the answer comes too slowly")
        self._wait(min(self._silence, left))
        count = self._inner.readinto(buffer)
        self._got += count or 0
        if self._got > self._most:
            raise OSError(f"the answer is larger than {self._most} bytes")
        return count

    def close(self) -> None:
        self._inner.close()
        super().close()
