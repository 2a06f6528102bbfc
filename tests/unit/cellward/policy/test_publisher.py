"""The publisher signs nothing again but what its own record has, whatever a hub shows."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta

import pytest
from tuf.api.metadata import Targets

from cellward.documents.dsse import Ed25519Signer
from cellward.documents.keyring import Keyring, KeyringEntry, State
from cellward.errors import CellwardError
from cellward.policy import trust
from cellward.policy.floors import PolicyFloors, RoleFloor
from cellward.policy.model import BindingSet
from cellward.policy.published import RepositoryState, seen_in
from cellward.policy.publisher import (
    Publication,
    SigningKeys,
    draft_again,
    draft_keyring,
    draft_policy,
    draft_refresh,
    finish,
    preview,
    refresh,
)
from cellward.policy.record import Record
from tests.fakes.policy import PolicyWorld, denying, keys_of, moment, now

ROLES = ("targets", "keyring", "snapshot")


@pytest.fixture
def world() -> PolicyWorld:
    """An authority that has published twice; ``world.source`` has all versions."""
    made = PolicyWorld()
    made.publish(denying("Old"))
    made.publish(denying("New", version="1.0.1"))
    return made


def versions(publication: Publication) -> dict[str, int]:
    """Versions in a publication, without the root."""
    return {file.role: file.version for file in publication.metadata if file.role != "root"}


def oldest(world: PolicyWorld) -> RepositoryState:
    """The set published first, as a hub may show it."""
    first = {
        role: world.source.metadata[role, min(version for name, version in world.source.metadata if name == role)]
        for role in ROLES
    }
    return RepositoryState((world.root,), first["targets"], first["keyring"], first["snapshot"])


def entry(world: PolicyWorld, key: Ed25519Signer, state: State = "active") -> Keyring:
    """A keyring with one author."""
    one = KeyringEntry(
        key.keyid, "ed25519", key.public_spki_der, "alice", ("release",), ("*",), ("*",),
        now(), now() + timedelta(days=1), state,
    )  # fmt: skip
    return Keyring(world.realm, 1, (one,))


def code(error: pytest.ExceptionInfo[CellwardError]) -> str:
    """Code of a refusal."""
    return error.value.code


def test_a_hub_that_shows_an_older_set_does_not_get_it_signed_again(world: PolicyWorld) -> None:
    """What a refresh signs is what the record has; the older set on show changes nothing of it."""
    honest = seen_in(world.state, (world.root,))
    lying = seen_in(oldest(world), (world.root,))
    for seen in (honest, lying, PolicyFloors()):
        made = refresh(world.record, keys=world.keys, now=moment(), seen=seen)
        signed = {file.role: file.data for file in made.metadata}
        assert (signed["targets"], signed["keyring"]) == (world.record.targets, world.record.keyring_metadata)
        assert versions(made)["snapshot"] > world.version("snapshot")


def test_an_older_record_signs_nothing(world: PolicyWorld) -> None:
    """Somebody else has published since: by what this machine remembers, or by what a hub shows and verifies."""
    older = world.record
    world.publish(denying("Newest", version="1.0.2"))
    for seen in (world.floors, seen_in(world.state, (world.root,))):
        for sign in (
            lambda seen=seen: refresh(older, keys=world.keys, now=moment(), seen=seen),
            lambda seen=seen: draft_keyring(older, keyring=world.keyring, now=moment(), seen=seen),
        ):
            with pytest.raises(CellwardError) as caught:
                sign()
            assert code(caught) == "policy/record-older"
    forked = PolicyFloors({"keyring": RoleFloor(world.version("keyring"), "sha256:" + "0" * 64)})
    with pytest.raises(CellwardError) as caught:
        refresh(world.record, keys=world.keys, now=moment(), seen=forked)
    assert code(caught) == "policy/record-older"


def test_numbers_are_the_clocks_and_above_everything_known(world: PolicyWorld) -> None:
    """A colleague's clock a few minutes ahead makes no refusal; one far ahead is ignored."""
    at = moment() + timedelta(minutes=5)
    world.publish(denying("Ahead", version="1.0.2"), at=at)
    before = {role: world.version(role) for role in ROLES}
    after = versions(world.make([denying("Next", version="1.0.3")]))
    assert after == {role: version + 1 for role, version in before.items()}
    # A refresh that only another runner knows of: its record says nothing about it.
    seen = PolicyFloors({"snapshot": RoleFloor(before["snapshot"] + 1000, "sha256:" + "0" * 64)})
    made = refresh(world.record, keys=world.keys, now=moment(), seen=seen)
    assert versions(made)["snapshot"] == before["snapshot"] + 1001
    wrong = PolicyFloors({"snapshot": RoleFloor(2**53 - 1, "sha256:" + "0" * 64)})
    made = refresh(world.record, keys=world.keys, now=at, seen=wrong)
    assert versions(made)["snapshot"] == world.version("snapshot") + 1


