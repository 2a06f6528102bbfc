"""Looks for damage of the log with its own hashes: records, what their rows say of them, tiles, chains, the root.

A database tells of pages that do not fit together, and of nothing that was flipped inside of a value. The log can tell:
every record is hashed into a tile, every tile into the one above, and the root is kept with the size. Invariant: all of
it is recomputed from the records and compared; nothing here writes.
"""

from __future__ import annotations

import asyncio
import json
import time as clock
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Final

from cellward.audit.record import cell_named, record_digest
from cellward.audit.statement import verify_statement
from cellward.audit.tree import HASH_SIZE, leaf_hash
from cellward.errors import CellwardError
from hub.audit.tree import WIDTH, Edge, LogTree
from hub.store.errors import DAMAGED
from hub.store.log import AuditChain, AuditEntry, AuditStore, TileKey

#: Records at the end of the log that every start looks at; about a tenth of a second.
RECENT: Final = 4096
#: Records read at once, a multiple of a tile's.
PAGE: Final = 4 * WIDTH


async def verify_log(store: AuditStore, realm: str, last: int | None = None) -> None:
    """Compare the log as it is now with its hashes; with ``last`` only about that many records at its end.

    Raises store/damaged, naming the first thing that does not fit.
    """
    snapshot = await store.snapshot()
    start = 0 if last is None else max(0, snapshot.size - last) // WIDTH * WIDTH
    edge = await LogTree(store).load_edge(start)
    for at in range(start, snapshot.size, PAGE):
        began, end = clock.monotonic(), min(at + PAGE, snapshot.size)
        edge = await _page(store, edge, at, end, snapshot.pruned)
        if last is None:
            # Whoever is served meanwhile has at least as much of the time.
            await asyncio.sleep(min(clock.monotonic() - began, 1.0))
    if snapshot.root and edge.root() != snapshot.root:
        raise DAMAGED(f"the root kept with the audit log is not that of its {snapshot.size} records")
    if last is None:
        for chain in snapshot.chains:
            await _verify_chain(store, realm, chain)


async def verify_span(store: AuditStore, start: int, end: int) -> None:
    """Compare records that are here, from the first of a tile to the last of one, with their hashes.

    Raises store/damaged, naming the first thing that does not fit.
    """
    edge = await LogTree(store).load_edge(start)
    for at in range(start, end, PAGE):
        edge = await _page(store, edge, at, min(at + PAGE, end), 0)


async def _page(store: AuditStore, edge: Edge, start: int, end: int, pruned: int) -> Edge:
    """Compare one page, and return the edge after it; of what was pruned the hashes of the records are all there is."""
    kept = max(start, min(pruned, end))
    if kept > start:
        keys = [TileKey(0, number) for number in range(start // WIDTH, kept // WIDTH)]
        stored = await store.tiles(keys)
        edge, tiles = edge.grow(hashes for key in keys for hashes in _hashes(key, stored.get(key, b"")))
        _compare(await store.tiles(list(tiles)), tiles)
    if kept < end:
        entries = await store.entries(kept, end)
        # In a thread, and one page at a time: agents are served meanwhile.
        edge, tiles = await asyncio.to_thread(_grown, edge, kept, end, entries)
        _compare(await store.tiles(list(tiles)), tiles)
    return edge


def _hashes(key: TileKey, tile: bytes) -> Sequence[bytes]:
    if len(tile) != WIDTH * HASH_SIZE:
        raise DAMAGED(f"tile {key.number} of level 0 of the audit log is not whole")
    return [tile[at : at + HASH_SIZE] for at in range(0, len(tile), HASH_SIZE)]


def _grown(edge: Edge, start: int, end: int, entries: Sequence[AuditEntry]) -> tuple[Edge, dict[TileKey, bytes]]:
    if [entry.index for entry in entries] != list(range(start, end)):
        missing = set(range(start, end)) - {entry.index for entry in entries}
        raise DAMAGED(f"record {min(missing, default=start)} of the audit log is missing")
    grown, tiles = edge.grow(leaf_hash(entry.record) for entry in entries)
    for entry in entries:
        _verify_row(entry)
    return grown, tiles


_FILED: Final = ("origin", "epoch", "seq", "action", "decision")


def _verify_row(entry: AuditEntry) -> None:
    """Compare what a row says of its record with the record.

    The record was checked when it was taken, and its hash says that it is the same: it is only read here.
    """
    try:
        body = json.loads(entry.record)
        time = datetime.fromisoformat(body["time"])
        # What the certificate said of the cluster; a record may leave it out.
        filed = [body[name] for name in _FILED] + [body["cluster"] or entry.cluster]
        filed += cell_named(body["object"], body["details"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DAMAGED(f"record {entry.index} of the audit log cannot be read") from error
    # Rows of the hub's own records had microseconds that the record has not.
    late = (entry.time - time).total_seconds()
    row = [entry.origin, entry.epoch, entry.seq, entry.action, entry.decision, entry.cluster, entry.project, entry.cell]
    if filed != row or not 0 <= late < 0.001:
        raise DAMAGED(f"record {entry.index} of the audit log is filed as something else")


def _compare(stored: Mapping[TileKey, bytes], made: Mapping[TileKey, bytes]) -> None:
    for key, hashes in made.items():
        found = stored.get(key, b"")[: len(hashes)]
        if found == hashes:
            continue
        wrong = next((at for at in range(0, len(hashes), 32) if found[at : at + 32] != hashes[at : at + 32]), 0) // 32
        first = (key.number * WIDTH + wrong) << 8 * key.level
        raise DAMAGED(f"record {first} of the audit log, or its hash in level {key.level}, is not what was written")


async def _verify_chain(store: AuditStore, realm: str, chain: AuditChain) -> None:
    """Compare where a chain stands with its last record, and with what its writer signed."""
    name = f"epoch {chain.epoch} of {chain.origin}"
    if chain.seq:
        rows = await store.chain_records(chain.origin, chain.epoch, chain.seq, chain.seq)
        if [record_digest(row.record) if row.record else chain.head for row in rows] != [chain.head]:
            raise DAMAGED(f"the head kept of {name} is not its record {chain.seq}")
    if not (realm and chain.checkpoint):
        return
    try:
        statement = verify_statement(chain.checkpoint, realm, chain.uid, chain.statement_spki)
    except CellwardError as error:
        raise DAMAGED(f"the statement kept of {name} does not hold: {error.message}") from error
    if (statement.epoch, statement.seq) != (chain.epoch, chain.checkpoint_seq):
        raise DAMAGED(f"the statement kept of {name} is about something else")
