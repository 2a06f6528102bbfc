"""The watch loop against scripted streams: bookmarks, 410, broken connections."""

from __future__ import annotations

import json
import random
from collections.abc import AsyncIterator, Mapping
from typing import Any

import aiohttp
import pytest

from agent.kube.answers import error_of
from agent.kube.errors import KUBE_FORBIDDEN
from agent.kube.interfaces import WatchEvent, WatchType
from agent.kube.kinds import kind_of
from agent.kube.watch import WatchLoop
from cellward.runtime.clock import SystemClock

_END = {"k8s.io/initial-events-end": "true"}


class Instant(SystemClock):
    """A clock on which every wait is over at once, and every connection lasted long."""

    def __init__(self) -> None:
        self.slept: list[float] = []
        self._time = 0.0

    def monotonic(self) -> float:
        """Two seconds later than the last time."""
        self._time += 2
        return self._time

    async def sleep(self, seconds: float) -> None:
        """Note the wait."""
        self.slept.append(seconds)


class Content:
    """Body of a scripted response."""

    def __init__(self, chunks: list[bytes | Exception]) -> None:
        self._chunks = chunks

    async def iter_any(self) -> AsyncIterator[bytes]:
        """Yield what the script says."""
        for chunk in self._chunks:
            if isinstance(chunk, Exception):
                raise chunk
            yield chunk


class Response:
    """A scripted response."""

    def __init__(self, *chunks: bytes | Exception) -> None:
        self.content = Content(list(chunks))
        self.closed = False

    def close(self) -> None:
        """Note it."""
        self.closed = True


def _frame(kind: str, version: str = "", **extra: Any) -> bytes:
    metadata = {"name": "x", "resourceVersion": version, **extra.pop("metadata", {})}
    return json.dumps({"type": kind, "object": {"metadata": metadata, **extra}}).encode() + b"\n"


class Script:
    """Answers each opening with the next response, and remembers the queries."""

    def __init__(self, *responses: Response | Exception) -> None:
        self.responses = list(responses)
        self.queries: list[dict[str, str]] = []
        self.clock = Instant()

    async def open(self, query: Mapping[str, str], seconds: float) -> Any:
        """Give the next response."""
        assert seconds > 240
        self.queries.append(dict(query))
        response = self.responses.pop(0) if self.responses else KUBE_FORBIDDEN("the script is over")
        if isinstance(response, Exception):
            raise response
        return response

    async def play(self, count: int) -> list[WatchEvent]:
        """Return so many events."""
        loop = WatchLoop(kind_of("v1", "ConfigMap"), self.open, self.clock, random.Random(1))
        events = loop.events()
        found = [await anext(events) for _ in range(count)]
        await events.aclose()  # type: ignore[attr-defined]
        return found


async def test_initial_list_ends_at_its_bookmark_and_resumes_from_it() -> None:
    """The second connection asks from the last version, without a new list."""
    first = Response(
        _frame("ADDED", "3"), _frame("BOOKMARK", "5", metadata={"annotations": _END}), _frame("MODIFIED", "6")
    )
    script = Script(first, Response(_frame("MODIFIED", "7")))
    events = await script.play(6)
    assert [event.type for event in events] == [
        WatchType.RESTARTED, WatchType.ADDED, WatchType.SYNCED, WatchType.MODIFIED,
        WatchType.RESUMED, WatchType.MODIFIED,
    ]  # fmt: skip
    assert script.queries[0]["sendInitialEvents"] == "true"
    assert script.queries[1]["resourceVersion"] == "6"
    assert "sendInitialEvents" not in script.queries[1]
    assert first.closed


async def test_version_before_the_end_of_the_list_is_never_reused() -> None:
    """A connection lost in the middle of the list starts the list again."""
    broken = Response(_frame("ADDED", "3"), aiohttp.ClientPayloadError("cut"))
    script = Script(broken, Response(_frame("BOOKMARK", "5", metadata={"annotations": _END})))
    events = await script.play(5)
    assert [event.type for event in events] == [
        WatchType.RESTARTED, WatchType.ADDED, WatchType.INTERRUPTED, WatchType.RESTARTED, WatchType.SYNCED,
    ]  # fmt: skip
    assert "resourceVersion" not in script.queries[1]


@pytest.mark.parametrize("gone", ["frame", "answer"])
async def test_gone_lists_again(gone: str) -> None:
    """410, in the stream or as an answer, makes a fresh start."""
    first = Response(_frame("BOOKMARK", "5", metadata={"annotations": _END}))
    if gone == "frame":
        second: Response | Exception = Response(_frame("ERROR", code=410, message="too old"))
    else:
        second = error_of(410, {"message": "too old"}, "watch")
    script = Script(first, second, Response(_frame("BOOKMARK", "9", metadata={"annotations": _END})))
    events = await script.play(6 if gone == "frame" else 5)
    assert [event.type for event in events][-2:] == [WatchType.RESTARTED, WatchType.SYNCED]
    assert script.queries[2].get("sendInitialEvents") == "true"


async def test_lost_connection_keeps_the_version_and_waits_longer_and_longer() -> None:
    """A refused connection costs nothing but time."""
    lost = [OSError("refused") for _ in range(6)]
    script = Script(Response(_frame("BOOKMARK", "5", metadata={"annotations": _END})), *lost)
    events = await script.play(8)
    assert [event.type for event in events[2:]] == [WatchType.INTERRUPTED] * 6
    assert all(query["resourceVersion"] == "5" for query in script.queries[1:])
    assert max(script.clock.slept) > 0.4


async def test_event_longer_than_any_buffer_arrives_whole() -> None:
    """Objects of a megabyte, cut into pieces anywhere."""
    frame = _frame("ADDED", "3", data={"a": "x" * 3_000_000})
    pieces: list[bytes | Exception] = [frame[i : i + 65_536] for i in range(0, len(frame), 65_536)]
    events = await Script(Response(*pieces)).play(2)
    assert len(events[1].object["data"]["a"]) == 3_000_000
    assert events[1].object["kind"] == "ConfigMap"


async def test_garbage_in_the_stream_is_an_interruption() -> None:
    """V16: half a frame does not end the watch."""
    events = await Script(Response(b"{not json\n")).play(2)
    assert events[1].type is WatchType.INTERRUPTED
