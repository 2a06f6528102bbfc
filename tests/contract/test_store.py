"""What every store promises, run on SQLite and on the store in memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import cast

import pytest

from cellward.documents.dsse import Ed25519Signer, Signature, dump_envelope, parse_envelope, sign_document
from cellward.errors import CellwardError
from hub.store.changes import desired_topic
from hub.store.interfaces import (
    ApiTokenRow,
    CellKey,
    DesiredChange,
    DocumentRow,
    ReceiptRow,
    SeenRow,
    Standing,
    StatusRow,
    Store,
    TufMetadata,
)
from hub.store.log import AuditAppend, AuditChain, AuditEntry, AuditFilter, TileKey
from hub.store.sql.store import open_store
from tests.fakes.clock import ManualClock
from tests.fakes.store import MemoryStore

NOW = datetime(2026, 5, 4, 3, 2, 1, 987654, tzinfo=UTC)
KEY = CellKey("shop", "cart", "dev")


@pytest.fixture
def clock() -> ManualClock:
    """Give a clock that stands still."""
    return ManualClock(NOW)


@pytest.fixture(params=["sqlite", "memory"])
async def store(request: pytest.FixtureRequest, tmp_path: Path, clock: ManualClock) -> AsyncIterator[Store]:
    """Give each kind of store, empty."""
    if request.param == "memory":
        yield cast("Store", MemoryStore(clock))
        return
    opened = await open_store(f"sqlite+aiosqlite:///{tmp_path / 'hub.db'}", clock)
    yield cast("Store", opened)
    await opened.close()


def deployment(
    name: str, sequence: int, *environments: str, cell: str = "cart", kind: str = "deployment"
) -> DocumentRow:
    """Return a document row named by its digest."""
    return DocumentRow(
        digest=f"sha256:{name}",
        kind=kind,
        envelope=b"envelope of " + name.encode(),
        project="shop",
        cell=cell,
        environments=environments,
        sequence=sequence,
        meta={"release": f"sha256:release-{name}"},
    )


class TestClusters:
    """Names, bindings, locks."""

    async def test_created_cluster_is_found_by_exact_name(self, store: Store) -> None:
        """V3: names are compared whole, never by prefix."""
        made = await store.clusters.create("eu-1", "alice")
        assert await store.clusters.get("eu-1") == made
        assert (made.created_at, made.created_by, made.uid, made.generation) == (NOW, "alice", "", 0)
        assert await store.clusters.get("eu") is None
        assert await store.clusters.get("eu-11") is None

    async def test_name_is_taken_once(self, store: Store) -> None:
        """A second cluster of one name is refused, also when both ask at once."""
        results = await asyncio.gather(
            *(store.clusters.create("eu-1", f"user{n}") for n in range(8)), return_exceptions=True
        )
        codes = sorted(result.code if isinstance(result, CellwardError) else "made" for result in results)
        assert codes == ["made"] + ["store/cluster-exists"] * 7
        assert [row.name for row in await store.clusters.list()] == ["eu-1"]

    async def test_binding_is_kept_and_found_by_uid(self, store: Store) -> None:
        """Uid, keys, generation and serial come back as bound; a second binding replaces them."""
        await store.clusters.create("eu-1", "alice")
        await store.clusters.bind("eu-1", "uid-1", "sha256:k1", b"spki", 1, "0a")
        row = await store.clusters.bind("eu-1", "uid-1", "sha256:k2", b"spki", 2, "0b")
        assert row == await store.clusters.get("eu-1")
        assert (row.uid, row.spki_sha256, row.statement_spki, row.generation, row.serial, row.bound_at) == (
            "uid-1", "sha256:k2", b"spki", 2, "0b", NOW,
        )  # fmt: skip
        assert await store.clusters.name_of_uid("uid-1") == "eu-1"
        assert await store.clusters.name_of_uid("uid-") is None
        assert await store.clusters.name_of_uid("") is None

    async def test_uid_belongs_to_one_name(self, store: Store) -> None:
        """A uid bound to one name cannot be bound to another."""
        await store.clusters.create("eu-1", "alice")
        await store.clusters.create("us-1", "alice")
        await store.clusters.bind("eu-1", "uid-1", "k", b"s", 1, "1")
        with pytest.raises(CellwardError) as caught:
            await store.clusters.bind("us-1", "uid-1", "k", b"s", 1, "1")
        assert caught.value.code == "store/uid-taken"
        assert (await store.clusters.get("us-1")).uid == ""  # type: ignore[union-attr]

    async def test_unknown_cluster_is_refused_everywhere(self, store: Store) -> None:
        """Nothing is created by writing to a name that does not exist."""
        for call in (
            store.clusters.bind("no", "u", "k", b"s", 1, "1"),
            store.clusters.update_seen("no", NOW, {}),
            store.clusters.set_locked("no", locked=True),
            store.desired.upsert("no", KEY, "sha256:a"),
            store.desired.put_status("no", KEY, {}, NOW),
            store.desired.put_receipt(ReceiptRow("no", KEY, 1, "sha256:a", accepted=True)),
            store.desired.put_receipts([ReceiptRow("no", KEY, 1, "sha256:a", accepted=True)]),
            store.clusters.update_seen_many([SeenRow("no", NOW, {})]),
        ):
            with pytest.raises(CellwardError) as caught:
                await call
            assert caught.value.code == "store/unknown-cluster"
        assert await store.clusters.list() == ()

    async def test_reports_are_merged_by_key(self, store: Store) -> None:
        """A later report replaces what it names and leaves the rest."""
        await store.clusters.create("eu-1", "alice")
        await store.clusters.update_seen("eu-1", NOW, {"facts": {"region": "eu"}, "agentVersion": "1"})
        await store.clusters.update_seen("eu-1", NOW + timedelta(seconds=1), {"agentVersion": "2"})
        row = await store.clusters.get("eu-1")
        assert row is not None
        assert row.report == {"facts": {"region": "eu"}, "agentVersion": "2"}
        assert row.last_seen == NOW + timedelta(seconds=1)

    async def test_many_are_seen_at_once_all_or_none(self, store: Store) -> None:
        """Of one cluster the order counts; a name that does not exist leaves everybody as they were (V16)."""
        for name in ("a", "b", "c"):
            await store.clusters.create(name, "alice")
        later = NOW + timedelta(seconds=1)
        await store.clusters.update_seen_many(
            [SeenRow("a", NOW, {"x": 1, "y": {"z": 1}}), SeenRow("b", NOW), SeenRow("a", later, {"x": 2})]
        )
        with pytest.raises(CellwardError) as caught:
            await store.clusters.update_seen_many([SeenRow("b", later, {"x": 3}), SeenRow("no", later)])
        assert caught.value.code == "store/unknown-cluster"
        await store.clusters.update_seen_many([])
        rows = await store.clusters.get_many(["a", "b", "c", "a", "ab"])
        assert sorted(rows) == ["a", "b", "c"]
        assert (rows["a"].report, rows["a"].last_seen) == ({"x": 2, "y": {"z": 1}}, later)
        assert (rows["b"].report, rows["b"].last_seen) == ({}, NOW)
        assert rows["c"] == await store.clusters.get("c")
        assert await store.clusters.count() == 3

    async def test_locks(self, store: Store) -> None:
        """V4: locked names are one query, and unlocking forgets the reason."""
        for name in ("a", "b", "c"):
            await store.clusters.create(name, "alice")
        await store.clusters.set_locked("a", locked=True, reason="stolen")
        await store.clusters.set_locked("c", locked=True)
        assert (await store.clusters.standing()).locked == {"a", "c"}
        assert (await store.clusters.get("a")).lock_reason == "stolen"  # type: ignore[union-attr]
        await store.clusters.set_locked("a", locked=False)
        assert await store.clusters.standing() == Standing(frozenset({"c"}), {})
        assert (await store.clusters.get("a")).lock_reason == ""  # type: ignore[union-attr]

    async def test_v7_the_floor_only_rises_and_is_part_of_who_may_not_speak(self, store: Store) -> None:
        """V7: a later binding without a floor leaves it; clusters without one are not listed."""
        await store.clusters.create("a", "alice")
        await store.clusters.create("b", "alice")
        await store.clusters.bind("b", "uid-b", "k", b"s", 1, "1")
        await store.clusters.bind("a", "uid-1", "k1", b"s", 2, "2", generation_floor=2)
        row = await store.clusters.bind("a", "uid-1", "k2", b"s", 3, "3", "k1")
        assert (row.generation_floor, row.previous_spki_sha256) == (2, "k1")
        assert (await store.clusters.standing()) == Standing(frozenset(), {"a": 2})

    async def test_a_binding_that_was_decided_on_an_older_one_is_refused(self, store: Store) -> None:
        """V6, V7: of two processes that decide at once one wins, and a replaced installation never comes back."""
        await store.clusters.create("a", "alice")
        await store.clusters.bind("a", "uid-1", "k1", b"s", 1, "1", expected_serial="")
        await store.clusters.bind("a", "uid-2", "k2", b"s", 2, "2", generation_floor=2, expected_serial="1")
        with pytest.raises(CellwardError) as caught:
            await store.clusters.bind("a", "uid-1", "k3", b"s", 2, "3", "k1", expected_serial="1")
        assert caught.value.code == "store/moved"
        assert (await store.clusters.get("a")).uid == "uid-2"  # type: ignore[union-attr]
        with pytest.raises(CellwardError) as caught:
            await store.clusters.bind("no", "uid-1", "k3", b"s", 2, "3", expected_serial="")
        assert caught.value.code == "store/unknown-cluster"

    async def test_v7_the_first_use_of_the_newest_key_forgets_the_one_before(self, store: Store) -> None:
        """V7: another key's use changes nothing, and a second use tells nobody anything new."""
        await store.clusters.create("a", "alice")
        await store.clusters.bind("a", "uid-1", "k2", b"s", 2, "2", "k1")
        await store.clusters.used("a", "k1")
        await store.clusters.used("nobody", "k2")
        assert (await store.clusters.get("a")).previous_spki_sha256 == "k1"  # type: ignore[union-attr]
        await store.clusters.used("a", "k2")
        assert (await store.clusters.get("a")).previous_spki_sha256 == ""  # type: ignore[union-attr]
        stamp = store.changes.stamp("clusters")
        await store.clusters.used("a", "k2")
        assert store.changes.stamp("clusters") == stamp


