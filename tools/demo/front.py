"""A hub that lies to the command line: its own certificate in front of the real API, with other answers where it likes.

Made with the stolen keys, so that TLS gives the command line no hint. Every request is kept, as whoever holds the hub
would keep it, and passed on; a lie rewrites the answer as it returns.
"""

from __future__ import annotations

import http.client
import json
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from cellward.identity import contexts
from cellward.runtime.clock import SystemClock
from hub.authority.authority import Authority
from tools.demo.scenes.stolen_hub import Loot

#: Takes method, path without query, and the parsed answer; returns the answer to give instead.
Lie = Callable[[str, str, Any], Any]
_PASSED_ON = ("Authorization", "Content-Type", "Idempotency-Key", "If-Match", "Accept")


@dataclass
class Front:
    """Where the lying hub listens, and every body that it was sent.

    Attributes:
        address: host:port.
        kept: method, path and body of each request that had a body.
        lies: applied to each answer in order.
    """

    address: str
    kept: list[tuple[str, str, bytes]] = field(default_factory=list)
    lies: list[Lie] = field(default_factory=list)

    def signed(self) -> list[dict[str, Any]]:
        """Every signed envelope among what it was sent, wherever in the body it stood."""
        return [found for _, _, body in self.kept for found in _envelopes(_parsed(body))]


@contextmanager
def lying_front(loot: Loot, behind: str, ca_file: Path) -> Iterator[Front]:
    """Listen in front of the API at ``behind`` (host:port) until the end of the block."""
    leaf = Authority(loot.keys(), SystemClock(), lambda: None).issue_hub(ips=("127.0.0.1",))
    trusted = ssl.create_default_context(cafile=str(ca_file))
    trusted.check_hostname = False
    front = Front("")
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(front, behind, trusted))
    server.daemon_threads = True
    context = contexts.server_context(leaf.chain_pem, leaf.key_pem)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    front.address = f"127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, name="lying-front", daemon=True)
    thread.start()
    try:
        yield front
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _handler(front: Front, behind: str, trusted: ssl.SSLContext) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _serve(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if body:
                front.kept.append((self.command, self.path, body))
            connection = http.client.HTTPSConnection(behind, context=trusted, timeout=60)
            try:
                headers = {name: self.headers[name] for name in _PASSED_ON if name in self.headers}
                connection.request(self.command, self.path, body or None, headers)
                answer = connection.getresponse()
                self._answer(answer, answer.read())
            finally:
                connection.close()

        def _answer(self, answer: http.client.HTTPResponse, data: bytes) -> None:
            kind = answer.headers.get("Content-Type", "")
            if "json" in kind:
                value = json.loads(data)
                for lie in front.lies:
                    value = lie(self.command, urlsplit(self.path).path, value)
                data = json.dumps(value).encode()
            self.send_response(answer.status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _serve  # noqa: N815 - names http.server looks for

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name of the base class
            """Say nothing: the story is narrated elsewhere."""

    return Handler


def _parsed(body: bytes) -> Any:
    try:
        return json.loads(body)
    except ValueError:
        return None


def _envelopes(value: Any) -> Iterator[dict[str, Any]]:
    """Walk a body; base64 text that holds JSON is looked into as well, because that is how envelopes travel."""
    import base64
    import binascii

    if isinstance(value, dict):
        if value.get("signatures"):
            yield value
        for inner in value.values():
            yield from _envelopes(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _envelopes(inner)
    elif isinstance(value, str) and len(value) > 40:
        try:
            yield from _envelopes(_parsed(base64.b64decode(value, validate=True)))
        except (binascii.Error, ValueError):
            return
