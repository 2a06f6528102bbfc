"""A hub that never ends an answer keeps no command for ever, and fills no memory (V16)."""

from __future__ import annotations

import base64
import fcntl
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cellward.api import schemas
from cellward.errors import CellwardError
from cellward.identity import contexts, keys
from cellward.runtime.clock import SystemClock
from cli.commands import app
from cli.door import bounds, client, pages
from cli.door.client import Client, Profile
from hub.authority.authority import Authority
from tests.fakes.live_api import hub_keys

_OK = b"HTTP/1.1 200 OK\r\n"


@contextmanager
def raw_hub(directory: Path, write: Callable[[socket.socket], None]) -> Iterator[Client]:
    """A client of a server that sends what it likes, once a request has come."""
    made = hub_keys()
    leaf = Authority(made, SystemClock(), lambda: None).issue_hub(dns=["localhost"], ips=["127.0.0.1"])
    (directory / "ca.pem").write_bytes(made.hub_ca.pem)
    context = contexts.server_context(leaf.chain_pem, leaf.key_pem)
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        try:
            with listener.accept()[0] as plain, context.wrap_socket(plain, server_side=True) as connection:
                connection.recv(65536)
                write(connection)
        except OSError:
            return

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield Client(Profile(f"https://127.0.0.1:{listener.getsockname()[1]}", directory / "ca.pem", "t"), timeout=2)
    finally:
        listener.close()
        thread.join(10)
        assert not thread.is_alive()


def _endless(start: bytes, piece: bytes, pause: float = 0.0) -> Callable[[socket.socket], None]:
    def write(connection: socket.socket) -> None:
        connection.sendall(start)
        while True:
            connection.sendall(piece)
            time.sleep(pause)

    return write


@pytest.mark.parametrize(
    "write",
    [
        pytest.param(_endless(_OK + b"Content-Length: 100000\r\n\r\n", b" ", 0.1), id="a body that drips"),
        pytest.param(_endless(_OK, b"X-A: b\r\n", 0.1), id="headers that drip"),
        pytest.param(_endless(b"", b"HTTP/1.1 100 Continue\r\n\r\n", 0.05), id="continue, for ever"),
        pytest.param(_endless(b"HTTP/1.1 500 No\r\n\r\n", b" ", 0.1), id="an error that drips"),
    ],
)
def test_v16_a_dripping_answer_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Callable[[socket.socket], None]
) -> None:
    """Each byte comes in time, the answer never ends: the command does."""
    monkeypatch.setattr(bounds, "PATIENCE", 1.0)
    began = time.monotonic()
    with raw_hub(tmp_path, write) as hub, pytest.raises(CellwardError) as raised:
        hub.get("/whoami", schemas.WhoAmI)
    assert raised.value.code == "cli/hub-unreachable"
    assert time.monotonic() - began < 8


@pytest.mark.parametrize(
    "start", [b"\r\n", b"Transfer-Encoding: chunked\r\n\r\n-1\r\n"], ids=["no length", "chunk of -1"]
)
def test_v16_an_endless_answer_fills_no_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, start: bytes) -> None:
    """A chunk that calls itself ``-1`` long made the standard library read to the end, which never came."""
    monkeypatch.setattr(client, "MAX_ANSWER", 1024**2)
    monkeypatch.setattr(bounds, "PATIENCE", 20.0)
    with raw_hub(tmp_path, _endless(_OK + start, b" " * 65536)) as hub, pytest.raises(CellwardError) as raised:
        hub.get("/whoami", schemas.WhoAmI)
    assert raised.value.code in {"cli/hub-unreachable", "cli/bad-answer"}
    assert "larger than" in raised.value.message


def test_v16_a_chunk_below_nothing_is_a_broken_answer(tmp_path: Path) -> None:
    """Not a mistake of the command."""

    def write(connection: socket.socket) -> None:
        connection.sendall(_OK + b"Transfer-Encoding: chunked\r\n\r\n-5\r\n")

    with raw_hub(tmp_path, write) as hub, pytest.raises(CellwardError) as raised:
        list(hub.lines("/audit/export"))
    assert raised.value.code == "cli/hub-unreachable"


def test_v16_a_list_is_walked_for_a_bounded_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Always another page, each with a new cursor."""
    monkeypatch.setattr(pages, "MAX_SECONDS", 0.05)
    names = iter(range(10**6))

    def ask(cursor: str) -> schemas.ClusterList:
        time.sleep(0.01)
        return schemas.ClusterList(items=[], next_cursor=f"after-{next(names)}")

    with pytest.raises(CellwardError) as raised:
        list(pages.every(ask))
    assert raised.value.code == "cli/bad-answer"
    assert next(names) < 50


def test_v16_a_witness_does_not_wait_for_one_that_a_hub_holds_up(tmp_path: Path) -> None:
    """The other one is reading an export, for as long as its hub likes."""
    key = base64.b64encode(keys.spki_of(hub_keys().tree_head)).decode()
    words = ["audit", "witness", str(tmp_path), str(tmp_path / "x"), "--hub-key", key, "--home", str(tmp_path / "home")]
    with (tmp_path / ".lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        result = CliRunner().invoke(app, words)
    assert "[cli/state-busy]" in result.stderr
