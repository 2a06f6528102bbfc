"""What a person is shown of what he signs: every field of it, now and of a version to come (H-3, V15, V16).

Asserted by what Bob's keys signed, and by what he was told before one was opened.
"""

# ruff: noqa: F811 - fixtures of another module

from __future__ import annotations

import copy
import json
import re
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import event, given
from hypothesis import strategies as st
from tuf.api.metadata import Targets

from agent.policy.store import PolicyStore
from cellward.documents.canonical import MAX_INT
from cellward.documents.differences import quoted
from cellward.documents.dsse import Ed25519Signer
from cellward.documents.keyring import Keyring
from cellward.documents.revocations import Revocations, SignedLock, SignedQuarantine
from cellward.errors import CellwardError
from cellward.policy import publisher, trust
from cellward.policy.ceremony import Proposal
from cellward.policy.client import select_all
from cellward.policy.model import BINDINGS_TARGET
from cellward.policy.record import Record
from cli import proposals
from cli.keys import save_key
from tests.fakes.policy import PolicyWorld, denying, moment
from tests.hostile.test_ceremony import Ceremony, ceremony, edited  # noqa: F401 - fixture
from tests.hostile.test_policy_sets import Served

Place = tuple[str | int, ...]
#: Parts of a proposal's file with something that is signed.
PARTS = ("root", "targets", "keyring", "keyring.json", "revocations.json", "bindings.json")


@dataclass(frozen=True)
class Honest:
    """A proposal with everything in it that there can be."""

    own: Record
    file: dict[str, Any]
    lines: tuple[str, ...]

    def payload(self, part: str) -> Any:
        """One thing that is signed, as JSON."""
        if part == "bindings.json":
            return json.loads(b64decode(self.file["content"][BINDINGS_TARGET]))
        if part.endswith(".json"):
            return json.loads(b64decode(self.file["record"]))["content"][part.removesuffix(".json")]
        return json.loads(b64decode(self.file[part]))["signed"]

    def with_payload(self, part: str, payload: Any) -> Proposal:
        """The proposal as whoever carries it may write it; raises CellwardError where it is refused by its form."""
        file = copy.deepcopy(self.file)
        if part == "bindings.json":
            file["content"][BINDINGS_TARGET] = _text(payload)
        elif part.endswith(".json"):
            record = json.loads(b64decode(file["record"]))
            record["content"][part.removesuffix(".json")] = payload
            file["record"] = _text(record)
        else:
            file[part] = _text({**json.loads(b64decode(file[part])), "signed": payload})
        return Proposal.read(json.dumps(file).encode(), own=self.own)


def _text(value: Any) -> str:
    return b64encode(json.dumps(value).encode()).decode()


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> Honest:
    """The next root, the bindings in force, two authors, a lock, a quarantine and a minimum."""
    made = Ceremony(tmp_path_factory.mktemp("honest"))
    at = moment()
    own = made.record
    bob = replace(own.keyring.entries[0], **_key(Ed25519Signer.generate()), owner="bob")
    revocations = Revocations(
        own.realm,
        (SignedLock("cluster", "eu-9", "stolen, call +49 1", at),),
        (SignedQuarantine("shop", "cart", "prod", "odd traffic", at),),
        {"shop": at},
    )
    changed = replace(own, keyring=replace(own.keyring, version=2, entries=(*own.keyring.entries, bob)))
    draft = publisher.draft_policy(
        replace(changed, revocations=revocations), bundles=[made.archive], bindings=made.bindings, now=at
    )
    proposal = Proposal(draft, publisher.next_root(own.roots, changes={}, now=at))
    proposal.check(own)
    proposal.check_times(own, at)
    return Honest(own, json.loads(proposal.to_bytes()), tuple(proposals.fields(own, proposal)))


def _key(signer: Ed25519Signer) -> dict[str, Any]:
    return {"keyid": signer.keyid, "spki_der": signer.public_spki_der}


