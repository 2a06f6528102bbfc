"""Exports of real logs, and short ways to read, change, sign and verify their lines in tests."""

from __future__ import annotations

import base64
import json
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from auditverify.report import Report
from auditverify.verify import Anchors, verify_lines
from cellward.audit.checkpoint import Checkpoint, log_origin, parse_checkpoint, sign_checkpoint
from cellward.audit.tree import leaf_hash, root_of
from hub.audit.service import AuditLog
from hub.store.log import AuditEvent
from tests.fakes.audit_writer import REALM, AuditWriter

KEY = Ed25519PrivateKey.generate()

SPKI = KEY.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)

OTHER = Ed25519PrivateKey.generate()

OTHER_SPKI = OTHER.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)

Lines = list[dict[str, Any]]


async def fill(log: AuditLog) -> list[AuditWriter]:
    """Write a log with two agents, the hub, a new epoch, and views of the log in records."""
    writers = [AuditWriter(1), AuditWriter(2)]
    for turn in range(3):
        for writer in writers:
            ack = await log.ingest(writer.cluster, writer.uid, writer.spki, writer.batch(4))
            seen = parse_checkpoint(ack.checkpoint)[0]
            writer.view = (seen.size, "sha256:" + seen.root.hex())
        await log.append(AuditEvent("alice", "document.upload", f"Release//r{turn}", "done"))
    writers[0].new_epoch()
    await log.ingest(writers[0].cluster, writers[0].uid, writers[0].spki, writers[0].batch(2))
    return writers


async def export_of(log: AuditLog) -> bytes:
    """Return the whole export."""
    parts: list[bytes] = []

    async def write(data: bytes) -> None:
        parts.append(data)

    await log.export(write)
    return b"".join(parts)


class Exported:
    """An export and who wrote into it."""

    def __init__(self, data: bytes, writers: list[AuditWriter]) -> None:
        self.data = data
        self.writers = writers

    def lines(self) -> Lines:
        """Return fresh copies of the lines."""
        return [json.loads(line) for line in self.data.splitlines()]


def dump(lines: Lines) -> bytes:
    """Write lines as the exporter does."""
    return b"".join(json.dumps(line, separators=(",", ":")).encode() + b"\n" for line in lines)


def check(lines: Lines | bytes, **options: Any) -> Report:
    """Verify with the hub's key, and with what else is known."""
    data = lines if isinstance(lines, bytes) else dump(lines)
    anchors = Anchors(**{key: options.pop(key) for key in ("endorsed", "checkpoints", "witnesses") if key in options})
    return verify_lines(data.splitlines(keepends=True), **{"hub_key": SPKI, "anchors": anchors, **options})


def records(lines: Lines) -> list[int]:
    """Return the numbers of the record lines."""
    return [number for number, line in enumerate(lines) if "record" in line]


def body(line: dict[str, Any]) -> dict[str, Any]:
    """Return the record in a line."""
    value: dict[str, Any] = json.loads(base64.b64decode(line["record"]))
    return value


def put(line: dict[str, Any], value: dict[str, Any]) -> None:
    """Put a record into a line, canonical."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    line["record"] = base64.b64encode(text.encode()).decode()


def renumber(lines: Lines) -> None:
    """Give record lines the indices they would have."""
    for index, number in enumerate(records(lines)):
        lines[number]["index"] = index


def resign(lines: Lines, key: Ed25519PrivateKey = KEY) -> None:
    """Sign a new checkpoint over whatever is there: the hub's key is stolen."""
    leaves = [leaf_hash(base64.b64decode(lines[number]["record"])) for number in records(lines)]
    note = sign_checkpoint(Checkpoint(log_origin(REALM), len(leaves), root_of(leaves)), key)
    lines[-1] = {"checkpoint": base64.b64encode(note).decode()}


def statement_of(lines: Lines, writer: AuditWriter) -> int:
    """Return where the last statement of a writer is."""
    return max(n for n, line in enumerate(lines) if line.get("origin") == writer.origin and "envelope" in line)


def codes(report: Report) -> set[str]:
    """Return the codes of the problems."""
    return {problem.code for problem in report.problems}
