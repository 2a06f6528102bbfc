"""What every store promises of bearer tokens, small values, its epoch and changes."""

from __future__ import annotations

import asyncio

import pytest

from cellward.errors import CellwardError
from hub.store.changes import desired_topic
from hub.store.interfaces import Store
from hub.store.tokens import ApiTokenRow
from tests.contract.store_rows import KEY, NOW


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