class TestTokens:
    """V6: a token is spent by one key."""

    async def test_exactly_one_key_wins_among_parallel_tries(self, store: Store) -> None:
        """V6: of twenty keys that spend one token at once, one gets a grant; the rows are counted."""
        await store.tokens.put("hash", "eu-1", NOW + timedelta(minutes=5))
        tries = [store.tokens.spend("hash", f"key{n}", NOW) for n in range(20)]
        results = await asyncio.gather(*tries, return_exceptions=True)
        won = [n for n, result in enumerate(results) if not isinstance(result, BaseException)]
        lost = [result.code for result in results if isinstance(result, CellwardError)]
        assert len(won) == 1
        assert lost == ["store/token-spent"] * 19
        assert (await store.tokens.spend("hash", f"key{won[0]}", NOW)).cluster == "eu-1"

    async def test_same_key_may_ask_again_until_expiry(self, store: Store) -> None:
        """V6: a lost answer is asked for again, but not after the token has expired."""
        await store.tokens.put("hash", "eu-1", NOW + timedelta(seconds=10))
        assert (await store.tokens.spend("hash", "key", NOW)).cluster == "eu-1"
        assert (await store.tokens.spend("hash", "key", NOW + timedelta(seconds=9))).cluster == "eu-1"
        with pytest.raises(CellwardError) as caught:
            await store.tokens.spend("hash", "key", NOW + timedelta(seconds=10))
        assert caught.value.code == "store/token-expired"

    async def test_unknown_token(self, store: Store) -> None:
        """A token nobody made grants nothing."""
        with pytest.raises(CellwardError) as caught:
            await store.tokens.spend("hash", "key", NOW)
        assert caught.value.code == "store/unknown-token"

    async def test_hash_is_kept_once_and_forgotten_a_day_after_expiry(self, store: Store, clock: ManualClock) -> None:
        """Old hashes go when a new one comes; a live one is never overwritten."""
        await store.tokens.put("old", "eu-1", NOW + timedelta(minutes=5))
        with pytest.raises(CellwardError) as caught:
            await store.tokens.put("old", "us-1", NOW + timedelta(minutes=5))
        assert caught.value.code == "store/immutable"
        clock.advance(2 * 86400)
        await store.tokens.put("new", "eu-1", clock.now() + timedelta(minutes=5))
        with pytest.raises(CellwardError) as caught:
            await store.tokens.spend("old", "key", clock.now())
        assert caught.value.code == "store/unknown-token"


