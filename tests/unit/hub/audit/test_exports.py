"""Exports taken while agents push: each belongs to one moment and verifies, whatever is repeated meanwhile."""

from __future__ import annotations

import asyncio
import random
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from auditverify.verify import Anchors, verify_lines
from cellward.audit.checkpoint import parse_checkpoint
from cellward.errors import CellwardError
from hub.audit.model import AuditAckOut, AuditBatchIn
from hub.audit.service import AuditLog
from hub.store.interfaces import Store
from tests.fakes.audit_writer import REALM, AuditWriter
from tests.fakes.clock import ManualClock
from tests.fakes.store import scratch_store

KEY = Ed25519PrivateKey.generate()
SPKI = KEY.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


@pytest.fixture
def store() -> Store:
    """Give an empty store."""
    return scratch_store(ManualClock())


async def export_of(log: AuditLog) -> bytes:
    """Return a whole export; other tasks get their turn between its pieces."""
    parts: list[bytes] = []

    async def write(data: bytes) -> None:
        parts.append(data)
        await asyncio.sleep(0)

    await log.export(write)
    return b"".join(parts)


async def sent(log: AuditLog, writer: AuditWriter, batch: AuditBatchIn) -> AuditAckOut:
    """Send until it is answered: a process that never gets between another's transactions says so."""
    while True:
        try:
            return await log.ingest(writer.cluster, writer.uid, writer.spki, batch)
        except CellwardError as error:
            if error.code != "store/moved":
                raise


async def push(logs: list[AuditLog], writer: AuditWriter, chance: random.Random) -> None:
    """Push like an agent that loses acknowledgements: some batches come again, some with newer records behind."""
    last: AuditBatchIn | None = None
    for turn in range(12):
        if turn == 7 and chance.random() < 0.5:
            writer.new_epoch()
            last = None
        new = writer.batch(chance.randint(1, 9))
        cut = chance.randint(1, len(new.records))
        head = replace(new, records=new.records[:cut], checkpoint=writer.statement(new.first_seq + cut - 1,
                       new.records[cut - 1]))  # fmt: skip
        for batch in (head, last, new, head, new):
            if batch is not None:
                ack = await sent(chance.choice(logs), writer, batch)
                assert not ack.refused_code
        seen = parse_checkpoint(ack.checkpoint)[0]
        writer.view = (seen.size, "sha256:" + seen.root.hex())
        last = new


async def test_v13_every_export_taken_during_traffic_verifies(store: Store) -> None:
    """Several agents, two processes, repeats and overlaps: no moment exists in which a record lacks its statement."""
    logs = [AuditLog(store.audit, KEY, lambda: REALM, ManualClock()) for _ in range(2)]
    writers = [AuditWriter(number) for number in range(5)]
    pushing = asyncio.gather(*(push(logs, writer, random.Random(n)) for n, writer in enumerate(writers)))
    exports: list[bytes] = []
    while not pushing.done():
        exports.append(await export_of(logs[len(exports) % 2]))
    await pushing
    exports.append(await export_of(logs[0]))
    assert len(exports) > 5
    for data in exports:
        report = verify_lines(data.splitlines(keepends=True), hub_key=SPKI)
        assert report.problems == []
        assert report.consistent
    keys = [writer.spki for writer in writers]
    report = verify_lines(exports[-1].splitlines(keepends=True), hub_key=SPKI, anchors=Anchors(keys))
    assert {item.verdict for item in report.origins.values() if item.origin != "hub"} == {"endorsed"}


async def test_repeats_of_an_ended_epoch_keep_the_statement_of_its_key(store: Store) -> None:
    """A new epoch has a new statement key: what comes again of the old epoch is signed by the old one in the export."""
    log, writer = AuditLog(store.audit, KEY, lambda: REALM, ManualClock()), AuditWriter(1)
    first, old_key = writer.batch(3), writer.spki
    await log.ingest(writer.cluster, writer.uid, writer.spki, first)
    records = first.records
    writer.signer = AuditWriter(1).signer
    again = replace(first, checkpoint=writer.statement(3, records[2]))
    writer.new_epoch()
    await log.ingest(writer.cluster, writer.uid, writer.spki, writer.batch(2))
    assert (await log.ingest(writer.cluster, writer.uid, writer.spki, again)).seq == 3
    data = await export_of(log)
    report = verify_lines(data.splitlines(keepends=True), hub_key=SPKI, anchors=Anchors([old_key, writer.spki]))
    assert (report.problems, report.statements) == ([], 2)
    (chain,) = [chain for chain in (await store.audit.snapshot()).chains if chain.epoch == 1 and chain.uid]
    assert chain.checkpoint == first.checkpoint
