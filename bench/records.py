"""What a long audit log costs: a hub whose log has a million records of a thousand agents.

Real: the hub as a process, its database on disk, start, pages and the export over the admin API. The records are real
ones, chained, with the statements of their writers, but nobody pushed them: they go through the store's own append in
large batches, while no hub runs.
"""

from __future__ import annotations

import asyncio
import ssl
import sys
import time
import uuid
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.client import HTTPSConnection
from pathlib import Path

from bench.admin import Admin
from bench.installation import Installation, installation
from bench.numbers import Row, percentile
from bench.procfs import usage
from cellward.audit.chain import ChainState, extend
from cellward.audit.record import Record, cell_of, encode_record
from cellward.audit.statement import sign_statement
from cellward.audit.tree import leaf_hash
from cellward.documents.dsse import Ed25519Signer
from hub.audit.damage import verify_log
from hub.audit.tree import LogTree
from hub.documents.realm import RealmService
from hub.store.log import AuditAppend, AuditChain, AuditEntry
from hub.store.sql.store import SqlStore, open_store
from tools.stack.steps import drive

_AGENTS = 1000
#: Records of one agent that stand side by side, and of one transaction.
_RUN, _BATCH = 8, 8192
_START = datetime(2026, 1, 1, tzinfo=UTC)
#: Timed pages, each of the newest and of somewhere else.
_TIMES = 100
_PIECE = 1024**2


@dataclass(slots=True)
class _Writer:
    """An agent's chain."""

    cluster: str
    uid: str
    signer: Ed25519Signer = field(default_factory=Ed25519Signer.generate)
    state: ChainState = field(default_factory=lambda: ChainState(1))

    @property
    def origin(self) -> str:
        return f"agent:{self.uid}"

    def entry(self, realm: str, index: int) -> AuditEntry:
        """Write its next record."""
        record = Record(
            realm=realm,
            origin=self.origin,
            cluster=self.cluster,
            epoch=1,
            seq=self.state.seq + 1,
            prev=self.state.head,
            time=_START + timedelta(milliseconds=index * 10),
            actor=f"spiffe://bench/agent/{self.cluster}",
            action="cell.apply",
            object=f"Deployment/shop--cart-{index % 50}--prod/web",
            decision="done",
            reason="the released state was applied",
            correlation_id=f"bench-{index}",
            revision=self.state.seq,
            details={"project": "shop", "cell": f"cart-{index % 50}", "durationMs": str(index % 997)},
        )
        data = encode_record(record)
        self.state = extend(self.state, data)
        project, cell = cell_of(record)
        return AuditEntry(
            index, data, self.origin, 1, record.seq, record.time, self.cluster, record.action, "done", project, cell
        )

    def chain(self, realm: str) -> AuditChain:
        """Sign where it stands."""
        state = self.state
        statement = sign_statement(realm, self.uid, state, self.signer)
        spki = self.signer.public_spki_der
        return AuditChain(self.origin, 1, state.seq, state.head, self.uid, self.cluster, spki, statement, state.seq)


def run(records: int, *, sample: Path | None = None) -> list[Row]:
    """Measure a hub with an almost empty log, fill it, and measure it again; returns the rows."""
    with installation(sample=sample) as hub:
        return _measure(hub, records)


def _measure(hub: Installation, records: int) -> list[Row]:
    hub.start()
    hub.set_up()
    drive(hub.stop())
    empty, idle, base = _restart(hub)
    drive(hub.stop())
    _say(f"{records} records")
    began = time.monotonic()
    asyncio.run(_fill(hub.directory / "hub" / "hub.db", records))
    filled = time.monotonic() - began
    began = time.monotonic()
    asyncio.run(_verify(hub.directory / "hub" / "hub.db"))
    verified = time.monotonic() - began
    started, cpu, rss = _restart(hub)
    newest, older = asyncio.run(_pages(hub, records))
    size, seconds, peak = _export(hub)
    note = f"{records} records of {_AGENTS} agents"
    return [
        Row("records_fill", "records appended, each", filled * 1e6 / records, "µs", note=f"{_BATCH} at a time"),
        Row("records_start", "hub start until its API answers", started, "s", 3, note=f"{note}; {cpu:.2f} s of CPU"),
        Row("records_start_empty", "with an almost empty log", empty, "s", note=f"{idle:.2f} s of CPU"),
        Row("records_rss", "hub RSS above that of an empty log", rss - base, "MB"),
        Row("records_tail_p50", "newest 100 records, p50", percentile(newest, 0.5), "ms"),
        Row("records_tail_p99", "newest 100 records, p99", percentile(newest, 0.99), "ms", 200),
        Row("records_page_p99", "100 records from anywhere, p99", percentile(older, 0.99), "ms", 200),
        Row("records_export", "export of all of it", seconds, "s", note=f"{size / 1e6:.0f} MB"),
        Row("records_export_rss", "hub RSS at its most while exporting, above before", peak, "MB", 30),
        Row("records_verify", "the log compared with its hashes", verified, "s", note="after each start, and daily"),
    ]


