"""What an author signs next, decided from memory: pure, so each rule is tried by itself."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import pytest

from cellward.api import schemas
from cellward.documents.dsse import parse_envelope
from cellward.documents.facts import Selector
from cellward.documents.keyring import Keyring, Verifier
from cellward.documents.model import Tombstone
from cellward.documents.numbers import milliseconds
from cellward.errors import CellwardError
from cli.door.client import Client
from cli.door.documents import HubDocuments
from cli.memory import Memory
from cli.peers import chosen_fallback
from cli.planning import Order, Plan, Target, Wish, plan_cell, plan_end
from cli.signing import Draft, remember, taken
from cli.state.memory import remember as kept
from cli.state.records import record_of
from cli.state.store import Store
from tests.fakes.signed import Author as SigningAuthor
from tests.fakes.signed import Keys

REALM = "sha256:" + "1" * 64
KEY = ("shop", "cart")
NOW = datetime(2026, 3, 1, tzinfo=UTC)
LIFE = timedelta(days=30)
DEV = Target(("dev",), Selector(all=True), {}, 0)
WISH = Wish(REALM, LIFE, "previous", replace=False, keyid="a" * 64)
STONE = Tombstone(
    realm=REALM, project="shop", cell="cart", environments=("dev",), sequence=1, delete_data=True, issued_at=NOW,
    not_after=NOW,
)  # fmt: skip


class Author:
    """One machine: plans, and remembers what it signed with one key."""

    def __init__(self, directory: Path) -> None:
        self.store = Store(directory, REALM)

    def memory(self, now: datetime) -> Memory:
        """What it knows."""
        return Memory(self.store, self.store.read(), now)

    def plan(
        self, version: str = "1", *, now: datetime = NOW, wish: Wish = WISH, order: Order | None = None, **spec: Any
    ) -> Plan:
        """Decide, without signing."""
        body = {"version": version, **spec}
        return plan_cell(KEY, body, DEV, wish, self.memory(now), order or Order(), now)

    def end(self, *, now: datetime = NOW, order: Order | None = None) -> Draft:
        """Decide about an end, without signing."""
        return plan_end(STONE, LIFE, self.memory(now), order or Order(), now)

    def signed(self, *drafts: Draft, delivered: bool = True, keyid: str = WISH.keyid) -> None:
        """Remember drafts as signed, and maybe as taken by a hub."""
        with self.store.change() as change:
            remember(change, drafts, keyid)
        if delivered:
            taken(self.store, drafts)


@pytest.fixture
def author(tmp_path: Path) -> Author:
    """A machine without memory."""
    return Author(tmp_path)


def later(**passed: float) -> datetime:
    """A time after NOW."""
    return NOW + timedelta(**passed)


def test_the_same_file_is_unchanged_for_half_of_its_life(author: Author) -> None:
    """Then it is signed anew, before agents that were away refuse it; so it is when another life is asked for."""
    first = author.plan()
    assert first.change == "deployed"
    author.signed(*first.drafts)
    assert author.plan(now=later(days=14)).change == "unchanged"
    assert author.plan(now=later(days=16)).change == "deployed"
    for days in (10, 90):
        assert author.plan(now=later(days=1), wish=replace(WISH, life=timedelta(days=days))).change == "deployed"


@pytest.mark.parametrize(
    ("wish", "spec"),
    [
        (replace(WISH, replace=True), {}),
        (replace(WISH, fallback=None), {}),
        (replace(WISH, fallback="sha256:" + "2" * 64), {}),
        (replace(WISH, keyid="b" * 64), {}),
        (WISH, {"owner": "team"}),
        (WISH, {"secrets": ["x"]}),
    ],
    ids=["replace", "no-fallback", "fallback", "another-key", "owner", "spec"],
)
def test_any_difference_of_the_payload_is_signed(author: Author, wish: Wish, spec: dict[str, Any]) -> None:
    """And the release is the remembered one only where the whole payload and the key that signed it are the same."""
    first = author.plan()
    author.signed(*first.drafts)
    plan = author.plan(now=later(days=1), wish=wish, **spec)
    assert plan.change == "deployed"
    same = plan.deployment.release_digest == first.deployment.release_digest
    assert same is (wish.replace is WISH.replace and wish.keyid == WISH.keyid and not spec)
    assert plan.deployment.sequence > first.deployment.sequence


def test_a_colleagues_release_is_not_ones_own(author: Author) -> None:
    """It was named as a peer's once; what this key signs is a release of its own, though it says the same."""
    theirs = author.plan().drafts[0]
    with author.store.change() as change:
        change.put(theirs.payload)
        change.state = kept(change.state, record_of(theirs.document, theirs.digest, others=("c" * 64,)))
    plan = author.plan(now=later(days=1))
    assert plan.deployment.release_digest != theirs.digest
    assert [one.document.kind for one in plan.drafts] == ["release", "deployment"]