class TestDocuments:
    """Opaque envelopes and their index."""

    async def test_put_is_idempotent_and_get_returns_it(self, store: Store) -> None:
        """The same document twice is one document, whose index stays as first kept."""
        document = deployment("a", 1, "dev", "prod")
        assert await store.documents.put(document) is True
        assert await store.documents.put(replace(document, sequence=9)) is False
        assert await store.documents.get("sha256:a") == replace(document, received_at=NOW)
        assert await store.documents.get("sha256:b") is None

    async def test_an_envelope_gains_signatures_and_never_loses_one(self, store: Store) -> None:
        """A second signer's envelope adds to the first; junk under the same digest pushes nothing out."""
        one, two, junk = (sign_document(b"{}", "type", [Ed25519Signer.generate()]) for _ in range(3))
        junk = replace(junk, signatures=(Signature(one.signatures[0].keyid, b"junk"),))
        document = replace(deployment("a", 1, "dev"), envelope=dump_envelope(one))
        for envelope in (one, two, junk, one):
            await store.documents.put(replace(document, envelope=dump_envelope(envelope)))
        kept = await store.documents.get("sha256:a")
        assert kept is not None
        assert parse_envelope(kept.envelope).signatures == one.signatures + two.signatures + junk.signatures

    async def test_envelopes_that_do_not_fit_together_change_nothing(self, store: Store) -> None:
        """Another type over the same payload, or more signatures than one carries, and the whole upload is refused."""
        one = sign_document(b"{}", "type", [Ed25519Signer.generate()])
        document = replace(deployment("a", 1, "dev"), envelope=dump_envelope(one))
        await store.documents.put(document)
        many = tuple(Signature(f"{number:064x}", b"junk") for number in range(16))
        for other, code in (
            (replace(one, payload_type="other"), "document/bad-envelope"),
            (replace(one, signatures=many), "document/too-many-signatures"),
        ):
            batch = [deployment("b", 1, "dev"), replace(document, envelope=dump_envelope(other))]
            with pytest.raises(CellwardError) as caught:
                await store.documents.put_many(batch)
            assert caught.value.code == code
        assert await store.documents.get("sha256:a") == replace(document, received_at=NOW)
        assert await store.documents.get("sha256:b") is None

    async def test_put_many_says_which_are_new(self, store: Store) -> None:
        """One answer per document, also for one that comes twice in a batch."""
        a, b = deployment("a", 1, "dev"), deployment("b", 2, "dev")
        assert await store.documents.put_many([a, b, a]) == (True, True, False)

    async def test_latest_deployment_per_environment(self, store: Store) -> None:
        """The highest sequence wins in each environment by itself; a tombstone is a deployment too."""
        await store.documents.put_many(
            [
                deployment("a", 5, "dev", "prod"),
                deployment("b", 7, "dev"),
                deployment("older", 6, "dev"),
                deployment("release", 9, "dev", kind="release"),
                deployment("other", 1, "dev", cell="web"),
                deployment("end", 2, "dev", cell="web", kind="tombstone"),
                deployment("same", 7, "dev"),
            ]
        )
        assert [row.digest for row in await store.documents.latest_deployments()] == [
            "sha256:a", "sha256:b", "sha256:end",
        ]  # fmt: skip
        assert await store.documents.latest_deployments("nobody") == ()
        assert len(await store.documents.latest_deployments("shop")) == 3

    async def test_list_pages_through_everything_once(self, store: Store) -> None:
        """Pages have no gap and no overlap, and the last one says so."""
        for number in range(7):
            await store.documents.put(deployment(f"d{number}", number, "dev", cell="web" if number % 2 else "cart"))
        seen, cursor = [], ""
        while True:
            page = await store.documents.list(cursor=cursor, limit=3)
            seen += [row.digest for row in page.items]
            cursor = page.cursor
            if not cursor:
                break
        assert seen == [f"sha256:d{number}" for number in range(7)]
        assert len((await store.documents.list(cell="web")).items) == 3
        assert (await store.documents.list(kind="release")).items == ()

    @pytest.mark.parametrize(
        "cursor", ["!", "bm90IGpzb24=", "WyJhIl0=", "WzEsMl0=", "Wy0xXQ==", "W3RydWVd", "A" * 2000]
    )
    async def test_bad_cursor_is_refused(self, store: Store, cursor: str) -> None:
        """V16: what is not a cursor of this list has a code of its own."""
        with pytest.raises(CellwardError) as caught:
            await store.documents.list(cursor=cursor)
        assert caught.value.code == "store/bad-cursor"


