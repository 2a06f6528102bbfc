"""The hub's TUF repository: verifies uploads as a client would, stores them, signs the timestamp alone.

Seam: signatures are final, bodies follow.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncio

    from cellward.documents.dsse import Ed25519Signer
    from cellward.policy.publisher import Publication
    from cellward.runtime.clock import Clock
    from hub.store.interfaces import TufStore


@dataclass(frozen=True, slots=True)
class PublishResult:
    """Versions now served."""

    realm: str
    root_version: int
    targets_version: int
    keyring_version: int
    snapshot_version: int
    timestamp_version: int
    snapshot_expires: datetime


class TufRepository:
    """Serves policy metadata and content; the only key it holds signs the timestamp."""

    on_new_timestamp: list[Callable[[int], Awaitable[None]]]

    def __init__(
        self, store: TufStore, signer: Ed25519Signer, clock: Clock, *, realm: str | None = None
    ) -> None: ...

    async def publish(self, upload: Publication) -> PublishResult: ...
    async def renew_timestamp(self) -> int | None: ...
    async def run(self, stop: asyncio.Event) -> None: ...
    async def fetch(self, role: str, version: int | None) -> bytes | None: ...
    async def fetch_target(self, digest: str) -> bytes | None: ...
    async def status(self) -> PublishResult | None: ...