def test_a_root_shown_twice_is_refused_and_remembered_nowhere(world: PolicyWorld) -> None:
    """It once became version 2 in the floors, and then no honest hub could be published to."""
    twice = RepositoryState((world.root, world.root))
    with pytest.raises(CellwardError) as caught:
        seen_in(twice, (world.root,))
    assert code(caught) == "policy/unverified"
    made = refresh(world.record, keys=world.keys, now=moment(), seen=seen_in(world.state, (world.root,)))
    assert made.floors.roles["root"].version == 1
    assert [file.version for file in made.metadata if file.role == "root"] == [1]


def test_the_first_root_is_ours_not_the_hubs(world: PolicyWorld) -> None:
    """Another installation's set verifies by its own root alone."""
    other = PolicyWorld()
    other.publish(denying("Bad"))
    with pytest.raises(CellwardError) as caught:
        seen_in(other.state, (world.root,))
    assert code(caught) == "policy/unverified"


def test_a_record_is_read_back_and_nothing_else(world: PolicyWorld) -> None:
    """Strictly, by its own signatures, from the root this side trusts."""
    data = world.record.to_bytes()
    assert Record.from_bytes(data, root=world.root) == world.record
    value = json.loads(data)
    earlier = json.loads(PolicyWorld().record.to_bytes())
    changed = json.dumps({**value, "content": earlier["content"]})
    for bad in (
        b"", b"[]", b"{}", data.replace(b'"snapshot"', b'"more": 1, "snapshot"'), changed.encode(),
        json.dumps({**value, "targets": None}).encode(),
        json.dumps({**value, "keyring": value["targets"]}).encode(),
        json.dumps({**value, "seen": {}}).encode(),
        json.dumps({**value, "schema": "cellward.policy-record/v2"}).encode(),
        data.replace(b'"snapshot": ', b'"snapshot": 1, "snapshot": '),
    ):  # fmt: skip
        with pytest.raises(CellwardError) as caught:
            Record.from_bytes(bad, root=world.root)
        assert code(caught) == "policy/bad-record"
    with pytest.raises(CellwardError) as caught:
        Record.from_bytes(data, root=PolicyWorld().root)
    assert code(caught) == "policy/bad-record"


def test_a_key_that_was_revoked_is_not_brought_back(world: PolicyWorld) -> None:
    """Neither by the record, nor by what this machine remembers, also when it was left out in between."""
    key = Ed25519Signer.generate()
    world.amend(keyring=entry(world, key, "retired"))
    for state in ("active", "retired", "compromised"):
        if state == "active":
            with pytest.raises(CellwardError) as caught:
                draft_keyring(world.record, keyring=entry(world, key, state), now=moment())
            assert code(caught) == "policy/key-state-lifted"
        else:
            world.amend(keyring=entry(world, key, state))
    seen = world.floors
    world.amend(keyring=Keyring(world.realm, 2, ()))
    for lifted in ("active", "retired"):
        with pytest.raises(CellwardError) as caught:
            draft_keyring(world.record, keyring=entry(world, key, lifted), now=moment(), seen=seen)
        assert code(caught) == "policy/record-older" or code(caught) == "policy/key-state-lifted"
        with pytest.raises(CellwardError) as caught:
            draft_keyring(
                world.record, keyring=entry(world, key, lifted), now=moment(), seen=PolicyFloors({}, seen.keys)
            )
        assert code(caught) == "policy/key-state-lifted"


def test_each_publication_says_what_it_was_made_from(world: PolicyWorld) -> None:
    """Targets and keyring name version and digest of what they replace; a refresh replaces neither."""
    before = world.record
    made = world.make([denying("Next", version="1.0.2")])
    for role in ("targets", "keyring"):
        data = next(file.data for file in made.metadata if file.role == role)
        assert trust.base_of(trust.parse(Targets, data).signed) == before.base(role)
    first = PolicyWorld().make([denying("Old")])
    for role in ("targets", "keyring"):
        data = next(file.data for file in first.metadata if file.role == role)
        assert trust.base_of(trust.parse(Targets, data).signed) is None


def test_before_the_first_publication_there_is_nothing_to_renew() -> None:
    """A record that was only made, as ``init`` does, signs no snapshot."""
    fresh = PolicyWorld()
    for sign in (
        lambda: draft_refresh(fresh.record),
        lambda: draft_keyring(fresh.record, keyring=fresh.keyring, now=moment()),
    ):
        with pytest.raises(CellwardError) as caught:
            sign()
        assert code(caught) == "policy/incomplete-set"


def test_a_preview_is_signed_by_nobody(world: PolicyWorld) -> None:
    """A dry run shows versions and content, and holds no signature that could be used."""
    draft = draft_keyring(world.record, keyring=replace(world.keyring, version=2), now=moment())
    shown = preview(draft, now=moment())
    for file in shown.metadata:
        if file.role in ("keyring", "snapshot"):
            assert json.loads(file.data)["signatures"] == []
    with pytest.raises(CellwardError) as caught:
        finish(draft.signed(SigningKeys(keyring=(Ed25519Signer.generate(),))), world.keys.publisher, now=moment())
    assert code(caught) == "policy/unverified"