class TestDesired:
    """Desired items, revisions, and what agents say."""

    async def test_revision_grows_only_with_a_change(self, store: Store) -> None:
        """Setting the same again is no change; each part of an item is part of it."""
        await store.clusters.create("eu-1", "alice")
        assert await store.desired.revision("eu-1") == 0
        assert await store.desired.upsert("eu-1", KEY, "sha256:a", ["sha256:r"]) == 1
        assert await store.desired.upsert("eu-1", KEY, "sha256:a", ["sha256:r"]) == 1
        assert await store.desired.upsert("eu-1", KEY, "sha256:b", ["sha256:r"]) == 2
        assert await store.desired.upsert("eu-1", KEY, "sha256:b", ["sha256:r", "sha256:p"]) == 3
        assert await store.desired.upsert("eu-1", KEY, "sha256:b", ["sha256:r", "sha256:p"], "hold") == 4
        assert await store.desired.revision("eu-1") == 4
        item = await store.desired.get("eu-1", KEY)
        assert item is not None
        assert (item.revision, item.evidence, item.hub_state, item.changed_at) == (
            4, ("sha256:r", "sha256:p"), "hold", NOW,
        )  # fmt: skip

    async def test_items_since_a_revision(self, store: Store) -> None:
        """Resume gets what changed after the revision, in order, and of its own cluster only."""
        await store.clusters.create("eu-1", "alice")
        await store.clusters.create("us-1", "alice")
        keys = [CellKey("shop", f"cell{n}", "dev") for n in range(4)]
        await store.desired.upsert_many([DesiredChange("eu-1", key, "sha256:a") for key in keys])
        await store.desired.upsert("us-1", keys[0], "sha256:z")
        await store.desired.upsert("eu-1", keys[1], "sha256:b")
        items = await store.desired.items("eu-1", 2)
        assert [(item.revision, item.key.cell) for item in items] == [(3, "cell2"), (4, "cell3"), (5, "cell1")]
        assert [item.revision for item in await store.desired.items("eu-1")] == [1, 3, 4, 5]
        assert await store.desired.items("eu-1", 5) == ()

    async def test_thousand_clusters_in_one_call(self, store: Store) -> None:
        """A fan-out is one transaction and tells the revision of each cluster that changed."""
        names = [f"c{n}" for n in range(1000)]
        for name in names:
            await store.clusters.create(name, "alice")
        changed = await store.desired.upsert_many([DesiredChange(name, KEY, "sha256:a") for name in names])
        assert changed == dict.fromkeys(names, 1)
        assert await store.desired.upsert_many([DesiredChange(name, KEY, "sha256:a") for name in names]) == {}

    async def test_a_bad_change_leaves_nothing_of_the_call(self, store: Store) -> None:
        """V16: one unknown cluster among many, and none of them has changed."""
        await store.clusters.create("eu-1", "alice")
        with pytest.raises(CellwardError):
            await store.desired.upsert_many([DesiredChange("eu-1", KEY, "sha256:a"), DesiredChange("no", KEY, "x")])
        assert await store.desired.revision("eu-1") == 0
        assert await store.desired.items("eu-1") == ()

    async def test_parallel_upserts_lose_nothing(self, store: Store) -> None:
        """Revisions are unique within a cluster whoever writes at once."""
        await store.clusters.create("eu-1", "alice")
        keys = [CellKey("shop", f"cell{n}", "dev") for n in range(20)]
        await asyncio.gather(*(store.desired.upsert("eu-1", key, "sha256:a") for key in keys))
        assert [item.revision for item in await store.desired.items("eu-1")] == list(range(1, 21))

    async def test_statuses_join_what_is_desired_with_what_is_said(self, store: Store) -> None:
        """One row per desired item; status and receipt where there are any."""
        for name in ("eu-1", "us-1"):
            await store.clusters.create(name, "alice")
        other = CellKey("shop", "web", "dev")
        await store.desired.upsert_many(
            [DesiredChange("us-1", KEY, "sha256:a"), DesiredChange("eu-1", KEY, "sha256:a"),
             DesiredChange("eu-1", other, "sha256:b")]
        )  # fmt: skip
        await store.desired.put_statuses([StatusRow("eu-1", KEY, {"phase": "ready"}, NOW)])
        receipt = ReceiptRow("eu-1", KEY, 1, "sha256:a", accepted=True, body={"n": 1}, statement=b"dsse")
        await store.desired.put_receipt(receipt)
        page = await store.desired.statuses()
        assert [(row.desired.key.cell, row.desired.cluster) for row in page.items] == [
            ("cart", "eu-1"), ("cart", "us-1"), ("web", "eu-1"),
        ]  # fmt: skip
        assert page.items[0].status == StatusRow("eu-1", KEY, {"phase": "ready"}, NOW)
        assert page.items[0].receipt == replace(receipt, received_at=NOW)
        assert (page.items[1].status, page.items[1].receipt) == (None, None)

    async def test_statuses_filter_and_page(self, store: Store) -> None:
        """A cursor continues after the last row, whatever the filter."""
        for name in ("c0", "c1", "c2"):
            await store.clusters.create(name, "alice")
        await store.desired.upsert_many(
            [DesiredChange(f"c{n}", CellKey("shop", cell, "dev"), "sha256:a") for n in range(3) for cell in ("a", "b")]
        )
        first = await store.desired.statuses(limit=4)
        rest = await store.desired.statuses(limit=4, cursor=first.cursor)
        assert (len(first.items), len(rest.items), rest.cursor) == (4, 2, "")
        assert len({(row.desired.key, row.desired.cluster) for row in first.items + rest.items}) == 6
        assert len((await store.desired.statuses(cluster="c1")).items) == 2
        assert len((await store.desired.statuses(project="shop", cell="b")).items) == 3
        assert (await store.desired.statuses(project="none")).items == ()

    async def test_older_receipt_does_not_replace_a_newer_one(self, store: Store) -> None:
        """Receipts repeated after a reconnect cannot turn time back."""
        await store.clusters.create("eu-1", "alice")
        await store.desired.upsert("eu-1", KEY, "sha256:a")
        await store.desired.put_receipt(ReceiptRow("eu-1", KEY, 5, "sha256:new", accepted=True))
        await store.desired.put_receipt(ReceiptRow("eu-1", KEY, 4, "sha256:old", accepted=False))
        receipt = (await store.desired.statuses()).items[0].receipt
        assert receipt is not None
        assert (receipt.revision, receipt.deployment_digest) == (5, "sha256:new")

    async def test_many_receipts_at_once(self, store: Store) -> None:
        """In one transaction too an older receipt replaces nothing, and an unknown name takes all along (V16)."""
        for name in ("eu-1", "us-1"):
            await store.clusters.create(name, "alice")
            await store.desired.upsert(name, KEY, "sha256:a")
        await store.desired.put_receipts(
            [
                ReceiptRow("eu-1", KEY, 5, "sha256:five", accepted=True, statement=b"5"),
                ReceiptRow("us-1", KEY, 1, "sha256:one", accepted=True),
                ReceiptRow("eu-1", KEY, 4, "sha256:four", accepted=False),
                ReceiptRow("us-1", KEY, 1, "sha256:again", accepted=True),
            ]
        )
        await store.desired.put_receipts([])
        with pytest.raises(CellwardError):
            await store.desired.put_receipts(
                [ReceiptRow("us-1", KEY, 9, "sha256:x", accepted=True), ReceiptRow("no", KEY, 9, "x", accepted=True)]
            )
        found = {row.desired.cluster: row.receipt for row in (await store.desired.statuses()).items}
        assert found["eu-1"] == ReceiptRow("eu-1", KEY, 5, "sha256:five", True, {}, b"5", NOW)  # noqa: FBT003
        assert found["us-1"] is not None
        assert found["us-1"].deployment_digest == "sha256:again"

    async def test_items_of_many_clusters_are_read_at_once(self, store: Store) -> None:
        """Each named cluster has its own, in order of revision; who has none is named with none."""
        for name in ("a", "b", "c"):
            await store.clusters.create(name, "alice")
        other = CellKey("shop", "web", "dev")
        await store.desired.upsert_many([DesiredChange("a", KEY, "sha256:a"), DesiredChange("a", other, "sha256:b")])
        await store.desired.upsert("b", KEY, "sha256:a")
        await store.desired.upsert("a", KEY, "sha256:c")
        found = await store.desired.items_of(["a", "b", "c", "a"])
        assert {name: found[name] for name in "abc"} == {name: await store.desired.items(name) for name in "abc"}
        assert [item.revision for item in found["a"]] == [2, 3]
        assert found["c"] == ()
        assert await store.desired.count() == 3

    async def test_an_item_can_be_told_again(self, store: Store) -> None:
        """A change that says so is a new revision of the same content, and wakes who waits."""
        await store.clusters.create("eu-1", "alice")
        change = DesiredChange("eu-1", KEY, "sha256:a")
        assert await store.desired.upsert_many([change]) == {"eu-1": 1}
        assert await store.desired.upsert_many([change]) == {}
        async with store.changes.subscribe(desired_topic("eu-1")) as subscription:
            assert await store.desired.upsert_many([replace(change, again=True)]) == {"eu-1": 2}
            assert await subscription.wait() == {desired_topic("eu-1")}
        assert [(row.revision, row.deployment_digest) for row in await store.desired.items("eu-1")] == [(2, "sha256:a")]


