"""Connections to API servers: kept while the server keeps them; no request is sent twice."""

from __future__ import annotations

import http.server
import select
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from cellward.errors import CellwardError
from tests.fakes.pki import Pki
from tools.stack import connections
from tools.stack.api import ApiClient


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    #: What was asked, with the client's port: each connection has one of its own.
    asked: list[tuple[str, int]]

    def do_GET(self) -> None:
        """Answer, and close the connection as the path says."""
        self.asked.append((self.path, self.client_address[1]))
        if self.path == "/none":
            self.close_connection = True
            return
        self.send_response(200)
        self.send_header("Content-Length", "2")
        if self.path == "/last":
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(b"{}")
        self.close_connection |= self.path == "/then-closed"

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def asked() -> list[tuple[str, int]]:
    """What the server was asked."""
    return []


@pytest.fixture
def client(tmp_path: Path, asked: list[tuple[str, int]]) -> Iterator[ApiClient]:
    """Return a client of a small server."""
    pki = Pki.make(tmp_path / "pki", shape="strict")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(pki.certificate, pki.key)
    handler = type("Handler", (_Handler,), {"asked": asked})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield ApiClient("127.0.0.1", server.server_address[1], pki.ca)
        finally:
            connections.forget(server.server_address[1])
            server.shutdown()
            thread.join()


def test_requests_share_a_connection(client: ApiClient, asked: list[tuple[str, int]]) -> None:
    """Whatever token they show; one that was forgotten is not used again."""
    assert all(one.request("GET", "/kept").ok for one in (client, client.with_token("t"), client))
    assert len({port for _, port in asked}) == 1
    connections.forget(client.port)
    assert client.request("GET", "/kept").ok
    assert len({port for _, port in asked}) == 2


@pytest.mark.parametrize("path", ["/last", "/then-closed"])
def test_a_connection_that_the_server_closes_is_not_used_again(
    client: ApiClient, asked: list[tuple[str, int]], path: str
) -> None:
    """Said in the answer, or done without a word: the next request has one of its own."""
    for _ in range(3):
        assert client.request("GET", path).ok
        # The goodbye comes a moment after the answer.
        for kept in connections.idle(client.port):
            assert select.select([kept.sock], [], [], 30)[0]
    assert len({port for _, port in asked}) == len(asked) == 3


def test_a_request_without_an_answer_is_not_sent_again(client: ApiClient, asked: list[tuple[str, int]]) -> None:
    """Who asked must know that it may have been done."""
    assert client.request("GET", "/kept").ok
    with pytest.raises(CellwardError) as caught:
        client.request("GET", "/none")
    assert caught.value.code == "stack/api-unreachable"
    assert [path for path, _ in asked] == ["/kept", "/none"]
    assert client.request("GET", "/kept").ok
