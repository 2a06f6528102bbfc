"""What every store promises of clusters and their join tokens."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from cellward.errors import CellwardError
from hub.store.interfaces import LockRow, ReceiptRow, Retired, SeenRow, Store
from tests.contract.store_rows import KEY, NOW
from tests.fakes.clock import ManualClock
from tests.fakes.refusals import refused


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
            store.clusters.retire_certificates("no", 1),
            store.clusters.set_platform("no", "u", ""),
            store.clusters.remove("no"),
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
        """V4: locks are one read by kind and subject; the first of two stays; what is lifted is returned, once."""
        rows = [LockRow("key", "ab", "stolen", NOW, "alice"), LockRow("agent", "u-1", "copied", NOW, "hub")]
        stamp = store.changes.stamp("clusters")
        for row in rows:
            assert await store.locks.put(row) == row
        assert await store.locks.put(LockRow("key", "ab", "another reason", NOW, "bob")) == rows[0]
        assert await store.locks.list() == (rows[1], rows[0])
        assert await store.locks.get("key", "ab") == rows[0]
        assert await store.locks.get("key", "u-1") is None
        assert store.changes.stamp("clusters") != stamp
        stamp = store.changes.stamp("clusters")
        assert await store.locks.remove("key", "ab") == rows[0]
        assert await store.locks.remove("key", "ab") is None
        assert await store.locks.list() == (rows[1],)
        assert store.changes.stamp("clusters") != stamp

    async def test_a_removed_cluster_counts_for_nothing_and_keeps_its_name(self, store: Store) -> None:
        """Items, receipts and states are gone, name and uid stay taken, and everybody else keeps theirs."""
        for name in ("a", "b"):
            await store.clusters.create(name, "alice")
            await store.clusters.bind(name, f"uid-{name}", "k", b"s", 1, "1")
            await store.desired.upsert(name, KEY, "sha256:a")
            await store.desired.put_status(name, KEY, {"phase": "ready"}, NOW)
        await store.clusters.remove("a")
        assert (await store.clusters.standing()).removed == {"a"}
        row = await store.clusters.get("a")
        assert row is not None
        assert (row.removed_at, row.uid) == (NOW, "uid-a")
        assert await store.desired.items("a") == ()
        assert [found.desired.cluster for found in (await store.desired.statuses()).items] == ["b"]
        with refused("store/cluster-exists"):
            await store.clusters.create("a", "alice")
        assert await store.clusters.names_of_uids(["uid-a", "uid-b", "uid-c"]) == {"uid-a": "a", "uid-b": "b"}

    async def test_v7_retired_certificates_are_below_the_floor(self, store: Store) -> None:
        """V7: the floor goes above everything issued, and never down."""
        await store.clusters.create("a", "alice")
        assert await store.clusters.retire_certificates("a", 5) == 1
        await store.clusters.bind("a", "uid-1", "k", b"s", 7, "7")
        assert await store.clusters.retire_certificates("a", 5) == 12
        assert await store.clusters.retire_certificates("a", 5) == 12
        assert (await store.clusters.standing()).floors == {"a": 12}

    async def test_v7_where_an_installation_runs_is_forgotten_with_it(self, store: Store) -> None:
        """V7: a renewal keeps it, another installation under the name does not."""
        await store.clusters.create("a", "alice")
        await store.clusters.bind("a", "uid-1", "k", b"s", 1, "1")
        await store.clusters.set_platform("a", "kube-1", "ca-1")
        kept = await store.clusters.bind("a", "uid-1", "k2", b"s", 2, "2")
        assert (kept.platform_uid, kept.platform_ca) == ("kube-1", "ca-1")
        new = await store.clusters.bind("a", "uid-2", "k3", b"s", 3, "3")
        assert (new.platform_uid, new.platform_ca) == ("", "")

    async def test_v7_the_floor_only_rises_and_is_part_of_who_may_not_speak(self, store: Store) -> None:
        """V7: a later binding without a floor leaves it; clusters without one are not listed."""
        await store.clusters.create("a", "alice")
        await store.clusters.create("b", "alice")
        await store.clusters.bind("b", "uid-b", "k", b"s", 1, "1")
        await store.clusters.bind("a", "uid-1", "k1", b"s", 2, "2", generation_floor=2)
        row = await store.clusters.bind("a", "uid-1", "k2", b"s", 3, "3", "k1")
        assert (row.generation_floor, row.previous_spki_sha256) == (2, "k1")
        assert (await store.clusters.standing()) == Retired(frozenset(), {"a": 2})

    async def test_nobody_is_bound_to_an_unknown_name(self, store: Store) -> None:
        """V6: a name is made by an admin before anybody joins under it."""
        with pytest.raises(CellwardError) as caught:
            await store.clusters.bind("no", "uid-1", "k3", b"s", 2, "3")
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


class TestKnownAs:
    """Whom a lock is about, by each of what it can name."""

    async def test_each_kind_finds_its_own(self, store: Store) -> None:
        """By name, uid, serial number and key; the subject of another kind finds nobody."""
        for name in ("eu-1", "us-1"):
            await store.clusters.create(name, "alice")
            await store.clusters.bind(name, f"uid-{name}", f"key-{name}", b"spki", 1, f"serial-{name}")
        subjects = {"cluster": "eu-1", "agent": "uid-eu-1", "key": "key-eu-1", "serial": "serial-eu-1"}
        for kind, subject in subjects.items():
            assert [row.name for row in await store.clusters.known_as(kind, subject)] == ["eu-1"]
            others = [each for other, each in subjects.items() if other != kind]
            for each in (*others, ""):
                assert await store.clusters.known_as(kind, each) == ()


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

    async def test_live_tokens_are_told_from_others_spent_or_not(self, store: Store) -> None:
        """V6: of many hashes at once, those whose token has not expired."""
        for name, seconds in (("new", 10), ("spent", 10), ("old", -1)):
            await store.tokens.put(name, "eu-1", NOW + timedelta(seconds=seconds))
        await store.tokens.spend("spent", "key", NOW)
        asked = ["new", "spent", "old", *(f"unknown-{number}" for number in range(2500))]
        assert await store.tokens.live(asked, NOW) == {"new", "spent"}
        assert await store.tokens.live([], NOW) == frozenset()

    async def test_keys_of_uids(self, store: Store) -> None:
        """V7: the newest key and, until that one was used, the one before; nothing for a uid nobody has."""
        for name in ("a", "b", "c"):
            await store.clusters.create(name, "alice")
        await store.clusters.bind("a", "uid-a", "k1", b"s", 1, "1")
        await store.clusters.bind("b", "uid-b", "k3", b"s", 2, "2", "k2")
        assert await store.clusters.keys_of(["uid-a", "uid-b", "uid-x", ""]) == {"uid-a": {"k1"}, "uid-b": {"k2", "k3"}}

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
