"""Which keyring is signed after the one in force; what agents read leniently could stop every later command."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from cellward.documents.canonical import MAX_INT
from cellward.documents.dsse import Ed25519Signer
from cellward.documents.keyring import Keyring, KeyringEntry, check_following, following_version, is_owner
from cellward.documents.numbers import milliseconds
from cellward.errors import CellwardError

NOW = datetime(2026, 11, 30, 12, tzinfo=UTC)
REALM = "sha256:" + "0" * 64


def entry(owner: str = "ada") -> KeyringEntry:
    """A key of an author."""
    signer = Ed25519Signer.generate()
    start = NOW - timedelta(minutes=5)
    return KeyringEntry(
        signer.keyid, signer.scheme, signer.public_spki_der, owner, ("release",), ("*",), ("*",), start,
        start + timedelta(days=365),
    )  # fmt: skip


def refused(before: Keyring | None, after: Keyring) -> str:
    """The code with which it is not signed."""
    with pytest.raises(CellwardError) as caught:
        check_following(before, after, NOW)
    return caught.value.code


def test_a_keyring_counts_by_one() -> None:
    """Not back, not further, and the same number only for the same entries."""
    ada, bob = entry(), entry("bob")
    before = Keyring(REALM, 7, (ada,))
    for version in (7, 8):
        check_following(before, replace(before, version=version), NOW)
    check_following(before, Keyring(REALM, 8, (ada, bob)), NOW)
    for version in (1, 6, 7, 9, milliseconds(NOW)):
        assert refused(before, Keyring(REALM, version, (ada, bob))) == "document/bad-keyring"
    assert refused(before, Keyring(REALM, MAX_INT, (ada, bob))) == "document/number-ahead"
    assert refused(None, Keyring(REALM, MAX_INT, (ada,))) == "document/number-ahead"


def test_a_number_that_was_once_signed_far_ahead_stops_nobody() -> None:
    """No command could count on from 2^53 - 1, and agents take no number of the future: it goes on at the clock."""
    ada = entry()
    stuck = Keyring(REALM, MAX_INT, (ada,))
    freed = Keyring(REALM, following_version(stuck, NOW), (ada, entry("bob")))
    assert freed.version == milliseconds(NOW)
    check_following(stuck, freed, NOW)
    assert following_version(freed, NOW) == freed.version + 1
    check_following(freed, replace(freed, version=freed.version + 1), NOW)


@pytest.mark.parametrize(
    "change",
    [
        {"scheme": "ml-dsa-44"}, {"not_before": NOW + timedelta(hours=1)}, {"not_after": NOW - timedelta(minutes=5)},
        {"not_after": NOW + timedelta(days=3660)}, {"owner": "ada  x"},
    ],
    ids=lambda change: next(iter(change)),
)  # fmt: skip
def test_what_no_command_makes_is_not_signed(change: dict[str, object]) -> None:
    """A scheme with which nothing verifies, a life that begins later or never ends: new or there already."""
    ada = entry()
    other = replace(ada, **change)  # type: ignore[arg-type]
    before = Keyring(REALM, 1, (ada,))
    assert refused(before, Keyring(REALM, 2, (other,))) == "document/bad-keyring"
    assert refused(Keyring(REALM, 1, ()), Keyring(REALM, 2, (other,))) == "document/bad-keyring"
    # What is in force was signed once: it may be retired, whatever it has.
    check_following(Keyring(REALM, 1, (other,)), Keyring(REALM, 2, (replace(other, state="retired"),)), NOW)


@pytest.mark.parametrize(
    "owner", ["ada", "Ada Lovelace", "ada@example.org", "o'brien", "team-a", "a+b@x.y", "hub", "abcdef", "x" * 64]
)
def test_honest_owners(owner: str) -> None:
    """Names, addresses, teams."""
    assert is_owner(owner)


@pytest.mark.parametrize(
    "owner",
    [
        "", " ada", "ada ", "ada  lovelace", "ada:", 'ada"', "ada, bob", "ad\u0430", "j\u00f6rg", "a\nb", "ada\n",
        "x" * 65,
        "0123456789ab", "f" * 64, "(ada)", "ada\u00a0l", "a/b",
    ],
)  # fmt: skip
def test_owners_that_could_be_taken_for_something_else(owner: str) -> None:
    """Another person, a line of ours, or a key id."""
    assert not is_owner(owner)
