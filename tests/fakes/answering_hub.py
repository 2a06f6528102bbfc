"""A hub that answers whatever a test wants, over real TLS; it keeps no state and no promise."""

from __future__ import annotations

import http.server
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from cellward.identity import contexts
from cellward.runtime.clock import SystemClock
from cli.home import Home, Trust
from hub.authority.authority import Authority
from tests.fakes.live_api import hub_keys

#: Method and path (without the query) to status and body.
Answer = Callable[[str, str], tuple[int, bytes]]


@dataclass
class AnsweringHub:
    """Where it is, and what it answers; ``asked`` are the requests it saw."""

    server: str
    ca_pem: bytes
    answer: Answer
    asked: list[tuple[str, str]] = field(default_factory=list)

    def log_in(self, home: Path) -> None:
        """Make a home that is logged in here, as ``cellward login`` does."""
        place = Home(home)
        place.create()
        place.write("hub-ca.pem", self.ca_pem)
        place.write("token", b"admin-token\n")
        place.write("config.yaml", f"server: {self.server}\n".encode())


@contextmanager
def answering_hub(answer: Answer) -> Iterator[AnsweringHub]:
    """Run one on loopback until the context ends."""
    made = hub_keys()
    leaf = Authority(made, SystemClock(), lambda: None).issue_hub(dns=["localhost"], ips=["127.0.0.1"])
    server = _Server(("127.0.0.1", 0), _Handler)
    context: ssl.SSLContext = contexts.server_context(leaf.chain_pem, leaf.key_pem)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    hub = AnsweringHub(f"https://127.0.0.1:{server.server_address[1]}", made.hub_ca.pem, answer)
    server.hub = hub
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    hub: AnsweringHub


class _Handler(http.server.BaseHTTPRequestHandler):
    def _answer(self) -> None:
        assert isinstance(self.server, _Server)
        hub = self.server.hub
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = self.path.partition("?")[0]
        hub.asked.append((self.command, path))
        status, body = hub.answer(self.command, path)
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = do_DELETE = _answer  # noqa: N815 - names of the base

    def log_message(self, *args: object) -> None:
        """Stay silent."""


def plain_trust(home: Path) -> Trust:
    """A trust.yaml and root.json in a home: enough for what signs nothing."""
    place = Home(home)
    place.create()
    root = place.write("root.json", b'{"signed": {}}')
    trust = Trust(
        realm="sha256:" + "a" * 64,
        root_file=root,
        root_digest="sha256:" + "b" * 64,
        owner="ada",
        evaluation=True,
        tree_head_spki=b"key",
        image="registry.example/agent@sha256:" + "c" * 64,
    )
    place.write_trust(trust)
    return trust
