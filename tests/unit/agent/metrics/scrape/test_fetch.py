"""One page from one pod, whatever the pod does; real HTTP on loopback."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from agent.metrics.scrape.fetch import HttpPages
from tests.fakes.refusals import refused

_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n"


@asynccontextmanager
async def _pod(*answer: bytes, hangs: bool = False) -> AsyncIterator[tuple[int, list[bytes]]]:
    """Answer every request with some bytes; gives the port and what was asked."""
    asked: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            asked.append(await reader.readuntil(b"\r\n\r\n"))
            for part in answer:
                writer.write(part)
                await writer.drain()
            if hangs:
                await reader.read()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1], asked


@pytest.fixture
async def pages() -> AsyncIterator[HttpPages]:
    """Read with little patience, and no more than 10,000 bytes."""
    made = HttpPages(patience=0.5, most_bytes=10_000)
    yield made
    await made.close()


async def test_a_page_is_read_without_compression_and_without_a_proxy(
    pages: HttpPages, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the address itself, whatever the environment says of proxies; bytes that are no UTF-8 do no harm."""
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    async with _pod(_HEAD, b"Set-Cookie: a=b\r\n\r\nup_x 1\n\xff") as (port, asked):
        for _ in range(2):
            assert await pages.get("127.0.0.1", port, "/a path?x") == "up_x 1\n\ufffd"
    assert asked[0].startswith(b"GET /a%20path%3Fx HTTP/1.1\r\n")
    assert b"identity" in asked[0]
    assert b"Cookie" not in asked[1]


@pytest.mark.parametrize(
    "answer",
    [
        [b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\n\r\n"],
        [b"HTTP/1.1 500 Oh\r\n\r\n"],
        [_HEAD, b"Content-Encoding: gzip\r\n\r\n", gzip.compress(b"x" * 10_000_000)],
        [_HEAD, b"\r\n", *[b"x" * 9_000] * 3],
        [_HEAD, b"X: " + b"y" * 100_000 + b"\r\n\r\n"],
        [_HEAD, b"Content-Length: nothing\r\n\r\n"],
        [_HEAD, b"Transfer-Encoding: chunked\r\n\r\nzz\r\n"],
        [b"\x00\x01\x02"],
        [],
    ],
    ids=["redirect", "error", "gzip bomb", "too long", "long header", "length", "chunks", "noise", "nothing"],
)
async def test_v16_what_is_no_page_is_refused(pages: HttpPages, answer: list[bytes]) -> None:
    """With the code for it, whatever it is."""
    async with _pod(*answer) as (port, asked):
        with refused("agent/metrics-not-read"):
            await pages.get("127.0.0.1", port, "/metrics")
    assert {one.partition(b" HTTP")[0] for one in asked} == {b"GET /metrics"}, "no redirect is followed"


@pytest.mark.parametrize("answer", [[], [_HEAD], [_HEAD, b"\r\nup_x"]], ids=["at once", "headers", "body"])
async def test_v16_a_pod_that_hangs_is_given_up(pages: HttpPages, answer: list[bytes]) -> None:
    """Within the time for all of it."""
    async with _pod(*answer, hangs=True) as (port, _), asyncio.timeout(10):
        with refused("agent/metrics-not-read"):
            await pages.get("127.0.0.1", port, "/metrics")


async def test_a_pod_that_is_not_there_is_not_read(pages: HttpPages) -> None:
    """Nobody listens."""
    async with _pod() as (port, _):
        pass
    with refused("agent/metrics-not-read"):
        await pages.get("127.0.0.1", port, "/metrics")