def _restart(hub: Installation) -> tuple[float, float, float]:
    """Seconds until the API answers, CPU seconds, and MB."""
    began = time.monotonic()
    hub.start()
    seconds = time.monotonic() - began
    used = usage(hub.pid)
    return seconds, used.cpu, used.rss


async def _fill(database: Path, records: int) -> None:
    store = await open_store(f"sqlite:///{database}")
    try:
        known = await RealmService(store.meta).current()
        if known is None:
            raise RuntimeError("the hub has no realm")
        await _append(store, known.realm, records)
    finally:
        await store.close()


async def _append(store: SqlStore, realm: str, records: int) -> None:
    writers = [_Writer(f"bench-{number}", str(uuid.uuid4())) for number in range(_AGENTS)]
    size = await store.audit.size()
    edge = await LogTree(store.audit).load_edge(size)
    end = size + records
    while size < end:
        indexes = range(size, min(size + _BATCH, end))
        entries = [writers[index // _RUN % _AGENTS].entry(realm, index) for index in indexes]
        edge, tiles = edge.grow(leaf_hash(entry.record) for entry in entries)
        chains = [writer.chain(realm) for writer in writers if writer.state.seq] if edge.size == end else []
        await store.audit.append(AuditAppend(size, entries, chains, tiles, root=edge.root()))
        size = edge.size


async def _verify(database: Path) -> None:
    store = await open_store(f"sqlite:///{database}")
    try:
        known = await RealmService(store.meta).current()
        await verify_log(store.audit, known.realm if known is not None else "")
    finally:
        await store.close()


async def _pages(hub: Installation, records: int) -> tuple[list[float], list[float]]:
    """Milliseconds of pages of the newest, and of elsewhere."""
    newest: list[float] = []
    older: list[float] = []
    async with Admin(hub.api_address, hub.ca_file, hub.token_file.read_text().strip()) as admin:
        await admin.get("/status")
        for number in range(_TIMES):
            for times, query in ((newest, "newest=true"), (older, f"cursor={number * records // _TIMES}")):
                began = time.monotonic()
                page = await admin.get(f"/audit/records?limit=100&{query}")
                times.append((time.monotonic() - began) * 1000)
                if len(page["items"]) != 100:
                    raise RuntimeError(f"a page has {len(page['items'])} records")
    return newest, older


def _export(hub: Installation) -> tuple[int, float, float]:
    """Bytes, seconds, and by how many MB the hub grew at most meanwhile."""
    host, _, port = hub.api_address.rpartition(":")
    context = ssl.create_default_context(cafile=str(hub.ca_file))
    before = most = usage(hub.pid).rss
    began, size = time.monotonic(), 0
    connection = HTTPSConnection(host, int(port), context=context)
    try:
        token = hub.token_file.read_text().strip()
        connection.request("GET", "/v1/audit/export", headers={"Authorization": f"Bearer {token}"})
        answer = connection.getresponse()
        if answer.status != 200:
            raise RuntimeError(f"the export answers {answer.status}")
        last = b""
        while piece := answer.read(_PIECE):
            size, last = size + len(piece), (last + piece)[-4096:]
            most = max(most, usage(hub.pid).rss)
    finally:
        connection.close()
    if b'"checkpoint"' not in last:
        raise RuntimeError("the export was cut off")
    return size, time.monotonic() - began, most - before


def _say(text: str) -> None:
    sys.stderr.write(f"bench: {text}\n")
