"""The admin API over one kept connection: invitations for a whole fleet, uploads that are timed."""

from __future__ import annotations

import ssl
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import aiohttp


class Admin:
    """An asynchronous client of one hub's API; use as a context."""

    def __init__(self, address: str, ca_file: Path, token: str) -> None:
        self._base = f"https://{address}/v1"
        self._ca_file = ca_file
        self._headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        context = ssl.create_default_context(cafile=str(self._ca_file))
        connector = aiohttp.TCPConnector(ssl=context, limit=8)
        self._session = aiohttp.ClientSession(
            connector=connector, headers=self._headers, timeout=aiohttp.ClientTimeout(total=300)
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()

    async def post(self, path: str, body: bytes) -> Any:
        """POST a JSON body; raises RuntimeError with the hub's words for a refusal."""
        return await self._ask("POST", path, body)

    async def get(self, path: str) -> Any:
        """GET a resource."""
        return await self._ask("GET", path, None)

    async def connected(self) -> int:
        """How many agents have an open link, as the hub says."""
        return int((await self.get("/status"))["connected"])

    async def _ask(self, method: str, path: str, body: bytes | None) -> Any:
        if self._session is None:
            raise RuntimeError("use it as a context")
        async with self._session.request(method, self._base + path, data=body) as answer:
            if answer.status >= 300:
                raise RuntimeError(f"{method} {path}: {answer.status} {(await answer.text())[:400]}")
            return await answer.json()
