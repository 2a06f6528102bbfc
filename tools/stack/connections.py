"""TLS connections to API servers, kept open between requests: a handshake costs both sides more than a request.

No request is ever sent twice: a connection that the server closed meanwhile is seen to be closed before it is used.
"""

from __future__ import annotations

import atexit
import http.client
import select
import ssl
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Final

#: Idle connections to one server as one caller; a thread more than that makes one of its own each time.
_MOST_IDLE: Final = 4
_LOCK: Final = threading.Lock()
_IDLE: Final[dict[Peer, list[http.client.HTTPSConnection]]] = {}


@dataclass(frozen=True, slots=True)
class Peer:
    """Which server, and who one is to it by certificate.

    Attributes:
        host: where it listens.
        port: its port.
        ca: file with the CA to trust.
        pair: client certificate and key, or None.
    """

    host: str
    port: int
    ca: Path
    pair: tuple[Path, Path] | None

    def take(self, timeout: float) -> http.client.HTTPSConnection:
        """Return a connection for one request; give it back, or close it."""
        while (kept := self._idle()) is not None:
            if not _is_closed(kept):
                kept.sock.settimeout(timeout)
                return kept
            kept.close()
        return http.client.HTTPSConnection(self.host, self.port, timeout=timeout, context=self._context())

    def give(self, connection: http.client.HTTPSConnection) -> None:
        """Keep a connection whose answer was read to its end; one that the server closes after it is not kept."""
        with _LOCK:
            kept = _IDLE.setdefault(self, [])
            if connection.sock is not None and len(kept) < _MOST_IDLE:
                kept.append(connection)
                return
        connection.close()

    def _idle(self) -> http.client.HTTPSConnection | None:
        with _LOCK:
            kept = _IDLE.get(self)
            return kept.pop() if kept else None

    def _context(self) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=str(self.ca))
        if self.pair is not None:
            context.load_cert_chain(*self.pair)
        return context


def _is_closed(connection: http.client.HTTPSConnection) -> bool:
    """Whether the server said something unasked, which is its goodbye."""
    poll = select.poll()
    poll.register(connection.sock, select.POLLIN)
    return bool(poll.poll(0))


def idle(port: int) -> list[http.client.HTTPSConnection]:
    """Return the idle connections to a server."""
    with _LOCK:
        return [one for peer, kept in _IDLE.items() if peer.port == port for one in kept]


def forget(port: int | None = None) -> None:
    """Close the idle connections to a server that ends, or all."""
    with _LOCK:
        gone = [_IDLE.pop(peer) for peer in list(_IDLE) if port in {None, peer.port}]
    for connection in (one for kept in gone for one in kept):
        connection.close()


atexit.register(forget)