class TestTuf:
    """Policy metadata and targets."""

    async def test_metadata_by_version_and_newest(self, store: Store) -> None:
        """None asks for the highest version, not for the last one stored."""
        await store.tuf.put_metadata("root", 2, b"two")
        await store.tuf.put_metadata("root", 10, b"ten")
        await store.tuf.put_metadata("root", 1, b"one")
        assert await store.tuf.get_metadata("root") == b"ten"
        assert await store.tuf.get_metadata("root", 2) == b"two"
        assert await store.tuf.get_metadata("root", 3) is None
        assert await store.tuf.get_metadata("snapshot") is None

    async def test_version_is_immutable(self, store: Store) -> None:
        """The same bytes again are fine, other bytes under one version never."""
        await store.tuf.put_metadata("root", 1, b"one")
        await store.tuf.put_metadata("root", 1, b"one")
        with pytest.raises(CellwardError) as caught:
            await store.tuf.put_metadata("root", 1, b"other")
        assert caught.value.code == "store/immutable"
        assert await store.tuf.get_metadata("root", 1) == b"one"

    async def test_publish_is_all_or_nothing(self, store: Store) -> None:
        """V16: a publication that fails at its last file leaves neither metadata nor targets."""
        await store.tuf.put_metadata("timestamp", 1, b"t1")
        batch = [TufMetadata("targets", 1, b"x"), TufMetadata("timestamp", 1, b"other")]
        with pytest.raises(CellwardError):
            await store.tuf.publish(batch, {"sha256:a": b"a"})
        assert await store.tuf.get_metadata("targets") is None
        assert await store.tuf.get_target("sha256:a") is None
        await store.tuf.publish([TufMetadata("targets", 1, b"x")], {"sha256:a": b"a"}, {"timestamp": 1, "targets": 0})
        assert await store.tuf.get_target("sha256:a") == b"a"

    async def test_timestamp_replaces_those_ahead_of_it(self, store: Store) -> None:
        """A hub whose clock was ahead once serves what it signs now; other roles never go back."""
        for version in (5, 900):
            await store.tuf.publish([TufMetadata("timestamp", version, b"t%d" % version)], {})
        await store.tuf.publish(
            [TufMetadata("timestamp", 7, b"t7"), TufMetadata("targets", 1, b"x")], {}, {"timestamp": 900}
        )
        assert await store.tuf.get_metadata("timestamp") == b"t7"
        assert await store.tuf.get_metadata("timestamp", 5) == b"t5"
        await store.tuf.put_metadata("targets", 2, b"y")
        await store.tuf.put_metadata("targets", 1, b"x")
        assert await store.tuf.get_metadata("targets") == b"y"

    async def test_publish_refuses_when_versions_moved(self, store: Store) -> None:
        """Two publishers from one base: the second one is told to read again."""
        await store.tuf.publish([TufMetadata("targets", 1, b"x")], {}, {"targets": 0})
        with pytest.raises(CellwardError) as caught:
            await store.tuf.publish([TufMetadata("targets", 2, b"y")], {}, {"targets": 0})
        assert caught.value.code == "store/moved"


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


