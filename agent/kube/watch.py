"""One watch that lasts: initial list by bookmark, resume from the last version, fresh start on 410, full jitter.

The library's own loop is not usable here: it asks for no bookmarks and after five minutes resumes a quiet kind with a
version the API server has forgotten. A resourceVersion from the future would hang quietly, so a version is only ever
reused while the same server sent it on this loop, and a watch that stays silent past the server's own end is cut.
"""

from __future__ import annotations

import json
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, Final

import aiohttp
import structlog

from agent.kube.answers import error_of
from agent.kube.errors import KUBE_BAD_CERTIFICATE, KUBE_NOT_FOUND, KUBE_UNAVAILABLE
from agent.kube.interfaces import WatchEvent, WatchType
from agent.kube.kinds import KindInfo
from agent.kube.tls import NETWORK_ERRORS, network_error
from cellward.errors import CellwardError
from cellward.runtime.backoff import FullJitter
from cellward.runtime.clock import Timer

_log = structlog.get_logger()

#: The API server is asked to end a watch between these many seconds; spread, so that watches do not end in step.
END_AFTER_SECONDS: Final = (240, 360)
#: How much longer than that a silent connection is believed in.
_GRACE_SECONDS: Final = 30.0
#: Longest single event; etcd keeps no object above about 1.5 MB, managedFields and encoding come on top.
_MAX_LINE: Final = 16 * 1024 * 1024
_INITIAL_END: Final = "k8s.io/initial-events-end"
_GONE: Final = 410
_CONNECTION_LOST: Final = (KUBE_UNAVAILABLE.code, KUBE_BAD_CERTIFICATE.code)

#: A connection that ends sooner than this counts as a failure, or a server that is going down would be asked in a loop.
_SHORT_SECONDS: Final = 1.0

#: Opens the stream for a query; the number is the total time limit in seconds.
OpenStream = Callable[[Mapping[str, str], float], Awaitable[aiohttp.ClientResponse]]


class WatchLoop:
    """The life of one watch."""

    def __init__(self, info: KindInfo, open_stream: OpenStream, timer: Timer, rng: random.Random | None = None) -> None:
        self._info = info
        self._open = open_stream
        self._timer = timer
        self._rng = rng if rng is not None else random.SystemRandom()
        self._version = ""
        self._backoff = FullJitter(0.2, 15.0, rng)

    async def events(self) -> AsyncIterator[WatchEvent]:
        """Yield events for ever; ends only by cancellation."""
        while True:
            if not self._version:
                yield WatchEvent(WatchType.RESTARTED, {})
            begun = self._timer.monotonic()
            try:
                async for event in self._one_connection():
                    yield event
                if self._timer.monotonic() - begun < _SHORT_SECONDS:
                    raise KUBE_UNAVAILABLE(f"watch {self._info.kind}: the server ended it at once")
            except CellwardError as error:
                self._forget_unless_transient(error)
                if error.code != KUBE_NOT_FOUND.code:  # a kind that may be there and is not
                    _log.info("watch-interrupted", kind=self._info.kind, code=error.code, reason=error.message)
                yield WatchEvent(WatchType.INTERRUPTED, {}, error.message, error.code)
                await self._backoff.wait(self._timer)

    async def _one_connection(self) -> AsyncIterator[WatchEvent]:
        seconds = self._rng.randint(*END_AFTER_SECONDS)
        query = {"watch": "true", "allowWatchBookmarks": "true", "timeoutSeconds": str(seconds)}
        if self._version:
            query["resourceVersion"] = self._version
        else:
            query["sendInitialEvents"] = "true"
            query["resourceVersionMatch"] = "NotOlderThan"
        what = f"watch {self._info.kind}"
        response: aiohttp.ClientResponse | None = None
        try:
            # The limit is the HTTP client's own: asyncio.timeout around a yield would cancel whoever consumes us.
            response = await self._open(query, seconds + _GRACE_SECONDS)
            if self._version:
                yield WatchEvent(WatchType.RESUMED, {})
            async for line in _lines(response):
                event = self._read(json.loads(line), what)
                if event is not None:
                    yield event
        except (*NETWORK_ERRORS, ValueError) as error:
            raise network_error(what, error) from error
        finally:
            if response is not None:
                response.close()

    def _read(self, frame: Mapping[str, Any], what: str) -> WatchEvent | None:
        kind, obj = str(frame.get("type")), frame.get("object") or {}
        if kind == "ERROR":
            raise _as_error(obj, what)
        version = str(obj.get("metadata", {}).get("resourceVersion", ""))
        synced = kind == "BOOKMARK" and _INITIAL_END in (obj["metadata"].get("annotations") or {})
        if kind == "BOOKMARK":
            # Before the end of the initial list no version stands for all of it.
            self._version = version if synced or self._version else ""
            if not synced:
                return None
            self._backoff.reset()
            return WatchEvent(WatchType.SYNCED, {})
        if self._version:
            self._version = version
            self._backoff.reset()
        return WatchEvent(WatchType[kind], {"apiVersion": self._info.api_version, "kind": self._info.kind, **obj})

    def _forget_unless_transient(self, error: CellwardError) -> None:
        """Keep the version only when the connection was lost; any other answer means: list again."""
        if error.code not in _CONNECTION_LOST or error.details.get("status") == str(_GONE):
            self._version = ""


def _as_error(obj: Mapping[str, Any], what: str) -> CellwardError:
    code = int(obj.get("code") or 0)
    if code == _GONE:
        return KUBE_UNAVAILABLE(f"{what}: the version is too old, listing again", status=code)
    return error_of(code or 500, obj, what)


async def _lines(response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    """Split the body into lines; the library's reader refuses lines above its buffer."""
    pending = bytearray()
    async for data in response.content.iter_any():
        pending += data
        while (end := pending.find(b"\n")) >= 0:
            yield bytes(pending[:end])
            del pending[: end + 1]
        if len(pending) > _MAX_LINE:
            raise ValueError(f"an event is longer than {_MAX_LINE} bytes")
