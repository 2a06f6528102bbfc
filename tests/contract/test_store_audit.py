"""What every store promises of the log at rest."""

from __future__ import annotations

import pytest

from cellward.errors import CellwardError
from hub.store.interfaces import ReceiptRow, Store
from hub.store.log import AuditAppend, AuditChain, AuditEntry, AuditFilter, TileKey
from tests.contract.store_rows import KEY, NOW


def entry(index: int, seq: int, origin: str = "agent:u", cluster: str = "eu-1", decision: str = "done") -> AuditEntry:
    """Return a log entry."""
    return AuditEntry(
        index=index,
        record=b"record %d" % index,
        origin=origin,
        epoch=1,
        seq=seq,
        time=NOW,
        cluster=cluster,
        action="cell.apply" if index % 2 else "cell.decide",
        decision=decision,
        project="shop",
        cell="cart" if index < 3 else "web",
    )


class TestAudit:
    """The log at rest."""

    async def test_append_keeps_entries_chains_and_tiles(self, store: Store) -> None:
        """What one append wrote is read back in full."""
        chain = AuditChain("agent:u", 1, 3, "sha256:head", "u", "eu-1", b"spki", b"dsse", 3)
        tiles = {TileKey(0, 0): b"a" * 32 + b"b" * 32 + b"c" * 32}
        await store.audit.append(AuditAppend(0, [entry(n, n + 1) for n in range(3)], [chain], tiles))
        assert await store.audit.size() == 3
        assert await store.audit.origin_state("agent:u") == chain
        assert await store.audit.origin_state("agent:u", 2) is None
        assert await store.audit.origin_state("agent:") is None
        assert await store.audit.tiles([TileKey(0, 0), TileKey(1, 0)]) == tiles
        assert (await store.audit.snapshot()).chains == (chain,)

    async def test_append_to_another_size_is_refused_whole(self, store: Store) -> None:
        """Two writers from one size: the second one changes nothing."""
        await store.audit.append(AuditAppend(0, [entry(0, 1)]))
        late = AuditChain("agent:u", 1, 9, "sha256:late")
        with pytest.raises(CellwardError) as caught:
            await store.audit.append(AuditAppend(0, [entry(0, 2)], [late], {TileKey(0, 0): b"x" * 32}))
        assert caught.value.code == "store/moved"
        for stale in (AuditAppend(0, [], [late]), AuditAppend(2, [entry(2, 3)], [late])):
            with pytest.raises(CellwardError) as caught:
                await store.audit.append(stale)
            assert caught.value.code == "store/moved"
        assert await store.audit.size() == 1
        assert await store.audit.origin_state("agent:u") is None
        assert await store.audit.tiles([TileKey(0, 0)]) == {}

    async def test_one_record_per_place_in_a_chain(self, store: Store) -> None:
        """V13: a record enters the log once, whatever a caller believes."""
        await store.audit.append(AuditAppend(0, [entry(0, 1)]))
        for again in ([entry(1, 1)], [entry(1, 2), entry(2, 2)], [entry(1, 2), entry(2, 1)]):
            with pytest.raises(CellwardError) as caught:
                await store.audit.append(AuditAppend(1, again))
            assert caught.value.code == "store/moved"
        assert await store.audit.size() == 1
        assert [row.index for row in await store.audit.chain_records("agent:u", 1, 1, 9)] == [0]

    @pytest.mark.parametrize("indexes", [(2, 3), (1, 3), (1, 1), (2, 1), (0, 1)])
    async def test_entries_stand_where_the_log_ends(self, store: Store, indexes: tuple[int, int]) -> None:
        """The index of an entry is its place: one that says otherwise is refused, and the log has no hole."""
        await store.audit.append(AuditAppend(0, [entry(0, 1)]))
        with pytest.raises(CellwardError) as caught:
            await store.audit.append(AuditAppend(1, [entry(at, n) for n, at in enumerate(indexes, start=2)]))
        assert caught.value.code == "store/moved"
        assert await store.audit.size() == 1
        assert [row.index for row in await store.audit.records(0, 10)] == [0]

    async def test_numbers_beyond_the_columns_are_refused_whole(self, store: Store) -> None:
        """V16: what no column can hold is an answer with a code, and nothing of it is kept."""
        for entries, chains in (
            ([entry(0, 2**63)], []),
            ([entry(0, 1)], [AuditChain("agent:u", 2**63, 1, "sha256:a")]),
            ([], [AuditChain("agent:u", 1, 2**64, "sha256:a")]),
        ):
            with pytest.raises(CellwardError) as caught:
                await store.audit.append(AuditAppend(0, entries, chains))
            assert caught.value.code == "store/out-of-range"
        await store.audit.append(AuditAppend(0, [entry(0, 2**63 - 1)]))
        assert await store.audit.size() == 1
        await store.clusters.create("eu-1", "alice")
        await store.desired.upsert("eu-1", KEY, "sha256:a")
        good, bad = (ReceiptRow("eu-1", KEY, revision, "sha256:a", accepted=True) for revision in (1, 2**63))
        for rows in ([bad], [good, bad]):
            with pytest.raises(CellwardError) as caught:
                await store.desired.put_receipts(rows)
            assert caught.value.code == "store/out-of-range"
        assert (await store.desired.statuses()).items[0].receipt is None

    async def test_newest_epoch_and_each_epoch(self, store: Store) -> None:
        """The newest epoch is the highest one; older ones stay readable."""
        chains = [AuditChain("agent:u", epoch, epoch, f"sha256:{epoch}") for epoch in (2, 10, 3)]
        await store.audit.append(AuditAppend(0, [], chains))
        newest, second = await store.audit.origin_state("agent:u"), await store.audit.origin_state("agent:u", 2)
        assert newest is not None
        assert second is not None
        assert (newest.epoch, second.head) == (10, "sha256:2")

    async def test_records_by_cursor_and_filter(self, store: Store) -> None:
        """Filters combine, the cursor is an index, the end is exclusive."""
        entries = [entry(n, n + 1, decision="deny" if n == 4 else "done") for n in range(6)]
        await store.audit.append(AuditAppend(0, [*entries, entry(6, 1, origin="hub", cluster="")]))

        async def indices(cursor: int = 0, limit: int = 100, end: int | None = None, **wanted: str) -> list[int]:
            rows = await store.audit.records(cursor, limit, AuditFilter(**wanted), end)
            assert all(row.record == b"record %d" % row.index for row in rows)
            return [row.index for row in rows]

        assert await indices(2, 3) == [2, 3, 4]
        assert await indices(5) == [5, 6]
        assert await indices(end=2) == [0, 1]
        assert await indices(cluster="eu-1", action="cell.apply") == [1, 3, 5]
        assert await indices(decision="deny") == [4]
        assert await indices(cell="cart", origin="agent:u") == [0, 1, 2]
        assert await indices(cell="shop/web") == [3, 4, 5, 6]
        assert await indices(cell="other/web") == []
        assert await indices(7) == []

    async def test_records_of_a_chain(self, store: Store) -> None:
        """Repeats are compared with what is stored: by sequence number, ends included."""
        await store.audit.append(AuditAppend(0, [entry(0, 1), entry(1, 1, origin="hub"), entry(2, 2)]))
        rows = await store.audit.chain_records("agent:u", 1, 1, 5)
        assert [row.index for row in rows] == [0, 2]
        assert await store.audit.chain_records("agent:u", 2, 1, 5) == ()
