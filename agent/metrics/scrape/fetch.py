"""One page of metrics from one pod, by HTTP.

The pod may answer anything or nothing. So: its own address and no other (no redirect, no proxy, no name to be
resolved), no cookies, no compression, a bounded body within a bounded time.
"""

from __future__ import annotations

import ipaddress
from typing import Final, Protocol

import aiohttp
from yarl import URL

from cellward.errors import Unavailable, define

UNREADABLE = define(
    "agent/metrics-not-read",
    Unavailable,
    "The metrics of a pod could not be read.",
    hint="See whether the program answers on the port and path that its release names under `scrape`.",
)
#: Largest page, bytes, and longest wait for all of it, seconds.
MOST_BYTES: Final = 1024 * 1024
PATIENCE: Final = 5.0
_ACCEPT: Final = {"Accept": "text/plain;version=0.0.4", "Accept-Encoding": "identity"}


class Pages(Protocol):
    """Gives the page of metrics of a pod."""

    async def get(self, address: str, port: int, path: str) -> str:
        """Return the page; raises agent/metrics-not-read."""
        ...

    async def close(self) -> None:
        """Close what is open."""
        ...


class HttpPages:
    """Satisfies ``Pages``; to be closed."""

    def __init__(self, *, patience: float = PATIENCE, most_bytes: int = MOST_BYTES) -> None:
        self._patience = patience
        self._most = most_bytes
        self._session: aiohttp.ClientSession | None = None

    async def get(self, address: str, port: int, path: str) -> str:
        """Return the page; raises agent/metrics-not-read."""
        url = URL.build(scheme="http", host=address, port=port, path=path)
        try:
            async with self._opened().get(url, headers=_ACCEPT, allow_redirects=False) as answer:
                if answer.status != 200:
                    raise UNREADABLE(f"{url} answers {answer.status}")
                if answer.headers.get("Content-Encoding", "identity") != "identity":
                    raise UNREADABLE(f"{url} answers in an encoding that was not asked for")
                body = bytearray()
                async for chunk in answer.content.iter_chunked(64 * 1024):
                    body += chunk
                    if len(body) > self._most:
                        raise UNREADABLE(f"{url} answers with more than {self._most} bytes")
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            raise UNREADABLE(f"{url}: {error or type(error).__name__}") from error
        return body.decode("utf-8", "replace")

    async def close(self) -> None:
        """Close what is open."""
        if self._session is not None:
            await self._session.close()

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                # No bound of its own: who waits for a place must not lose the time in which a pod may answer.
                connector=aiohttp.TCPConnector(limit=0, force_close=True),
                timeout=aiohttp.ClientTimeout(total=self._patience),
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                trust_env=False,
            )
        return self._session


def is_pod_address(address: object) -> bool:
    """Whether an address can be a pod's own: not one of this host, of a link, or of nobody."""
    try:
        found = ipaddress.ip_address(str(address))
    except ValueError:
        return False
    return not (found.is_loopback or found.is_link_local or found.is_multicast or found.is_unspecified)