class TestSmall:
    """Bearer tokens, small values, epoch, changes."""

    async def test_api_tokens(self, store: Store) -> None:
        """A token is found by its hash, whether it has expired or not."""
        row = ApiTokenRow("h", "alice", "admin", NOW, NOW, "root")
        await store.api_tokens.add(row)
        assert await store.api_tokens.get("h") == row
        assert await store.api_tokens.get("") is None

    async def test_a_subject_has_one_api_token(self, store: Store) -> None:
        """A second token of a subject, or of the same hash, is refused and changes nothing; of many one wins."""
        first = ApiTokenRow("h", "alice", "viewer", NOW, NOW, "root")
        await store.api_tokens.add(first)
        for second in (ApiTokenRow("h2", "alice", "admin"), ApiTokenRow("h", "bob", "admin")):
            with pytest.raises(CellwardError) as caught:
                await store.api_tokens.add(second)
            assert caught.value.code == "store/subject-has-token"
        assert await store.api_tokens.list() == (first,)
        tries = [store.api_tokens.add(ApiTokenRow(f"t{number}", "carol", "viewer")) for number in range(8)]
        ended = await asyncio.gather(*tries, return_exceptions=True)
        assert sum(result is None for result in ended) == 1

    async def test_removed_api_tokens_are_gone(self, store: Store) -> None:
        """A token is listed by subject until it is removed; its subject may then have another one."""
        rows = [ApiTokenRow("2", "bob", "viewer"), ApiTokenRow("1", "alice", "admin", NOW)]
        for row in rows:
            await store.api_tokens.add(row)
        assert await store.api_tokens.list() == (rows[1], rows[0])
        assert await store.api_tokens.remove("bob") == rows[0]
        assert await store.api_tokens.remove("bob") is None
        assert await store.api_tokens.get("2") is None
        assert await store.api_tokens.list() == (rows[1],)
        await store.api_tokens.add(rows[0])

    async def test_the_only_token_of_a_subject(self, store: Store) -> None:
        """The others of the subject go in the same transaction; other subjects keep theirs."""
        await store.api_tokens.add(ApiTokenRow("old", "root", "admin", NOW))
        await store.api_tokens.add(ApiTokenRow("h", "alice", "admin"))
        await store.api_tokens.put_only("new", "root", "admin")
        await store.api_tokens.put_only("new", "root", "admin")
        assert await store.api_tokens.get("old") is None
        assert await store.api_tokens.get("new") == ApiTokenRow("new", "root", "admin", None)
        assert await store.api_tokens.get("h") is not None

    async def test_meta_put_if_absent_has_one_winner(self, store: Store) -> None:
        """Everybody who asks at once gets the same value, and it is the stored one."""
        values = await asyncio.gather(*(store.meta.put_if_absent("k", b"%d" % n) for n in range(10)))
        assert len(set(values)) == 1
        assert await store.meta.get("k") == values[0]
        await store.meta.put("k", b"new")
        assert await store.meta.put_if_absent("k", b"x") == b"new"
        assert await store.meta.get("none") is None

    async def test_new_epoch_is_another_one(self, store: Store) -> None:
        """After a restore agents must see another history."""
        before = store.hub_epoch
        assert len(before) == 32
        after = await store.new_epoch()
        assert after == store.hub_epoch != before
        assert await store.new_epoch() not in {before, after}

    async def test_change_wakes_its_topic_and_no_other(self, store: Store) -> None:
        """A subscriber of one cluster is not woken for another, and changes do not pile up."""
        for name in ("eu-1", "us-1"):
            await store.clusters.create(name, "alice")
        async with (
            store.changes.subscribe(desired_topic("eu-1"), "policy") as mine,
            store.changes.subscribe(desired_topic("us-1")) as other,
        ):
            await store.desired.upsert("eu-1", KEY, "sha256:a")
            await store.desired.upsert("eu-1", KEY, "sha256:b")
            await store.tuf.put_metadata("root", 1, b"x")
            assert await mine.wait() == {desired_topic("eu-1"), "policy"}
            for waiting in (mine, other):
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(waiting.wait(), 0.01)

    async def test_unchanged_item_wakes_nobody(self, store: Store) -> None:
        """Setting the same again is not a change."""
        await store.clusters.create("eu-1", "alice")
        await store.desired.upsert("eu-1", KEY, "sha256:a")
        async with store.changes.subscribe(desired_topic("eu-1")) as subscription:
            await store.desired.upsert("eu-1", KEY, "sha256:a")
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(subscription.wait(), 0.01)
