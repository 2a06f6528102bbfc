"""Lets synchronous python-tuf, in a worker thread, fetch through the agent's asynchronous link."""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from collections.abc import Coroutine
from typing import Any

from agent.policy.interfaces import ContentSource
from cellward.policy.errors import UNREACHABLE

#: How long one fetch may take, seconds.
FETCH_DEADLINE = 60.0


class SourceFetch:
    """A :class:`cellward.policy.client.Fetch` over a :class:`ContentSource`; made on the loop, used in a thread."""

    def __init__(self, source: ContentSource, deadline: float = FETCH_DEADLINE) -> None:
        self._source = source
        self._loop = asyncio.get_running_loop()
        self._deadline = deadline
        self._lock = threading.Lock()
        self._pending: concurrent.futures.Future[bytes | None] | None = None
        self._cancelled = False

    def metadata(self, role: str, version: int | None, limit: int) -> bytes | None:
        """Return metadata of a role, the newest when ``version`` is None."""
        return self._get(self._source.fetch_tuf(role, version, limit))

    def target(self, digest: str, limit: int) -> bytes | None:
        """Return the target with a digest."""
        return self._get(self._source.fetch_digest(digest, limit))

    def cancel(self) -> None:
        """End the fetch in progress and refuse further ones, so that the thread returns."""
        with self._lock:
            self._cancelled = True
            if self._pending is not None:
                self._pending.cancel()

    def _get(self, fetch: Coroutine[Any, Any, bytes | None]) -> bytes | None:
        with self._lock:
            if self._cancelled:
                fetch.close()
                raise UNREACHABLE("the refresh was cancelled")
            future = self._pending = asyncio.run_coroutine_threadsafe(fetch, self._loop)
        try:
            return future.result(self._deadline)
        except concurrent.futures.CancelledError as error:
            raise UNREACHABLE("the refresh was cancelled") from error
        except TimeoutError as error:
            future.cancel()
            raise UNREACHABLE(f"the hub did not answer within {self._deadline:.0f} s") from error
