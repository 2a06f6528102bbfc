"""Lets synchronous python-tuf, in a worker thread, fetch through the agent's asynchronous link."""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

from agent.policy.interfaces import ContentSource, FetchedSet
from cellward.policy.errors import UNREACHABLE
from cellward.policy.trust import digest_of

#: How long one fetch may take, seconds.
FETCH_DEADLINE = 60.0
#: Largest set taken in one piece, bytes; above it everything is fetched singly, with python-tuf's own bounds.
MAX_SET = 8 * 1024 * 1024
T = TypeVar("T")


class SourceFetch:
    """A :class:`cellward.policy.client.Fetch` over a :class:`ContentSource`; made on the loop, used in a thread.

    Where a client begins, by asking for the next root, everything it will ask for is fetched in one piece, if the hub
    can; it is no more trusted than what comes singly. ``snapshot_version`` is that of the set held, 0 for none.
    """

    def __init__(self, source: ContentSource, snapshot_version: int = 0, deadline: float = FETCH_DEADLINE) -> None:
        self._source = source
        self._snapshot_version = snapshot_version
        self._set: FetchedSet | None = None
        self._began = 0
        self._loop = asyncio.get_running_loop()
        self._deadline = deadline
        self._lock = threading.Lock()
        self._pending: concurrent.futures.Future[Any] | None = None
        self._cancelled = False

    def metadata(self, role: str, version: int | None, limit: int) -> bytes | None:
        """Return metadata of a role, the newest when ``version`` is None."""
        if role == "root" and version is not None and not self._began:
            self._began = version
            self._set = self._get(self._source.fetch_set(version - 1, self._snapshot_version, MAX_SET))
        if self._set is not None:
            data = _find(self._set, role, version)
            if data is not None and len(data) <= limit:
                return data
            if data is None and role == "root" and version is not None and version >= self._began:
                return None
        return self._get(self._source.fetch_tuf(role, version, limit))

    def target(self, digest: str, limit: int) -> bytes | None:
        """Return the target with a digest."""
        for data in self._set.targets if self._set is not None else ():
            if len(data) <= limit and digest_of(data) == digest:
                return data
        return self._get(self._source.fetch_digest(digest, limit))

    def cancel(self) -> None:
        """End the fetch in progress and refuse further ones, so that the thread returns."""
        with self._lock:
            self._cancelled = True
            if self._pending is not None:
                self._pending.cancel()

    def _get(self, fetch: Coroutine[Any, Any, T]) -> T:
        with self._lock:
            if self._cancelled:
                fetch.close()
                raise UNREACHABLE("the refresh was cancelled")
            future = asyncio.run_coroutine_threadsafe(fetch, self._loop)
            self._pending = future
        try:
            return future.result(self._deadline)
        except concurrent.futures.CancelledError as error:
            raise UNREACHABLE("the refresh was cancelled") from error
        except TimeoutError as error:
            future.cancel()
            raise UNREACHABLE(f"the hub did not answer within {self._deadline:.0f} s") from error


def _find(found: FetchedSet, role: str, version: int | None) -> bytes | None:
    if version is not None:
        return found.metadata.get((role, version))
    newest = max((number for name, number in found.metadata if name == role), default=0)
    return found.metadata.get((role, newest))
