"""A hub that may answer anything: a real server with real TLS, in front of a real hub that it asks for the truth.

It holds what a hub holds: the CA, the timestamp key, the tree-head key, the store. In *forwarding* it is that hub. In
*lying* nothing reaches the hub any more: each request gets the truthful answer of a moment that was recorded, changed
by the next lie; when there are no lies left, the truth.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import http.client
import io
import json
import os
import re
import ssl
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from unittest import mock
from urllib.parse import urlsplit

from cellward.identity import contexts
from cellward.policy.trust import realm_of
from cellward.runtime.clock import SystemClock
from cli.door import bounds
from cli.door.client import Client
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


@dataclass(repr=False)
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
    #: The moment that counts as the present while lying; None is the newest, and what it lacks is asked for then.
    present: dict[Asked, Answer] | None = None
    #: Answers to what changes something, from truthful runs.
    posted: dict[Asked, Answer] = field(default_factory=dict)
    _everything: list[Answer] = field(default_factory=list)
    _alike: dict[str, dict[Answer, None]] = field(default_factory=dict)

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
        if asked == ("POST", "/v1/trust/root") and self.present is not None:
            # The realm is what is adopted: no recorded answer fits a root that was made a moment ago.
            realm = realm_of(base64.b64decode(json.loads(body)["root"]))
            truth = Answer(truth.status, json.dumps({**truth.json(), "realm": realm}).encode())
        if self.always is not None:
            truth = self.always(self, asked, truth)
        return self.lies.pop(0)(self, asked, truth) if self.lies else truth

    def truth(self, asked: Asked, moment: int | None = None) -> Answer:
        """What an honest hub answers at a moment, None for the present."""
        if asked[0] != "GET":
            return self.posted.get(asked) or _NOT_FOUND
        known = self.moments[-1 if moment is None else moment]
        if self.present is not None:
            # Nobody is asked any more: what was never asked for while the hub was true, it does not have.
            return (self.present if moment is None else known).get(asked, _NOT_FOUND)
        if asked not in known:
            # Only the present can still be asked; a past that nobody recorded had no such thing.
            known[asked] = self._ask(asked, b"") if known is self.moments[-1] else _NOT_FOUND
        return known[asked]

    def everything(self) -> list[Answer]:
        """Every answer of every moment, each once."""
        if not self._everything:
            answers = [*self.posted.values(), *(one for moment in self.moments for one in moment.values())]
            self._everything = list(dict.fromkeys(answers))
        return self._everything

    def alike(self, asked: Asked) -> list[Answer]:
        """Every answer of every moment to a question of the same form: another document, another cell, another time."""
        if not self._alike:
            for moment in (self.posted, *self.moments):
                for question, answer in moment.items():
                    self._alike.setdefault(_form(question), {})[answer] = None
        return list(self._alike.get(_form(asked), ()))

    def record(self) -> None:
        """Keep the truth of this moment, for everything that was ever asked and for every document there is."""
        listed = self._ask(("GET", "/v1/documents?limit=500"), b"").json()["items"]
        for item in listed:
            self.seen[("GET", f"/v1/documents/{item['digest']}")] = None
        self.moments.append({asked: self._ask(asked, b"") for asked in list(self.seen)})
        self._everything, self._alike = [], {}

    @contextlib.contextmanager
    def known_until(self, moment: int) -> Iterator[None]:
        """Forget for a while what came after a moment."""
        moments, self.moments = self.moments, self.moments[: moment + 1]
        self._everything, self._alike = [], {}
        try:
            yield
        finally:
            self.moments = moments
            self._everything, self._alike = [], {}

    def start_lying(self, lies: Sequence[Lie] = (), present: dict[Asked, Answer] | None = None) -> None:
        """From now on nothing is true any more but by accident."""
        self.lying, self.lies, self.received, self.always = True, list(lies), [], None
        self.present = present

    def stop_lying(self) -> None:
        """Be the real hub again."""
        self.lying, self.lies, self.always, self.present = False, [], None, None

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


def _form(asked: Asked) -> str:
    """What kind of question it is: the method, and the path with placeholders for whatever it is about."""
    path = asked[1].partition("?")[0]
    return f"{asked[0]} {re.sub(r'(?<=[^/])/[^/]+', '/*', path.removeprefix('/v1'))}"


class _Wire:
    """A socket whose other end is the hub itself; it hands over one request and takes one answer."""

    def __init__(self, hub: LyingHub) -> None:
        self._hub = hub
        self._sent = bytearray()

    def sendall(self, data: bytes) -> None:
        self._sent += data

    def makefile(self, _mode: str, buffering: int = 0) -> io.BytesIO:
        head, _, body = bytes(self._sent).partition(b"\r\n\r\n")
        method, target, _ = head.split(b"\r\n", 1)[0].decode().split(" ")
        answer = self._hub.answer((method, target), body)
        if not answer.status:
            return io.BytesIO()
        fields = f"HTTP/1.1 {answer.status} as told\r\nContent-Type: application/json\r\nConnection: close\r\n"
        return io.BytesIO(f"{fields}Content-Length: {len(answer.body)}\r\n\r\n".encode() + answer.body)

    def settimeout(self, _: float) -> None:
        """Nothing is waited for."""

    def close(self) -> None:
        """There is nothing to close."""


@contextlib.contextmanager
def without_network(hub: LyingHub) -> Iterator[None]:
    """Let commands reach the hub without sockets, TLS and the disk's own pace: all else is what they always do.

    For properties, which pay for each of these ten thousand times; TLS and silence have tests of their own.
    """

    def connect(self: Any) -> None:
        self.sock = bounds._Socket(_Wire(hub), 30.0, self._most)  # type: ignore[arg-type]

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    with (
        mock.patch.object(bounds.BoundedConnection, "connect", connect),
        mock.patch.object(Client, "_tls", return_value=context),
        mock.patch.object(os, "fsync", return_value=None),
    ):
        yield


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
