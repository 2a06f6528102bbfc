"""A hub that may answer anything: a real server with real TLS, in front of a real hub that it asks for the truth.

It holds what a hub holds: the CA, the timestamp key, the tree-head key, the store. In *forwarding* it is that hub. In
*lying* nothing reaches the hub any more: each request gets the truthful answer of a moment that was recorded, changed
by the next lie; when there are no lies left, the truth.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import ssl
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from cellward.identity import contexts
from cellward.runtime.clock import SystemClock
from hub.authority.authority import Authority
from tests.fakes.live_api import TOKENS, LiveApi, live_api


@dataclass(frozen=True, slots=True)
class Answer:
    """Status and body; status 0 closes the connection without a word."""

    status: int
    body: bytes

    def json(self) -> Any:
        """The body as JSON, None for none."""
        try:
            return json.loads(self.body)
        except ValueError:
            return None


#: A request as a key of what was recorded: method and target.
Asked = tuple[str, str]
#: What a lie makes of a request and its truthful answer, with everything recorded at hand.
Lie = Callable[["LyingHub", Asked, Answer], Answer]
_NOT_FOUND = Answer(404, b'{"code": "api/not-found", "title": "", "detail": "there is no such thing", "hint": ""}')


@dataclass
class LyingHub:
    """The harness; ``moments`` are recorded truths, oldest first, and ``seen`` everything a client asked."""

    real: LiveApi
    loop: asyncio.AbstractEventLoop
    port: int = 0
    ca_file: Path = Path()
    moments: list[dict[Asked, Answer]] = field(default_factory=list)
    #: What was uploaded to it while lying.
    received: list[tuple[Asked, bytes]] = field(default_factory=list)
    seen: dict[Asked, None] = field(default_factory=dict)
    lies: list[Lie] = field(default_factory=list)
    #: What is made of every answer; before the lies, which are for one answer each.
    always: Lie | None = None
    lying: bool = False
    #: Answers to what changes something, from truthful runs.
    posted: dict[Asked, Answer] = field(default_factory=dict)

    @property
    def server(self) -> str:
        """Address of the API."""
        return f"https://127.0.0.1:{self.port}"

    def run(self, work: Any) -> Any:
        """Run a coroutine of the real hub."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(60)

    def answer(self, asked: Asked, body: bytes) -> Answer:
        """Answer one request."""
        if not self.lying:
            found = self._ask(asked, body)
            if asked[0] == "GET":
                self.seen[asked] = None
            else:
                self.posted[asked] = found
            return found
        self.received.append((asked, body))
        truth = self.truth(asked)
        if self.always is not None:
            truth = self.always(self, asked, truth)
        return self.lies.pop(0)(self, asked, truth) if self.lies else truth

    def truth(self, asked: Asked, moment: int = -1) -> Answer:
        """What an honest hub answers at a moment."""
        if asked[0] != "GET":
            return self.posted.get(asked) or _NOT_FOUND
        known = self.moments[moment]
        if asked not in known:
            # Only the present can still be asked; a past that nobody recorded had no such thing.
            known[asked] = self._ask(asked, b"") if known is self.moments[-1] else _NOT_FOUND
        return known[asked]

    def record(self) -> None:
        """Keep the truth of this moment, for everything that was ever asked and for every document there is."""
        listed = self._ask(("GET", "/v1/documents?limit=500"), b"").json()["items"]
        for item in listed:
            self.seen[("GET", f"/v1/documents/{item['digest']}")] = None
        self.moments.append({asked: self._ask(asked, b"") for asked in list(self.seen)})

    def start_lying(self, lies: Sequence[Lie] = ()) -> None:
        """From now on nothing is true any more but by accident."""
        self.lying, self.lies, self.received, self.always = True, list(lies), [], None

    def stop_lying(self) -> None:
        """Be the real hub again."""
        self.lying, self.lies, self.always = False, [], None

    def _ask(self, asked: Asked, body: bytes) -> Answer:
        parts = urlsplit(self.real.server)
        context = ssl.create_default_context(cadata=self.real.ca_pem.decode())
        connection = http.client.HTTPSConnection(parts.hostname or "", parts.port, timeout=30, context=context)
        headers = {"Authorization": f"Bearer {TOKENS['admin']}", "Content-Type": "application/json"}
        try:
            connection.request(asked[0], asked[1], body or None, headers)
            response = connection.getresponse()
            return Answer(response.status, response.read())
        finally:
            connection.close()


@contextlib.contextmanager
def lying_hub(directory: Path) -> Iterator[LyingHub]:
    """Run the real hub in a thread, and the harness in front of it, until the context ends."""
    loop, ready, done = asyncio.new_event_loop(), threading.Event(), asyncio.Event()
    found: list[LiveApi] = []

    async def serve() -> None:
        async with live_api(directory) as api:
            found.append(api)
            ready.set()
            await done.wait()

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()), daemon=True)
    thread.start()
    assert ready.wait(60), "the hub did not start"
    hub = LyingHub(found[0], loop)
    server = _server(hub)
    hub.port = server.server_address[1]
    hub.ca_file = directory / "hub-ca.pem"
    hub.ca_file.write_bytes(found[0].ca_pem)
    front = threading.Thread(target=lambda: server.serve_forever(0.05), daemon=True)
    front.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        front.join(30)
        loop.call_soon_threadsafe(done.set)
        thread.join(30)
        loop.close()


def _server(hub: LyingHub) -> ThreadingHTTPServer:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _do(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            answer = hub.answer((self.command, self.path), body)
            self.close_connection = True
            if not answer.status:
                return
            self.send_response(answer.status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(answer.body)))
            self.send_header("Connection", "close")
            self.end_headers()
            with contextlib.suppress(OSError):
                self.wfile.write(answer.body)

        do_GET = do_POST = do_DELETE = _do  # noqa: N815 - the names that http.server looks for

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_: object) -> None:
            """A client that went away is none."""

    leaf = Authority(hub.real.keys, SystemClock(), lambda: None).issue_hub(dns=["localhost"], ips=["127.0.0.1"])
    server = Server(("127.0.0.1", 0), Handler)
    server.socket = contexts.server_context(leaf.chain_pem, leaf.key_pem).wrap_socket(server.socket, server_side=True)
    return server
