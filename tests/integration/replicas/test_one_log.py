"""Two hubs append to one log at once and both sign its heads: every head is of one and the same log (V13, ADR 0027)."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from auditverify.verify import verify_lines
from cellward.audit.checkpoint import Checkpoint, log_origin, verify_checkpoint
from cellward.audit.tree import leaf_hash, root_of, verify_consistency
from hub.audit.service import AuditLog
from hub.store.log import AuditEvent
from hub.store.sql.store import open_store
from tests.fakes.audit_writer import REALM, AuditWriter
from tests.fakes.postgres import Server
from tests.unit.hub.audit.logs import SPKI, make_log, send

ROUNDS = 12


async def _agent(number: int, log: AuditLog, heads: list[Checkpoint]) -> None:
    """Send batches to one hub, each with what was seen of the log before; check what it proves."""
    writer, known = AuditWriter(number), Checkpoint(log_origin(REALM), 0, root_of([]))
    for size in range(1, ROUNDS + 1):
        ack = await send(log, writer, writer.batch(size % 5 + 1, known=known.size))
        assert not ack.refused_code, ack
        head = verify_checkpoint(ack.checkpoint, log_origin(REALM), SPKI)
        if known.size:
            verify_consistency(known.size, head.size, known.root, head.root, tuple(ack.consistency))
        known = head
        heads.append(head)


async def _people(name: str, log: AuditLog, heads: list[Checkpoint]) -> None:
    """Do what is recorded on one hub, and ask it for the head in between."""
    for number in range(ROUNDS):
        await log.append(AuditEvent("ada", "lock.set", f"Cluster//{name}-{number}", "done"))
        heads.append(verify_checkpoint((await log.head()).note, log_origin(REALM), SPKI))


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
async def test_v13_heads_that_two_hubs_sign_at_once_are_of_one_log(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """V13: each head is a beginning of the log that both end with, so no two differ; and all of it verifies."""
    url = f"sqlite:///{tmp_path / 'hub.db'}"
    if kind == "postgresql":
        server: Server = request.getfixturevalue("postgres")
        url = await server.new()
    async with AsyncExitStack() as stack:
        stores = [await open_store(url) for _ in range(2)]
        for store in stores:
            stack.push_async_callback(store.close)
        logs, heads = [make_log(store.audit) for store in stores], list[Checkpoint]()
        agents = (_agent(number + 1, logs[number % 2], heads) for number in range(4))
        await asyncio.gather(*agents, *(_people(name, log, heads) for name, log in zip("ab", logs, strict=True)))
        assert all(log.commits for log in logs), "both of them have written"
        rows = await stores[0].audit.records(0, 10_000)
        leaves = [leaf_hash(row.record) for row in rows]
        assert len(leaves) == 4 * sum(size % 5 + 1 for size in range(1, ROUNDS + 1)) + 2 * ROUNDS
        for head in heads:
            assert head.root == root_of(leaves[: head.size]), f"the head of {head.size} is of another log"
        last = [await log.head() for log in logs]
        assert last[0].note == last[1].note
        parts: list[bytes] = []

        async def write(data: bytes) -> None:
            parts.append(data)

        await logs[1].export(write)
    report = verify_lines(b"".join(parts).splitlines(keepends=True), hub_key=SPKI)
    assert report.problems == []
