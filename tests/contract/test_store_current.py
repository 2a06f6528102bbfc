"""What every store says is current, and what it counts, instead of reading all that was ever kept."""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest

from cellward.documents.names import CellKey
from hub.store.documents import DocumentRow, Judged, Usage
from hub.store.interfaces import Store
from tests.contract.store_rows import KEY

EVER = 2**53
NOBODY: dict[str, Any] = {}


def row(name: str, kind: str, *environments: str, standing: str = "verified", **changes: Any) -> DocumentRow:
    """Return a document of cell shop/cart; ``meta`` values may be given by name."""
    meta: dict[str, Any] = {key: changes.pop(key) for key in ("subject", "fallback", "selector") if key in changes}
    base = DocumentRow(f"sha256:{name}", kind, f"envelope {name}".encode(), "shop", "cart", environments, meta=meta)
    return replace(base, standing=standing, **changes)


def release(name: str, **changes: Any) -> DocumentRow:
    """Return a release."""
    return row(name, "release", **changes)


def deployment(name: str, sequence: int, *environments: str, of: str = "r", **changes: Any) -> DocumentRow:
    """Return a Deployment of a release."""
    return row(name, "deployment", *(environments or ("dev",)), sequence=sequence, subject=f"sha256:{of}", **changes)


def tombstone(name: str, sequence: int, *environments: str, **changes: Any) -> DocumentRow:
    """Return a tombstone."""
    return row(name, "tombstone", *(environments or ("dev",)), sequence=sequence, **changes)


async def heads(store: Store, key: CellKey = KEY, newest: int = EVER) -> set[str]:
    """Names of what is current."""
    found = (await store.documents.current(newest, [key])).get(key, ())
    return {entry.digest.removeprefix("sha256:") for entry in found}


class TestCurrent:
    """Of those that choose clusters alike the newest that is verified, with its release."""

    async def test_v14_an_older_one_that_comes_late_changes_nothing(self, store: Store) -> None:
        """The highest sequence is current, in whichever order they came; of two with one, the smaller digest."""
        await store.documents.put_many([release("r"), deployment("b", 2), deployment("a", 1)])
        assert await heads(store) == {"b"}
        await store.documents.put(deployment("aa", 2))
        assert await heads(store) == {"aa"}
        assert await heads(store, CellKey("shop", "cart", "prod")) == set()

    async def test_one_for_each_way_to_choose_clusters(self, store: Store) -> None:
        """A newer Deployment to one region leaves the older one current elsewhere; a tombstone stands beside both."""
        eu, us = {"regions": ["eu"]}, {"regions": ["us"]}
        await store.documents.put_many(
            [
                release("r"),
                deployment("everywhere", 1),
                deployment("eu", 2, selector=eu),
                deployment("us", 3, selector=us),
                deployment("eu-again", 4, selector=eu),
                tombstone("end", 5),
            ]
        )
        assert await heads(store) == {"everywhere", "us", "eu-again", "end"}
        entry = (await store.documents.current(EVER, [KEY]))[KEY]
        assert {one.digest: one.meta.get("selector") for one in entry}["sha256:us"] == us

    async def test_a_deployment_without_its_release_is_not_current(self, store: Store) -> None:
        """Not before the release is verified, nor with that of another cell; the one before it stays."""
        await store.documents.put_many([release("r"), deployment("old", 1), deployment("new", 2, of="later")])
        assert await heads(store) == {"old"}
        await store.documents.put(release("later", standing="pending"))
        assert await heads(store) == {"old"}
        await store.documents.judge_many([Judged("sha256:later", "verified", NOBODY)])
        assert await heads(store) == {"new"}
        await store.documents.put_many([release("web", cell="web"), deployment("foreign", 3, of="web")])
        assert await heads(store) == {"new"}
        await store.documents.judge_many([Judged("sha256:later", "unverified", NOBODY)])
        assert await heads(store) == {"old"}

    async def test_what_is_judged_again_or_dropped_makes_place_for_the_one_before(self, store: Store) -> None:
        """Also as part of one transaction, and in every environment."""
        await store.documents.put_many(
            [release("r"), deployment("one", 1, "dev", "prod"), deployment("two", 2, "dev", "prod")]
        )
        prod = CellKey("shop", "cart", "prod")
        await store.documents.judge_many([Judged("sha256:two", "unverified", NOBODY)])
        assert await heads(store) == await heads(store, prod) == {"one"}
        assert await store.documents.drop(["sha256:two"]) == {"sha256:two"}
        await store.documents.judge_many([Judged("sha256:one", "pending", NOBODY)])
        assert await heads(store) == await heads(store, prod) == set()
        assert await store.documents.keys() == frozenset()
        await store.documents.judge_many([Judged("sha256:one", "verified", NOBODY)])
        assert await store.documents.keys() == {KEY, prod}

    async def test_a_number_that_no_agent_takes_stands_before_nobody(self, store: Store) -> None:
        """It is passed over for the newest up to a number, as long as it is beyond that."""
        await store.documents.put_many([release("r"), *(deployment(f"d{number}", number) for number in (1, 5, 9))])
        assert await heads(store, newest=9) == {"d9"}
        assert await heads(store, newest=8) == {"d5"}
        assert await heads(store, newest=0) == set()
        assert await store.documents.ahead(8)
        assert not await store.documents.ahead(9)

    async def test_many_keys_and_all_of_some_environments(self, store: Store) -> None:
        """As many as are asked for, more than fit into one statement."""
        cells = [f"c{number}" for number in range(250)]
        await store.documents.put_many([tombstone(f"t-{cell}", 1, "dev", "prod", cell=cell) for cell in cells])
        wanted = [CellKey("shop", cell, "prod") for cell in cells[:230]]
        assert set(await store.documents.current(EVER, wanted)) == set(wanted)
        assert set(await store.documents.current(EVER, None, ["dev"])) == {
            CellKey("shop", cell, "dev") for cell in cells
        }
        assert len(await store.documents.current(EVER)) == 500
        assert await store.documents.current(EVER, []) == {}


