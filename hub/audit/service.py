"""The audit log. Seam: signatures are final, bodies follow."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from cellward.runtime.clock import Clock
    from hub.audit.model import AuditAckOut, AuditBatchIn, IndexedRecord, SignedHead
    from hub.store.interfaces import AuditFilter, AuditStore


class AuditLog:
    """``realm`` is asked each time and is empty before a root was adopted; the log's origin follows from it."""

    def __init__(
        self, store: AuditStore, tree_head_signer: Ed25519PrivateKey, realm: Callable[[], str], clock: Clock
    ) -> None: ...

    @property
    def origin(self) -> str: ...

    async def ingest(self, cluster_name: str, uid: str, statement_spki: bytes, batch: AuditBatchIn) -> AuditAckOut: ...

    async def append_hub(
        self,
        actor: str,
        action: str,
        object: str,
        decision: str,
        *,
        cluster: str = "",
        code: str = "",
        reason: str = "",
        rule: str = "",
        correlation_id: str = "",
        revision: int = 0,
        details: Mapping[str, str] | None = None,
    ) -> int: ...

    async def record(
        self,
        action: str,
        object: str,
        decision: str,
        *,
        actor: str = "",
        code: str = "",
        reason: str = "",
        details: Mapping[str, str] | None = None,
        correlation_id: str = "",
    ) -> None: ...

    async def export(self, write: Callable[[bytes], Awaitable[None]]) -> None: ...

    async def tail(self, cursor: int, limit: int, filters: AuditFilter | None = None) -> tuple[IndexedRecord, ...]: ...

    async def head(self) -> SignedHead: ...
