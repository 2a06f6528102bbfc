"""What every store promises of desired items, statuses and receipts."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from cellward.documents.names import CellKey
from hub.store.changes import desired_topic
from hub.store.interfaces import DesiredChange, ReceiptRow, StatusRow, Store
from tests.contract.store_rows import KEY, NOW
from tests.fakes.refusals import refused


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

    async def test_the_role_that_set_a_state_is_kept(self, store: Store) -> None:
        """Another role is a change; none is said where nobody withheld anything."""
        await store.clusters.create("eu-1", "alice")
        await store.desired.upsert("eu-1", KEY, "sha256:a")
        for role in ("deployer", "admin"):
            change = DesiredChange("eu-1", KEY, "sha256:a", hub_state="hold", hub_state_role=role)
            await store.desired.upsert_many([change])
            assert [row.hub_state_role for row in await store.desired.items("eu-1")] == [role]
        await store.desired.upsert("eu-1", KEY, "sha256:a")
        item = await store.desired.get("eu-1", KEY)
        assert item is not None
        assert (item.hub_state_role, item.revision) == ("", 4)

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
        with refused("store/unknown-cluster"):
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
        for digest in ("sha256:old", "sha256:new"):
            await store.desired.upsert("eu-1", KEY, digest)
        await store.desired.put_receipt(ReceiptRow("eu-1", KEY, 2, "sha256:new", accepted=True))
        await store.desired.put_receipt(ReceiptRow("eu-1", KEY, 1, "sha256:old", accepted=False))
        receipt = (await store.desired.statuses()).items[0].receipt
        assert receipt is not None
        assert (receipt.revision, receipt.deployment_digest) == (2, "sha256:new")

    async def test_receipt_of_a_revision_never_given_does_not_stand_in_the_way(self, store: Store) -> None:
        """V13: of a history that a restore lost, or of nowhere; what is acknowledged afterwards is kept."""
        await store.clusters.create("eu-1", "alice")
        await store.desired.upsert("eu-1", KEY, "sha256:a")
        await store.desired.put_receipt(ReceiptRow("eu-1", KEY, 60, "sha256:lost", accepted=True))
        await store.desired.put_receipts([ReceiptRow("eu-1", KEY, 1, "sha256:a", accepted=False)])
        receipt = (await store.desired.statuses()).items[0].receipt
        assert receipt is not None
        assert (receipt.revision, receipt.deployment_digest) == (1, "sha256:a")

    async def test_a_restored_store_believes_no_number_it_never_gave(self, store: Store) -> None:
        """Of the cluster itself: what another one was given says nothing about it."""
        for name, count in (("a-busy", 9), ("b-quiet", 1)):
            await store.clusters.create(name, "alice")
            for number in range(count):
                await store.desired.upsert(name, KEY, f"sha256:{number}")
        await store.desired.put_receipt(ReceiptRow("a-busy", KEY, 9, "sha256:8", accepted=True))
        await store.desired.put_receipt(ReceiptRow("b-quiet", KEY, 5, "sha256:before", accepted=True))
        await store.desired.put_receipt(ReceiptRow("b-quiet", KEY, 1, "sha256:now", accepted=True))
        receipt = (await store.desired.statuses("b-quiet")).items[0].receipt
        assert receipt is not None
        assert receipt.deployment_digest == "sha256:now"

    async def test_many_receipts_at_once(self, store: Store) -> None:
        """In one transaction too an older receipt replaces nothing, and an unknown name takes all along (V16)."""
        for name in ("eu-1", "us-1"):
            await store.clusters.create(name, "alice")
            for digest in ("sha256:a", "sha256:b"):
                await store.desired.upsert(name, KEY, digest)
        await store.desired.put_receipts(
            [
                ReceiptRow("eu-1", KEY, 2, "sha256:two", accepted=True, statement=b"2"),
                ReceiptRow("us-1", KEY, 1, "sha256:one", accepted=True),
                ReceiptRow("eu-1", KEY, 1, "sha256:first", accepted=False),
                ReceiptRow("us-1", KEY, 1, "sha256:again", accepted=True),
            ]
        )
        await store.desired.put_receipts([])
        with refused("store/unknown-cluster"):
            await store.desired.put_receipts(
                [ReceiptRow("us-1", KEY, 9, "sha256:x", accepted=True), ReceiptRow("no", KEY, 9, "x", accepted=True)]
            )
        found = {row.desired.cluster: row.receipt for row in (await store.desired.statuses()).items}
        assert found["eu-1"] == ReceiptRow("eu-1", KEY, 2, "sha256:two", True, {}, b"2", NOW)  # noqa: FBT003
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