class TestFinding:
    """Looking up what an upload is about."""

    async def test_keys_that_name_a_document(self, store: Store) -> None:
        """By the document itself, its release or its fallback, as long as it is current."""
        await store.documents.put_many(
            [release("r"), release("back"), deployment("one", 1), deployment("two", 2, fallback="sha256:back")]
        )
        for name in ("two", "r", "back"):
            assert await store.documents.naming([f"sha256:{name}", "sha256:none"]) == {KEY}
        assert await store.documents.naming(["sha256:one"]) == frozenset()
        assert await store.documents.named(["sha256:r", "sha256:back", "sha256:one"]) == {"sha256:r", "sha256:back"}
        await store.documents.judge_many([Judged("sha256:two", "unverified", NOBODY)])
        assert await store.documents.named(["sha256:r", "sha256:back"]) == {"sha256:r"}

    async def test_approvals_come_in_the_order_they_were_kept(self, store: Store) -> None:
        """Those that are verified, of the documents asked for."""
        made = [row(f"y{number}", "approval", "dev", subject="sha256:one") for number in (3, 1, 2)]
        await store.documents.put_many([*made, row("w", "approval", "dev", subject="sha256:one", standing="pending")])
        await store.documents.put(row("o", "approval", "dev", subject="sha256:other"))
        found = await store.documents.approvals(["sha256:one"])
        assert [entry.digest for entry in found] == ["sha256:y3", "sha256:y1", "sha256:y2"]

    async def test_a_number_is_taken_by_what_is_verified(self, store: Store) -> None:
        """In each of its environments; what waits for signatures takes none."""
        prod = CellKey("shop", "cart", "prod")
        await store.documents.put_many([tombstone("a", 7, "dev", "prod"), tombstone("b", 8, standing="pending")])
        wanted = [(KEY, 7), (prod, 7), (KEY, 8), (KEY, 9)]
        assert await store.documents.taken(wanted) == {(KEY, 7): "sha256:a", (prod, 7): "sha256:a"}

    async def test_entries_know_all_but_the_envelope(self, store: Store) -> None:
        """And how long that is."""
        kept = deployment("one", 1, selector={"all": True}, judgement={"owners": ["ada"]})
        await store.documents.put(kept)
        entry = (await store.documents.entries([kept.digest, "sha256:none"]))[kept.digest]
        assert entry.size == len(kept.envelope)
        fields = ("digest", "kind", "project", "cell", "environments", "sequence", "meta", "standing", "judgement")
        assert all(getattr(entry, name) == getattr(kept, name) for name in fields)

    async def test_what_does_not_verify_is_told_apart_by_what_it_was(self, store: Store) -> None:
        """What was verified once is left out unless asked for."""
        await store.documents.put_many(
            [release("good"), release("waits", standing="pending"), release("was"), release("bank", project="bank")]
        )
        await store.documents.judge_many([Judged("sha256:was", "unverified", {"once": True})])
        assert [entry.digest for entry in await store.documents.loose("shop", once=False)] == ["sha256:waits"]
        assert {entry.digest for entry in await store.documents.loose("shop", once=True)} == {
            "sha256:waits",
            "sha256:was",
        }

    async def test_places_are_counted_once(self, store: Store) -> None:
        """Cells times environments with something current, and those that come besides."""
        await store.documents.put_many([tombstone("a", 1, "dev", "prod"), tombstone("b", 2), release("r")])
        await store.documents.put(deployment("c", 1))
        assert await store.documents.places("shop") == 2
        assert await store.documents.places("shop", [("cart", "dev"), ("web", "dev"), ("web", "dev")]) == 3
        assert await store.documents.places("bank") == 0


