"""Realm, floors and structure of verified metadata."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from securesystemslib.signer import SSlibKey
from tuf.api.metadata import Metadata, MetaFile, Root, Snapshot, Targets

from cellward.documents.dsse import Ed25519Signer
from cellward.documents.numbers import milliseconds, next_number
from cellward.errors import CellwardError
from cellward.policy import trust
from cellward.policy.floors import PolicyFloors, RoleFloor
from cellward.policy.publisher import MetadataFile, create_root, sign_timestamp
from cellward.policy.signing import TufSigner
from tests.fakes.policy import PolicyWorld, denying, keys_of, now
from tests.fakes.refusals import refused

WORLD = PolicyWorld()
WORLD.publish(denying("Bad"))
GROWN = PolicyWorld()
for _ in range(3):
    GROWN.publish(denying("Bad"))
GROWN.refresh()
GROWN.timestamp()


def metadata_set(world: PolicyWorld) -> trust.MetadataSet:
    """Return what a world serves."""
    state = world.state
    assert state.snapshot is not None
    assert state.targets is not None
    assert state.keyring is not None
    timestamp = world.source.metadata["timestamp", world.timestamp_version]
    return trust.MetadataSet(state.roots, timestamp, state.snapshot, state.targets, state.keyring)


def code_of(source: trust.MetadataSet) -> str:
    """Return the code a set is refused with."""
    with pytest.raises(CellwardError) as caught:
        trust.verify_set(source)
    return caught.value.code


def test_realm_is_the_digest_of_the_signed_part() -> None:
    """Another signature on the same root is the same realm; another root is another."""
    metadata = Metadata[Root].from_bytes(WORLD.root)
    metadata.sign(TufSigner(Ed25519Signer.generate()), append=True)
    assert trust.realm_of(metadata.to_bytes()) == WORLD.realm
    assert trust.realm_of(PolicyWorld().root) != WORLD.realm


@pytest.mark.parametrize("data", [b"", b"{}", b"null", b"[" * 100_000, b"\xff", b'{"signed": {}, "signatures": []}'])
def test_garbage_is_no_root(data: bytes) -> None:
    """V16: bytes that are no root are refused, whatever they are."""
    with pytest.raises(CellwardError) as caught:
        trust.realm_of(data)
    assert caught.value.code == "policy/unverified"


def test_an_unsigned_root_has_no_realm() -> None:
    """The root must verify by its own keys."""
    metadata = Metadata[Root].from_bytes(WORLD.root)
    metadata.signatures.clear()
    with pytest.raises(CellwardError) as caught:
        trust.realm_of(metadata.to_bytes())
    assert caught.value.code == "policy/bad-root"


def test_one_key_under_two_ids_does_not_count_twice() -> None:
    """§2: securesystemslib counts ids; a root that lists one key twice is refused."""
    metadata = Metadata[Root].from_bytes(WORLD.root)
    signed = metadata.signed
    keyid = signed.roles["targets"].keyids[0]
    twin = replace_keyid(signed, keyid, "a" * 64)
    signed.add_key(twin, "targets")
    signed.roles["targets"].threshold = 2
    metadata.sign(TufSigner(WORLD.root_key))
    with pytest.raises(CellwardError) as caught:
        trust.realm_of(metadata.to_bytes())
    assert caught.value.code == "policy/bad-root"


def replace_keyid(root: Root, keyid: str, other: str) -> SSlibKey:
    """Return the same key under another id."""
    key = root.keys[keyid]
    return SSlibKey(other, key.keytype, key.scheme, key.keyval)


def test_a_good_set_verifies_offline() -> None:
    """What was accepted is verified again at every start, by signatures alone."""
    parsed = trust.verify_set(metadata_set(WORLD))
    assert (parsed.root.version, parsed.snapshot.version) == (1, WORLD.version("snapshot"))


def test_swapped_parts_do_not_verify() -> None:
    """Each part is held to the one above it."""
    good = metadata_set(WORLD)
    other = PolicyWorld()
    other.publish(denying("Bad"))
    foreign = metadata_set(other)
    for part in ("timestamp", "snapshot", "targets", "keyring"):
        assert code_of(replace(good, **{part: getattr(foreign, part)})) == "policy/unverified", part
    assert code_of(replace(good, roots=foreign.roots)) == "policy/unverified"
    assert code_of(replace(good, roots=(*good.roots, *good.roots))) == "policy/unverified"
    assert code_of(replace(good, keyring=good.targets)) == "policy/unverified"


@pytest.mark.parametrize("paths", [["*"], ["keyring/*", "bundles/*"], ["bundles/*"], []])
def test_the_keyring_role_gets_no_other_path(paths: list[str]) -> None:
    """The keyring key may not publish policy, whatever the targets say."""
    metadata = Metadata[Targets].from_bytes(metadata_set(WORLD).targets)
    delegations = metadata.signed.delegations
    assert delegations is not None
    assert delegations.roles is not None
    delegations.roles["keyring"].paths = paths
    with pytest.raises(CellwardError) as caught:
        trust.check_delegation(metadata.signed)
    assert caught.value.code == "policy/unverified"


def test_a_dropped_delegation_is_refused() -> None:
    """Without the keyring role there would be no keyring."""
    metadata = Metadata[Targets].from_bytes(metadata_set(WORLD).targets)
    metadata.signed.delegations = None
    with refused("policy/unverified"):
        trust.check_delegation(metadata.signed)


def test_equal_version_with_other_content_is_refused() -> None:
    """A second set of the same version is a fork, not an update."""
    parsed = trust.verify_set(metadata_set(WORLD))
    floors = trust.accept(parsed, PolicyFloors(), now())
    assert trust.accept(parsed, floors, now()) == floors
    for role in ("root", "timestamp", "snapshot", "targets", "keyring"):
        other = PolicyFloors({**floors.roles, role: RoleFloor(floors.roles[role].version, "sha256:" + "0" * 64)})
        with pytest.raises(CellwardError) as caught:
            trust.accept(parsed, other, now())
        assert caught.value.code == "policy/rollback"


@given(st.sampled_from(["root", "timestamp", "snapshot", "targets", "keyring"]), st.integers(-3, 3), st.booleans())
def test_floors_never_go_down(role: str, above: int, same: bool) -> None:
    """V1: whatever is accepted, no floor of the result is below the one before, of this role or of another."""
    parsed = trust.verify_set(metadata_set(GROWN))
    served = {name: floor.version for name, floor in trust.floors_of(parsed).items()}
    digest = trust.floors_of(parsed)[role].digest if same else "sha256:" + "0" * 64
    others = PolicyFloors({"other": RoleFloor(7, "x")})
    version = served[role] + above
    # What replaces targets or keyring must be made from what is in force, whatever its number.
    base = {"targets": trust.base_of(parsed.targets), "keyring": trust.base_of(parsed.keyring)}.get(role)
    if above < 0 and base is not None:
        version, digest = base.version, base.digest
    before = PolicyFloors({**others.roles, role: RoleFloor(version, digest)})
    if above < 0 or (above == 0 and same):
        after = trust.accept(parsed, before, now())
        assert {name: floor.version for name, floor in after.roles.items()} == {**served, "other": 7}
    else:
        with pytest.raises(CellwardError) as caught:
            trust.accept(parsed, before, now())
        assert (caught.value.code, caught.value.details["role"]) == ("policy/rollback", role)


@pytest.mark.parametrize("role", ["targets", "keyring"])
def test_what_was_made_from_less_than_is_in_force_is_refused(role: str) -> None:
    """A publisher who did not know the newest set cannot replace it, however high his number."""
    parsed = trust.verify_set(metadata_set(GROWN))
    base = {"targets": trust.base_of(parsed.targets), "keyring": trust.base_of(parsed.keyring)}[role]
    assert base is not None
    assert trust.accept(parsed, PolicyFloors({role: base}), now()).roles[role].version > base.version
    between = RoleFloor(base.version + 1, "sha256:" + "2" * 64)
    forked = RoleFloor(base.version, "sha256:" + "3" * 64)
    for in_force in (between, forked):
        with pytest.raises(CellwardError) as caught:
            trust.accept(parsed, PolicyFloors({role: in_force}), now())
        assert (caught.value.code, caught.value.details["role"]) == ("policy/old-base", role)
    first = trust.verify_set(metadata_set(WORLD))
    with pytest.raises(CellwardError) as caught:
        trust.accept(first, PolicyFloors({role: RoleFloor(1, "x")}), now())
    assert caught.value.code == "policy/old-base"


@pytest.mark.parametrize("value", [False, {}, {"version": 1}, {"version": "1", "digest": "x"}, [], 7])
def test_metadata_that_does_not_say_what_it_is_based_on_is_refused(value: object) -> None:
    """The field is part of what is signed; one that is left out is not the first publication."""
    metadata = Metadata[Targets].from_bytes(metadata_set(WORLD).targets)
    assert trust.base_of(metadata.signed) is None
    metadata.signed.unrecognized_fields[trust.BASE_FIELD] = value
    if value is False:
        del metadata.signed.unrecognized_fields[trust.BASE_FIELD]
    metadata.sign(TufSigner(WORLD.policy_key))
    assert code_of(_with_targets(metadata.to_bytes())) == "policy/unverified"


def _with_targets(data: bytes) -> trust.MetadataSet:
    """Return the set with other targets, under a snapshot and a timestamp that name them."""
    good = metadata_set(WORLD)
    snapshot = Metadata[Snapshot].from_bytes(good.snapshot)
    version = trust.parse(Targets, data).signed.version
    snapshot.signed.meta["targets.json"] = MetaFile.from_data(version, data, ["sha256"])
    snapshot.sign(TufSigner(WORLD.publisher_key))
    named = MetadataFile("snapshot", snapshot.signed.version, snapshot.to_bytes())
    timestamp = sign_timestamp(WORLD.timestamp_version, named, WORLD.hub_key, now=now(), life=timedelta(hours=1))
    return replace(good, targets=data, snapshot=named.data, timestamp=timestamp)


@pytest.mark.parametrize("version", [2**53, 2**64, 10**30])
def test_v16_no_role_has_a_version_that_others_cannot_keep(version: int) -> None:
    """V16: 2^64 would be accepted, durable, and end every later session of the link, which has 64 bits for it."""
    good = metadata_set(WORLD)
    snapshot = MetadataFile("snapshot", WORLD.version("snapshot"), good.snapshot)
    timestamp = sign_timestamp(version, snapshot, WORLD.hub_key, now=now(), life=timedelta(hours=1))
    assert code_of(replace(good, timestamp=timestamp)) == "policy/unverified"
    for kind, data, key in ((Snapshot, good.snapshot, WORLD.publisher_key), (Targets, good.targets, WORLD.policy_key)):
        metadata = Metadata[Targets].from_bytes(data)
        metadata.signed.version = version
        metadata.sign(TufSigner(key))
        with pytest.raises(CellwardError) as caught:
            trust.parse(kind, metadata.to_bytes())  # type: ignore[type-var]
        assert caught.value.code == "policy/unverified"


def test_one_timestamp_cannot_use_up_all_that_follow() -> None:
    """The floor never goes down: a thief of the hub's key must not put it out of the honest hub's reach for good."""
    good = metadata_set(WORLD)
    snapshot = MetadataFile("snapshot", WORLD.version("snapshot"), good.snapshot)
    moment = now()
    limit = milliseconds(moment) + 600_000

    def parsed(version: int) -> trust.ParsedSet:
        data = sign_timestamp(version, snapshot, WORLD.hub_key, now=moment, life=timedelta(hours=1))
        return trust.verify_set(replace(good, timestamp=data))

    assert trust.accept(parsed(limit), PolicyFloors(), moment).roles["timestamp"].version == limit
    for version in (limit + 1, 2**53 - 1):
        with pytest.raises(CellwardError) as caught:
            trust.accept(parsed(version), PolicyFloors(), moment)
        assert caught.value.code == "document/number-ahead"
    assert next_number(moment + timedelta(minutes=11), (3,)) > limit, "minutes later the honest hub is ahead again"


@pytest.mark.parametrize("role", ["timestamp", "snapshot", "targets", "keyring"])
def test_no_role_takes_a_version_of_the_future(role: str) -> None:
    """No wrong clock and no thief of a key sets a floor that outlives him by more than ten minutes."""
    moment = now()
    parsed = trust.verify_set(metadata_set(WORLD))
    getattr(parsed, role).version = milliseconds(moment) + 600_000
    trust.accept(parsed, PolicyFloors(), moment)
    getattr(parsed, role).version += 1
    with pytest.raises(CellwardError) as caught:
        trust.accept(parsed, PolicyFloors(), moment)
    assert caught.value.code == "document/number-ahead"
    assert role in caught.value.message


@pytest.mark.parametrize("role", ["root", "timestamp", "snapshot", "targets", "keyring"])
def test_lifetimes_are_those_of_the_given_clock(role: str) -> None:
    """The agent's clock with its floor decides, beside python-tuf's own; each role is asked, to the second."""
    moment = now() + timedelta(hours=1)
    second = timedelta(seconds=1)

    def accept(expires: datetime) -> None:
        parsed = trust.verify_set(metadata_set(WORLD))
        getattr(parsed, role).expires = expires
        trust.accept(parsed, PolicyFloors(), moment)

    accept(moment + second)
    with pytest.raises(CellwardError) as caught:
        accept(moment)
    assert (caught.value.code, caught.value.details["role"]) == ("policy/expired", role)
    longest = moment + timedelta(hours=24, minutes=5)
    accept(longest)
    if role != "timestamp":
        accept(moment + timedelta(days=3650))
        return
    with pytest.raises(CellwardError) as caught:
        accept(longest + second)
    assert caught.value.code == "policy/timestamp-too-long"


def test_floors_are_read_strictly() -> None:
    """A floors file is what was written, or an error."""
    floors = trust.accept(trust.verify_set(metadata_set(WORLD)), PolicyFloors({}, {"1" * 64: "retired"}), now())
    assert PolicyFloors.from_json(floors.to_json()) == floors
    malformed: list[object] = [
        None,
        [],
        {},
        {"roles": {}},
        {"roles": {}, "keys": []},
        {"roles": {"root": 1}, "keys": {}},
        {"roles": {"root": {"version": "1", "signed": "x"}}, "keys": {}},
        {"roles": {"root": {"version": 1}}, "keys": {}},
        {"roles": {}, "keys": {"1" * 64: "active"}},
        {"roles": {}, "keys": {"1" * 64: "forgotten"}},
    ]
    for value in malformed:
        with pytest.raises(ValueError, match=r"floor|remembered"):
            PolicyFloors.from_json(value)
    low = PolicyFloors({"root": RoleFloor(0, "x"), "extra": RoleFloor(1, "y")})
    assert floors.merged(low).roles == {**floors.roles, "extra": RoleFloor(1, "y")}


def test_thresholds_of_a_root_must_be_reachable() -> None:
    """A root that nobody could use is refused when it is made."""
    key = keys_of(WORLD.root_key)
    with pytest.raises(CellwardError) as caught:
        create_root(
            root=key,
            policy=keys_of(WORLD.policy_key, threshold=2),
            publisher=key,
            timestamp=key,
            signers=[WORLD.root_key],
            now=now(),
        )
    assert caught.value.code == "policy/bad-root"


def test_a_timestamp_by_another_key_does_not_verify() -> None:
    """Only the hub that root names may sign the timestamp."""
    good = metadata_set(WORLD)
    named = MetadataFile("snapshot", WORLD.version("snapshot"), good.snapshot)
    forged = sign_timestamp(9, named, Ed25519Signer.generate(), now=now(), life=timedelta(hours=1))
    assert code_of(replace(good, timestamp=forged)) == "policy/unverified"


def floors(**versions: int) -> PolicyFloors:
    """Floors by role."""
    return PolicyFloors({role: RoleFloor(version, f"{role}-{version}") for role, version in versions.items()})


def test_timestamp_floor_of_two_copies_is_that_of_the_newer_root() -> None:
    """A newer root may have reset it; the older copy's, from before a power cut, would refuse the new hub for good."""
    old, new = floors(root=1, timestamp=900, targets=5), floors(root=2, timestamp=3, targets=4)
    for merged in (old.merged(new), new.merged(old)):
        assert merged == floors(root=2, timestamp=3, targets=5)
    assert old.merged(floors(root=1, timestamp=901)) == floors(root=1, timestamp=901, targets=5)
    assert old.merged(floors(root=2)) == floors(root=2, timestamp=900, targets=5)
    assert floors(timestamp=4).merged(floors(timestamp=5)) == floors(timestamp=5)


def test_of_two_copies_the_worse_state_of_a_key_counts() -> None:
    """Whichever is asked: a copy from before a revocation makes no key good, nor a compromised one merely retired."""
    one = PolicyFloors({}, {"a": "compromised", "b": "retired"})
    other = PolicyFloors({}, {"a": "retired", "c": "compromised"})
    for merged in (one.merged(other), other.merged(one)):
        assert merged.keys == {"a": "compromised", "b": "retired", "c": "compromised"}


def test_what_is_below_its_floors_is_found() -> None:
    """Missing, older, or other content under the same version; newer is fine."""
    here = floors(root=2, targets=5).roles
    assert floors(root=2, targets=4).undercut_by(here) == ""
    assert floors(targets=6).undercut_by(here) == "targets"
    assert floors(snapshot=1).undercut_by(here) == "snapshot"
    assert PolicyFloors({"root": RoleFloor(2, "other")}).undercut_by(here) == "root"