def test_expired_targets_are_not_put_under_a_new_snapshot(world: PolicyWorld) -> None:
    """Policy that ran out is published again, with the policy key."""
    with pytest.raises(CellwardError) as caught:
        refresh(world.record, keys=world.keys, now=moment() + timedelta(days=200))
    assert code(caught) == "policy/expired"


def test_after_a_rotation_the_record_goes_on(world: PolicyWorld) -> None:
    """What the old keys signed is the base of what the new ones sign, together with the root; alone it is refused."""
    before, world.policy_key = world.record, Ed25519Signer.generate()
    world.rotate(targets=keys_of(world.policy_key))
    with pytest.raises(CellwardError) as caught:
        world.record.check()
    assert code(caught) == "policy/bad-record"
    draft = replace(draft_again(before, now=moment()), record=world.record)
    world.take(finish(draft.signed(world.keys), world.keys.publisher, now=moment()))
    made = world.publish(denying("New", version="1.0.2"))
    assert made.floors.roles["root"].version == 2
    assert Record.from_bytes(world.record.to_bytes(), root=world.root) == world.record


def test_v1_a_number_of_the_future_gets_under_no_snapshot(world: PolicyWorld) -> None:
    """V1: a proposal with one would stand in record and floors, above every honest number that comes."""
    record = world.record
    keyring = replace(record.keyring, version=record.keyring.version + 1)
    ahead = draft_keyring(record, keyring=keyring, now=moment() + timedelta(days=365))
    with pytest.raises(CellwardError) as caught:
        finish(ahead.signed(world.keys), world.keys.publisher, now=moment())
    assert code(caught) == "document/number-ahead"


def test_v1_what_only_an_older_root_verifies_is_nothing_newer(world: PolicyWorld) -> None:
    """V1: a stolen key that was rotated out signs any number; a hub that shows it stops no publisher."""
    stolen, world.policy_key = world.policy_key, Ed25519Signer.generate()
    before = world.record
    draft = draft_again(before, now=moment() + timedelta(minutes=5)).signed(
        SigningKeys(policy=(stolen,), keyring=(world.keyring_key,))
    )
    shown = RepositoryState((world.root,), draft.targets, draft.keyring)
    assert seen_in(shown, before.roots).roles["targets"].version > world.version("targets")
    world.rotate(targets=keys_of(world.policy_key))
    for roots in ((world.root,), world.record.roots):
        assert set(seen_in(replace(shown, roots=roots), world.record.roots).roles) == {"root"}
    assert set(seen_in(replace(shown, roots=world.record.roots), (world.root,)).roles) == {"root"}
    forged = replace(shown, targets=replace(draft, targets=_unsigned(draft.targets)).targets)
    with pytest.raises(CellwardError) as caught:
        seen_in(forged, world.record.roots)
    assert code(caught) == "policy/unverified"


def _unsigned(data: bytes) -> bytes:
    return json.dumps({**json.loads(data), "signatures": []}).encode()


def test_v1_the_keyring_role_of_a_record_is_what_the_targets_delegate_to(world: PolicyWorld) -> None:
    """V1: no signature covers the field, and the policy key would sign it next time, without showing it."""
    thief = keys_of(world.keyring_key, Ed25519Signer.generate())
    for role in (thief, keys_of(Ed25519Signer.generate()), replace(thief, threshold=2)):
        with pytest.raises(CellwardError) as caught:
            replace(world.record, keyring_role=role).check()
        assert code(caught) == "policy/bad-record"
        # As a library, too: the next publication delegates to who is in force.
        world_of_thief = replace(world.record, keyring_role=role)
        drafted = draft_policy(world_of_thief, bundles=[], bindings=BindingSet(world.realm, ()), now=moment())
        delegations = trust.parse(Targets, drafted.targets).signed.delegations
        assert delegations is not None
        assert delegations.roles is not None
        assert delegations.roles["keyring"].keyids == [world.keyring_key.keyid]


def test_a_record_of_a_version_that_took_files_for_documents_is_read(world: PolicyWorld) -> None:
    """What it says of itself is derived; it is written anew as this version does, and a wrong one is refused still."""
    data = world.record.to_bytes()
    value = json.loads(data)
    files = {
        "root": world.root,
        "targets": world.record.targets or b"",
        "keyring": world.record.keyring_metadata or b"",
    }
    value["seen"] = {
        role: {"version": one["version"], "digest": trust.digest_of(files[role])} for role, one in value["seen"].items()
    }
    assert Record.from_bytes(json.dumps(value).encode(), root=world.root).to_bytes() == data
    value["seen"]["root"]["digest"] = "sha256:" + "0" * 64
    with pytest.raises(CellwardError) as caught:
        Record.from_bytes(json.dumps(value).encode(), root=world.root)
    assert caught.value.code == "policy/bad-record"