@pytest.mark.parametrize("seed", range(4))
async def test_whatever_happens_it_is_what_reading_all_of_it_gives(store: Store, seed: int) -> None:
    """V14: documents that come, are judged and dropped in any order leave what a reader of everything would choose."""
    chance = random.Random(seed)
    pool = list(_pool())
    for _ in range(60):
        some = chance.sample(pool, chance.randint(1, 4))
        match chance.randrange(4):
            case 0 | 1:
                known = await store.documents.get_many([one.digest for one in some])
                seen = {digest: one.envelope for digest, one in known.items()}
                judged = [replace(one, standing=chance.choice(("verified", "pending"))) for one in some]
                await store.documents.put_many(judged, seen)
            case 2:
                standings = ("verified", "pending", "unverified")
                await store.documents.judge_many([Judged(one.digest, chance.choice(standings), {}) for one in some])
            case _:
                await store.documents.drop([one.digest for one in some])
        kept = (await store.documents.list(limit=1000)).items
        current = await store.documents.current(6)
        assert {key: {entry.digest for entry in found} for key, found in current.items()} == _current(kept, 6)
        for project in ("shop", "bank"):
            assert await store.documents.usage(project) == _usage(kept, project)


def _pool() -> Iterable[DocumentRow]:
    for project in ("shop", "bank"):
        for name in ("r", "s"):
            yield release(f"{project}-{name}", project=project)
        for number in range(8):
            about, where = f"{project}-{'rs'[number % 2]}", {"regions": ["eu"]} if number % 3 else {"all": True}
            name = f"{project}-d{number}"
            yield deployment(name, number, *_WHERE[number % 3], of=about, selector=where, project=project)
        yield tombstone(f"{project}-end", 4, project=project)


_WHERE = (("dev",), ("prod",), ("dev", "prod"))


def _current(kept: Iterable[DocumentRow], newest: int) -> dict[CellKey, set[str]]:
    good = {one.digest: one for one in kept if one.standing == "verified"}
    best: dict[tuple[CellKey, str], DocumentRow] = {}
    for one in good.values():
        about = good.get(one.meta.get("subject", ""))
        complete = one.kind == "tombstone" or (one.kind == "deployment" and about is not None)
        if not complete or one.sequence > newest:
            continue
        for environment in one.environments:
            group = (CellKey(one.project, one.cell, environment), repr(one.meta.get("selector")))
            best[group] = min(best.get(group, one), one, key=lambda each: (-each.sequence, each.digest))
    found: dict[CellKey, set[str]] = {}
    for (key, _), one in best.items():
        found.setdefault(key, set()).add(one.digest)
    return found


def _usage(kept: Iterable[DocumentRow], project: str) -> Usage:
    good = [one.size for one in kept if one.project == project and one.standing == "verified"]
    loose = [one.size for one in kept if one.project == project and one.standing != "verified"]
    return Usage(len(good), sum(good), len(loose), sum(loose))
