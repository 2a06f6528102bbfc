"""The export: NDJSON that an auditor verifies without the hub (``auditverify``).

Lines: a header (format, realm, log origin, tree-head key, writers), one line per record with its exact bytes, the
newest statement of each chain, and last the signed checkpoint that covers exactly the records written. What is exported
belongs to one moment; the log may grow meanwhile. A log of which records were pruned begins with ``firstIndex``.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Awaitable, Callable
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from cellward.audit.checkpoint import log_origin
from hub.audit.errors import GONE
from hub.store.log import AuditSnapshot, AuditStore

FORMAT: Final = "cellward.audit-export/v1"
SEGMENT_FORMAT: Final = "cellward.audit-segment/v1"
#: Records read and written at once.
PAGE: Final = 500


async def write_export(
    store: AuditStore,
    snapshot: AuditSnapshot,
    realm: str,
    key: Ed25519PublicKey,
    note: bytes,
    write: Callable[[bytes], Awaitable[None]],
) -> None:
    """Write the log as it was at ``snapshot``, ended by ``note``, its signed checkpoint."""
    spki = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    header: dict[str, Any] = {
        "format": FORMAT,
        "realm": realm,
        "logOrigin": log_origin(realm),
        "treeHeadKey": _b64(spki),
        "origins": _origins(snapshot),
    }
    if snapshot.pruned:
        header["firstIndex"] = snapshot.pruned
    await write(_line(header))
    await _write_records(store, snapshot.pruned, snapshot.size, write)
    for chain in snapshot.chains:
        if chain.checkpoint:
            await write(_line({"origin": chain.origin, "envelope": _b64(chain.checkpoint)}))
    await write(_line({"checkpoint": _b64(note)}))


async def write_segment(
    store: AuditStore, realm: str, first: int, end: int, write: Callable[[bytes], Awaitable[None]]
) -> None:
    """Write one segment of the log: the same bytes whenever it is written, so its digest can be compared.

    Nothing in it is signed: an auditor gives it together with an export of what follows, whose checkpoint covers both.
    """
    header = {"format": SEGMENT_FORMAT, "realm": realm, "logOrigin": log_origin(realm), "first": first, "end": end}
    await write(_line(header))
    await _write_records(store, first, end, write)


async def _write_records(store: AuditStore, first: int, end: int, write: Callable[[bytes], Awaitable[None]]) -> None:
    while first < end:
        rows = await store.records(first, PAGE, end=end)
        if not rows or rows[0].index != first:
            raise GONE(f"record {first} was pruned meanwhile")
        await write(b"".join(_line({"index": row.index, "record": _b64(row.record)}) for row in rows))
        first = rows[-1].index + 1


def _origins(snapshot: AuditSnapshot) -> list[dict[str, str]]:
    """Return every writer with its key; one that changed its key in a new epoch comes once per key."""
    found: dict[tuple[str, bytes], dict[str, str]] = {}
    for chain in snapshot.chains:
        found[chain.origin, chain.statement_spki] = {
            "origin": chain.origin,
            "uid": chain.uid,
            "cluster": chain.cluster,
            "statementSpki": _b64(chain.statement_spki),
        }
    return list(found.values())


def _line(value: dict[str, Any]) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=True).encode("ascii") + b"\n"


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")