def test_an_upload_that_failed_is_handed_over_again(author: Author) -> None:
    """The same bytes with the same number, not another document that would share it."""
    first = author.plan()
    author.signed(*first.drafts, delivered=False)
    again = author.plan(now=later(minutes=1))
    assert (again.change, again.digest) == ("delivered-again", first.digest)
    assert [one.digest for one in again.drafts] == [one.digest for one in first.drafts]
    other = author.plan("2", now=later(minutes=1))
    assert other.deployment.sequence > first.deployment.sequence


def test_an_end_that_failed_is_handed_over_again(author: Author) -> None:
    """The same tombstone; another one once a hub took it, half of its life is over, or somebody signed since."""
    first = author.end()
    author.signed(first, delivered=False)
    assert author.end(now=later(minutes=1)).digest == first.digest
    assert author.end(now=later(days=16)).digest != first.digest
    number = first.document.sequence  # type: ignore[union-attr]  # a tombstone
    newer = Order(numbers=(number + 5,), newest={"dev": number + 5})
    other = author.end(now=later(milliseconds=2), order=newer)
    assert other.document.sequence == number + 6  # type: ignore[union-attr]
    taken(author.store, [first])
    assert author.end(now=later(minutes=1)).digest != first.digest


@pytest.mark.parametrize("ending", [False, True], ids=["deployment", "tombstone"])
def test_numbers_and_times_are_the_clocks_and_above_all_that_is_known(author: Author, ending: bool) -> None:
    """By this machine's memory and by verified documents, each alone; what is beyond the bound counts for nothing."""

    def made(now: datetime, order: Order | None = None) -> tuple[int, datetime]:
        found = (
            author.end(now=now, order=order).document if ending else author.plan("9", now=now, order=order).deployment
        )
        return found.sequence, found.issued_at  # type: ignore[union-attr]  # never a release

    clock = milliseconds(NOW)
    assert made(NOW) == (clock, NOW)
    ahead = later(minutes=5)
    hub = Order((milliseconds(ahead),), ahead, {"dev": milliseconds(ahead)})
    assert made(NOW, hub) == (milliseconds(ahead) + 1, ahead + timedelta(milliseconds=1))
    far = later(minutes=11)
    assert made(NOW, Order((milliseconds(far),), far, {})) == (clock, NOW)
    author.signed(*author.plan(now=ahead).drafts)
    assert made(NOW) == (milliseconds(ahead) + 1, ahead + timedelta(milliseconds=1))


def test_what_somebody_else_signed_since_is_not_unchanged(author: Author) -> None:
    """Verified, above what memory has, in this environment."""
    first = author.plan()
    author.signed(*first.drafts)
    number = first.deployment.sequence + 1
    for environment, change in (("prod", "unchanged"), ("dev", "deployed")):
        order = Order((number,), NOW, {environment: number})
        assert author.plan(now=later(days=1), order=order).change == change


def test_a_fallback_is_typed_whole_or_named_by_enough_of_one_in_memory(author: Author) -> None:
    """Twelve digits of a release known here; fewer could be another one's, and nothing is looked up elsewhere."""
    known = author.plan().drafts[0]
    author.signed(known)
    memory, digits = author.memory(NOW), known.digest.removeprefix("sha256:")
    for text in (digits[:12], known.digest[:30], known.digest):
        assert chosen_fallback(text, [KEY], memory) == known.digest
    other = "sha256:" + "9" * 64
    assert chosen_fallback(other, [KEY], memory) == other
    for bad in (digits[:11], "9" * 12, "sha256:"):
        with pytest.raises(CellwardError) as caught:
            chosen_fallback(bad, [KEY], memory)
        assert caught.value.code == "cli/bad-option"


class Hub:
    """A hub that lists one document of a cell under another cell's name; satisfies what the door asks of a client."""

    def __init__(self, listed: schemas.DocumentSummary, envelope: bytes) -> None:
        self._listed = listed
        self._envelope = envelope

    def get(self, path: str, model: type[Any], **query: object) -> Any:
        """A list or the document."""
        if path == "/documents":
            return schemas.DocumentList(items=[self._listed], next_cursor="")
        return schemas.Document(**self._listed.model_dump(), envelope=self._envelope)


@pytest.mark.parametrize("cell", ["cart", "front"])
def test_numbers_of_another_cell_are_none_of_this_one(cell: str) -> None:
    """Verified all the same: what a hub shows for a cell counts only where the document says that very cell."""
    ada = SigningAuthor(REALM)
    keys = Keys(ada)
    envelope = ada.deployment(ada.release(cell), 7, cell=cell)
    listed = schemas.DocumentSummary(
        digest=parse_envelope(envelope).digest, kind="deployment", project="shop", cell="cart", environments=["dev"],
        sequence=7, state="verified", signers=["ada"], needed=1,
    )  # fmt: skip
    keyring = Keyring(REALM, 1, tuple(keys.entries.values()))
    hub = HubDocuments(cast("Client", Hub(listed, envelope)), lambda: Verifier(keyring, REALM), NOW)
    assert Order.of(hub.numbered("shop", "cart")).numbers == ((7,) if cell == "cart" else ())
