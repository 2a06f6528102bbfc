"""What every store promises of documents, and of policy metadata and targets."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cellward.errors import CellwardError
from hub.store.documents import Judged
from hub.store.interfaces import Store, TufMetadata
from tests.contract.store_rows import NOW, deployment
from tests.fakes.refusals import refused


class TestDocuments:
    """Opaque envelopes and their index."""

    async def test_put_is_idempotent_and_get_returns_it(self, store: Store) -> None:
        """The same document twice is one document, whose index stays as first kept."""
        document = deployment("a", 1, "dev", "prod")
        assert await store.documents.put(document) is True
        assert await store.documents.put(replace(document, sequence=9)) is False
        assert await store.documents.get("sha256:a") == replace(document, received_at=NOW)
        assert await store.documents.get("sha256:b") is None

    async def test_an_envelope_is_replaced_by_whoever_read_it(self, store: Store) -> None:
        """Envelope, standing and judgement change for a writer who saw what is kept, and for nobody else."""
        first = deployment("a", 1, "dev")
        second = replace(first, envelope=b"two", standing="verified", judgement={"owners": ["ada"]}, sequence=9)
        await store.documents.put(first)
        with pytest.raises(CellwardError) as caught:
            await store.documents.put_many([deployment("b", 1, "dev"), second])
        assert caught.value.code == "store/moved"
        assert await store.documents.get("sha256:b") is None
        assert await store.documents.put(second, first.envelope) is False
        kept = replace(second, sequence=1, received_at=NOW)
        assert await store.documents.get("sha256:a") == kept
        with refused("store/moved"):
            await store.documents.put(replace(second, envelope=b"three"), first.envelope)
        assert await store.documents.get("sha256:a") == kept

    async def test_judgements_change_and_wake(self, store: Store) -> None:
        """What signatures come to may be set again; a document that is not kept is passed over."""
        await store.documents.put(deployment("a", 1, "dev"))
        before = store.changes.stamp("documents")
        await store.documents.judge_many([Judged("sha256:a", "pending", {"needed": 2}), Judged("sha256:b", "x", {})])
        kept = await store.documents.get("sha256:a")
        assert kept is not None
        assert (kept.standing, kept.judgement) == ("pending", {"needed": 2})
        assert store.changes.stamp("documents") != before
        await store.documents.judge_many([])

    async def test_what_does_not_verify_can_be_dropped(self, store: Store) -> None:
        """What is verified by now stays, whoever asks; what is gone is told, wakes, and may come again."""
        good = replace(deployment("b", 2, "dev"), standing="verified")
        await store.documents.put_many([deployment("a", 1, "dev"), good, deployment("c", 3, "dev")])
        before = store.changes.stamp("documents")
        assert await store.documents.drop(["sha256:a", "sha256:b", "sha256:nothing"]) == {"sha256:a"}
        assert store.changes.stamp("documents") != before
        assert [row.digest for row in (await store.documents.list()).items] == ["sha256:b", "sha256:c"]
        assert await store.documents.put(deployment("a", 1, "dev")) is True
        assert [row.digest for row in (await store.documents.list()).items] == ["sha256:b", "sha256:c", "sha256:a"]
        assert await store.documents.drop([]) == frozenset()

    async def test_put_many_says_which_are_new(self, store: Store) -> None:
        """One answer per document, also for one that comes twice in a batch."""
        a, b = deployment("a", 1, "dev"), deployment("b", 2, "dev")
        assert await store.documents.put_many([a, b, a]) == (True, True, False)

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

    async def test_a_file_is_replaced_by_whoever_names_its_bytes(self, store: Store) -> None:
        """The same document with other signatures; nobody else, and nobody who read something else, replaces it."""
        await store.tuf.put_metadata("targets", 1, b"one")
        with pytest.raises(CellwardError) as caught:
            await store.tuf.publish([TufMetadata("targets", 1, b"two", replaces=b"other")], {})
        assert caught.value.code == "store/immutable"
        await store.tuf.put_metadata("targets", 2, b"newer")
        await store.tuf.publish([TufMetadata("targets", 1, b"two", replaces=b"one")], {})
        await store.tuf.publish([TufMetadata("targets", 1, b"two", replaces=b"one")], {})
        assert [await store.tuf.get_metadata("targets", version) for version in (1, 2)] == [b"two", b"newer"]

    async def test_publish_is_all_or_nothing(self, store: Store) -> None:
        """V16: a publication that fails at its last file leaves neither metadata nor targets."""
        await store.tuf.put_metadata("timestamp", 1, b"t1")
        batch = [TufMetadata("targets", 1, b"x"), TufMetadata("timestamp", 1, b"other")]
        with refused("store/immutable"):
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