def places(value: Any, place: Place = ()) -> Iterator[Place]:
    """Every place in a value, itself apart."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, item in items:
        yield (*place, name)
        yield from places(item, (*place, name))


def changed_at(value: Any, place: Place, change: Callable[[Any], Any]) -> Any:
    """A copy with another value at a place."""
    found = copy.deepcopy(value)
    holder = found
    for name in place[:-1]:
        holder = holder[name]
    holder[place[-1]] = change(holder[place[-1]])
    return found


OTHER: dict[type, list[Callable[[Any], Any]]] = {
    bool: [lambda value: not value],
    int: [lambda value: value + 1, lambda _: MAX_INT, lambda value: -value],
    str: [
        lambda value: value + "x", lambda value: value[1:], lambda value: f"{value}   \x1b[2J",
        lambda _: "9999-01-01T00:00:00Z",
    ],
    list: [
        lambda value: value[1:], lambda value: value[::-1], lambda value: [*value, *value],
        lambda value: [*value, {"x": 1}],
    ],
    dict: [lambda value: {**value, "later": "field"}, lambda value: dict([*value.items()][1:]), lambda _: {}],
    type(None): [lambda _: {"version": 1, "digest": "sha256:" + "0" * 64}],
}  # fmt: skip


def at(value: Any, place: Place) -> Any:
    """What is at a place."""
    for name in place:
        value = value[name]
    return value


@given(st.data())
def test_v16_whatever_is_changed_is_shown_or_refused(honest: Honest, data: st.DataObject) -> None:
    """Any fields of any payload; one alone is named, with its new value."""
    part = data.draw(st.sampled_from(PARTS))
    before = payload = honest.payload(part)
    count = data.draw(st.integers(1, 3))
    for _ in range(count):
        place = data.draw(st.sampled_from([*places(payload)] or [()]))
        if place:
            change = data.draw(st.sampled_from(OTHER[type(at(payload, place))]))
            payload = changed_at(payload, place, change)
    if json.dumps(payload, sort_keys=True) == json.dumps(before, sort_keys=True):
        return
    try:
        lines = proposals.fields(honest.own, honest.with_payload(part, payload))
    except CellwardError:
        event(f"{part} refused")
        return
    event(f"{part} shown")
    assert [*honest.lines] != lines
    if count == 1 and not isinstance(at(payload, place), dict | list):
        name, shown = next(str(one) for one in place[::-1] if isinstance(one, str)), quoted(at(payload, place))
        # Where that is what is in force, nothing of it is left to tell.
        assert any(name in one and shown in one for one in lines) or len(lines) < len(honest.lines)


NAMES = {
    "keyring.json": "keyring/keyring.json",
    "revocations.json": "keyring/revocations.json",
    "bindings.json": BINDINGS_TARGET,
}


@pytest.mark.parametrize(
    ("part", "place", "new"),
    [
        ("root", ("expires",), "2040-01-01T00:00:00Z"),
        ("root", ("roles", "root", "threshold"), 1),
        ("root", ("later",), "words"),
        ("targets", ("version",), 77),
        ("targets", ("delegations", "later"), "words"),
        ("targets", ("targets", BINDINGS_TARGET, "length"), 7),
        ("targets", ("spec_version",), "1.0.99"),
        ("keyring", ("expires",), "2040-01-01T00:00:00Z"),
        ("keyring", ("targets", "keyring/keyring.json", "custom"), {"later": 1}),
        ("keyring.json", ("version",), MAX_INT),
        ("keyring.json", ("entries", 0, "notBefore"), "2036-01-01T00:00:00.001Z"),
        ("keyring.json", ("entries", 0, "notAfter"), "2036-01-01T00:00:00.001Z"),
        ("keyring.json", ("entries", 0, "scheme"), "ml-dsa-44"),
        ("keyring.json", ("entries", 1, "owner"), "x   \u0430 y"),
        ("keyring.json", ("entries", 1, "projects"), ["shop"]),
        ("revocations.json", ("locks", 0, "reason"), "false alarm; run: cellward unlock --signed cluster/eu-9"),
        ("revocations.json", ("locks", 0, "issuedAt"), "2036-01-01T00:00:00.001Z"),
        ("revocations.json", ("quarantines", 0, "reason"), "x" * 200),
        ("revocations.json", ("minimumIssuedAt", "shop"), "2036-01-01T00:00:00.001Z"),
        ("bindings.json", ("pruneLimit",), 11),
        ("bindings.json", ("bindings", 0, "parameters"), {"later": "words"}),
    ],
)  # fmt: skip
def test_v15_a_field_is_named_with_its_new_value(honest: Honest, part: str, place: Place, new: Any) -> None:
    """Path and value whole, quoted; full timestamps; also of fields that are in no version yet."""
    payload = copy.deepcopy(honest.payload(part))
    holder = payload
    for name in place[:-1]:
        holder = holder[name]
    holder[place[-1]] = new
    lines = proposals.fields(honest.own, honest.with_payload(part, payload))
    leaf = next(iter(new)) if isinstance(new, dict) else str(place[-1])
    path = re.compile(rf'[+~] {NAMES.get(part, part)} (?:.*[.])?(?:{leaf}|.*\["{leaf}"\]): ')
    # Of the bindings in force the record has no fields: all of the new ones come.
    changed = [line for line in lines if line not in honest.lines and (part != "bindings.json" or path.match(line))]
    (line,) = changed
    assert path.match(line)
    value = line.removeprefix(path.match(line)[0]).rpartition(" -> ")[2]  # type: ignore[index]
    assert json.loads(value) == (new[leaf] if isinstance(new, dict) else new)


def hidden(made: Ceremony, what: str) -> Proposal:
    """A renewal of the root, with something in it that was signed unseen."""
    keyring = made.record.keyring
    ada, following = keyring.entries[0], keyring.version + 1
    changes = {
        "version": replace(keyring, version=MAX_INT),
        "step": replace(keyring, version=following + 1),
        "scheme": replace(keyring, version=following, entries=(replace(ada, scheme="ml-dsa-44"),)),
        "notBefore": replace(
            keyring, version=following, entries=(replace(ada, not_before=ada.not_after - timedelta(seconds=1)),)
        ),
        "owner": replace(
            keyring,
            version=following,
            entries=(ada, replace(ada, **_key(Ed25519Signer.generate()), owner=f"bob {'0' * 64} active:" + " " * 80)),
        ),
    }
    record = replace(made.record, keyring=changes.get(what, keyring))
    draft = publisher.draft_again(record, now=moment())
    if what == "bindings":
        draft = replace(draft, targets=edited(draft.targets, lambda file: file.signed.targets.pop(BINDINGS_TARGET)))
    if what == "bundle":
        (bundle,) = {*trust.parse(Targets, draft.targets).signed.targets} - {BINDINGS_TARGET}
        draft = replace(draft, targets=edited(draft.targets, lambda file: file.signed.targets.pop(bundle)))
    return Proposal(draft, publisher.next_root(made.record.roots, changes={}, now=moment()))


@pytest.mark.parametrize("what", ["version", "step", "scheme", "notBefore", "owner", "bindings", "bundle"])
def test_v15_what_would_stop_or_mislead_people_afterwards_is_not_signed(ceremony: Ceremony, what: str) -> None:
    """A number at the end of all numbers, a key that never counts, a line for an owner, targets that no hub takes."""
    save_key(ceremony.home, "bob-keyring", ceremony.keyring, None)
    told, signed = ceremony.sign(hidden(ceremony, what))
    assert signed == set()
    assert told.exit_code != 0
    assert "[document/" in told.stderr or "[policy/bad-proposal]" in told.stderr


def test_v15_bindings_without_their_bundle_are_not_signed(ceremony: Ceremony) -> None:
    """They are at hand here, and name a bundle that the targets do not have."""
    draft = publisher.draft_policy(
        ceremony.record, bundles=[ceremony.archive], bindings=ceremony.bindings, now=moment()
    )
    (bundle,) = {*draft.content} - {BINDINGS_TARGET}
    targets = edited(draft.targets, lambda file: file.signed.targets.pop(bundle))
    content = {BINDINGS_TARGET: draft.content[BINDINGS_TARGET]}
    root = publisher.next_root(ceremony.record.roots, changes={}, now=moment())
    told, signed = ceremony.sign(Proposal(replace(draft, targets=targets, content=content), root))
    assert signed == set()
    assert "names a bundle" in told.stderr
    _, signed = ceremony.sign(Proposal(draft, root))
    assert signed == {"root", "targets"}


def test_the_hubs_own_key_is_not_signed_as_an_authors(ceremony: Ceremony) -> None:
    """No hub and no agent takes such a set, and no command takes an entry out of a keyring again."""
    entry = replace(ceremony.record.keyring.entries[0], **_key(ceremony.hub), owner="eve")
    keyring = replace(ceremony.record.keyring, version=2, entries=(*ceremony.record.keyring.entries, entry))
    draft = publisher.draft_again(replace(ceremony.record, keyring=keyring), now=moment())
    told, signed = ceremony.sign(Proposal(draft, publisher.next_root(ceremony.record.roots, changes={}, now=moment())))
    assert signed == set()
    assert "timestamp key" in told.stderr


def test_what_is_told_holds_against_a_narrow_terminal(ceremony: Ceremony) -> None:
    """No part of a value begins a line that looks like one of ours, at 80 columns, whatever it is filled with."""
    entry = replace(ceremony.record.keyring.entries[0], **_key(Ed25519Signer.generate()), owner="eve")
    reason = "-" * 30 + " + author " + entry.keyid + ' of "eve", active: approval of shop in dev'
    locks = replace(ceremony.record.revocations, locks=(SignedLock("cluster", "eu-9", reason, moment()),))
    draft = publisher.draft_again(replace(ceremony.record, revocations=locks), now=moment())
    told, signed = ceremony.sign(Proposal(draft, publisher.next_root(ceremony.record.roots, changes={}, now=moment())))
    assert signed == {"root", "targets"}
    lines = [line[at : at + 80] for line in told.stderr.splitlines() for at in range(0, max(1, len(line)), 80)]
    marks = ("  + ", "  - ", "  ~ ", "    | ", "  root: ", "  targets: ", "  keyring: ")
    assert all(line.startswith(marks) for line in lines if not line.endswith(":") or line.startswith(" "))
    assert not any(line.lstrip().startswith("+ author") for line in lines)
    assert json.dumps(reason) in told.stderr.replace("\n    | ", "")


def test_v8_agents_take_no_keyring_numbered_ahead_of_the_clock(tmp_path: Path) -> None:
    """By the clock, as every other number: an agent that was away did not see the steps in between."""
    world = PolicyWorld()
    world.publish(denying("Bad"))
    store = PolicyStore(tmp_path, root=world.root, realm=world.realm)
    for version, code in ((MAX_INT, "document/number-ahead"), (1_000_000, "")):
        world.amend(keyring=Keyring(world.realm, version, world.keyring.entries))
        try:
            store.commit(store.fetch(Served(world), select_all, moment()), moment(), "")
            found = ""
        except CellwardError as error:
            found = error.code
        assert found == code
