"""What one participant of a ceremony, or whoever carries the file, tries to have signed by the others.

Bob is honest and has one of three root keys and one of three policy keys, two of which must sign. Asserted by what his
keys signed, and by what an agent and a hub take of what was signed by real keys.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from securesystemslib.signer import Signature
from tuf.api.metadata import Key, Metadata, MetaFile, Root, Snapshot, TargetFile, Targets
from typer.testing import CliRunner, Result

from agent.policy.store import PolicyStore
from cellward.documents.dsse import Ed25519Signer, keyid_of
from cellward.documents.revocations import Revocations
from cellward.errors import CellwardError
from cellward.policy import publisher, trust
from cellward.policy.bindings import dump_bindings
from cellward.policy.bundle import read_bundle
from cellward.policy.ceremony import Proposal, complete
from cellward.policy.client import select_all
from cellward.policy.model import BINDINGS_TARGET, BindingSet
from cellward.policy.publisher import SigningKeys
from cellward.policy.record import Record
from cellward.policy.signing import TufSigner, tuf_key
from cli.commands import app
from cli.home import Home, Trust
from cli.keys import save_key
from cli.setup import first_keyring
from cli.state.policy import with_policy
from tests.fakes.policy import PolicyWorld, binding, denying, keys_of, moment
from tests.hostile.test_policy_sets import Served

make = Ed25519Signer.generate
EVERY = {"root", "targets", "keyring"}


class Ceremony:
    """Three people, the record of what they published, and the machine of one of them."""

    def __init__(self, directory: Path) -> None:
        self.roots, self.policies = [make() for _ in range(3)], [make() for _ in range(3)]
        self.keyring, self.publisher, self.hub = make(), make(), make()
        root = publisher.create_root(
            root=keys_of(*self.roots, threshold=2),
            policy=keys_of(*self.policies, threshold=2),
            publisher=keys_of(self.publisher),
            timestamp=keys_of(self.hub),
            signers=self.roots[:2],
            now=moment(),
        )
        self.realm = trust.realm_of(root)
        self.archive = denying("Bad")
        self.bindings = BindingSet(self.realm, (binding(self.archive),))
        first = Record(
            (root,), first_keyring(self.realm, "ada", make()), Revocations(self.realm), keys_of(self.keyring)
        )
        keys = SigningKeys(policy=tuple(self.policies[:2]), keyring=(self.keyring,), publisher=(self.publisher,))
        published = publisher.publish(first, bundles=[self.archive], bindings=self.bindings, keys=keys, now=moment())
        assert published.record is not None
        self.record = published.record
        self.file, home = directory / "proposal.json", Home(directory / "bob")
        home.create()
        for role, signer in (("root", self.roots[1]), ("policy", self.policies[1])):
            save_key(home, f"bob-{role}", signer, None)
        home.write("root.json", root, 0o644)
        home.write("policy-record.json", self.record.to_bytes(), 0o644)
        home.write_trust(
            Trust(
                self.realm,
                home.file("root.json"),
                trust.digest_of(root),
                "bob",
                evaluation=False,
                tree_head_spki=make().public_spki_der,
            )
        )
        self.home = home

    def proposal(self) -> Proposal:
        """An honest one: the root and what it is over, made anew."""
        draft = publisher.draft_again(self.record, now=moment())
        return Proposal(draft, publisher.next_root(self.record.roots, changes={}, now=moment()))

    def sign(self, proposal: Proposal) -> tuple[Result, set[str]]:
        """Let Bob sign it; return what he was told, and the files that a key of his signed."""
        self.file.write_bytes(proposal.to_bytes())
        told = CliRunner().invoke(app, ["trust", "sign", str(self.file), "--home", str(self.home.path)])
        if told.exit_code:
            assert self.file.read_bytes() == proposal.to_bytes()
            return told, set()
        after = Proposal.from_bytes(self.file.read_bytes(), own=self.record)
        assert after.root is not None
        files = {"root": after.root, "targets": after.draft.targets, "keyring": after.draft.keyring}
        bob = {self.roots[1].keyid, self.policies[1].keyid}
        return told, {role for role, data in files.items() if bob & {*json_ids(data)}}


def json_ids(data: bytes) -> list[str]:
    """Key ids under which metadata is signed."""
    return [one["keyid"] for one in json.loads(data)["signatures"]]


@pytest.fixture
def ceremony(tmp_path: Path) -> Ceremony:
    """A realm with a policy, and Bob's machine."""
    return Ceremony(tmp_path)


def edited(data: bytes, change: Callable[[Metadata[Targets]], object]) -> bytes:
    """Metadata with a change, and no signature."""
    metadata = Metadata[Targets].from_bytes(data)
    change(metadata)
    metadata.signatures.clear()
    return metadata.to_bytes()


def with_change(honest: Proposal, role: str, change: Callable[[Metadata[Targets]], object]) -> Proposal:
    """A proposal with a change in one of its files."""
    draft = honest.draft
    if role == "root":
        assert honest.root is not None
        return replace(honest, root=edited(honest.root, change))
    if role == "targets":
        return replace(honest, draft=replace(draft, targets=edited(draft.targets, change)))
    return replace(honest, draft=replace(draft, keyring=edited(draft.keyring, change)))


def swapped(key: Key) -> None:
    """Put another key behind an id."""
    key.keyval = dict(tuf_key(make().public_spki_der).keyval)


def test_an_honest_proposal_is_signed_and_all_of_it_told_before(ceremony: Ceremony) -> None:
    """Every key id and digest whole, and until when each part holds: on stderr, before a key is opened."""
    honest = ceremony.proposal()
    new = keys_of(*ceremony.policies[:2], make(), threshold=2)
    root = publisher.next_root(ceremony.record.roots, changes={"targets": new}, now=moment())
    told, signed = ceremony.sign(Proposal(honest.draft, root))
    assert signed == {"root", "targets"}
    for keyid in (ceremony.policies[2].keyid, keyid_of(new.keys[2])):
        assert keyid in told.stderr
    for end in honest.ends().values():
        assert f"{end:%Y-%m-%d %H:%M:%S} UTC" in told.stderr
    for signer in (*ceremony.roots, *ceremony.policies[:2], ceremony.keyring, ceremony.publisher, ceremony.hub):
        assert signer.keyid in told.stdout
    assert read_bundle(ceremony.archive).digest.removeprefix("sha256:") in told.stdout
    assert all(entry.keyid in told.stdout for entry in ceremony.record.keyring.entries)


def test_lists_that_people_compare_by_have_whole_ids(ceremony: Ceremony) -> None:
    """A part of an id or a digest can be searched for: another key with the same first digits."""
    known, home = ceremony.home.trust(), ["--home", str(ceremony.home.path)]
    with ceremony.home.state(known).change() as change:
        floors = replace(ceremony.record.floors(), keys={ceremony.keyring.keyid: "retired"})
        change.state = with_policy(change.state, floors)
    listed = CliRunner().invoke(app, ["keys", "list", *home]).stdout
    for signer in (*ceremony.roots, *ceremony.policies, ceremony.keyring, ceremony.publisher, ceremony.hub):
        assert signer.keyid in listed
    shown = CliRunner().invoke(app, ["trust", "show", *home]).stdout
    for wanted in (ceremony.keyring.keyid, *(floor.digest for floor in floors.roles.values())):
        assert wanted in shown
    assert floors.roles


@pytest.mark.parametrize("role", ["root", "targets", "snapshot", "timestamp"])
def test_v15_a_root_with_another_key_behind_an_id_is_not_signed(ceremony: Ceremony, role: str) -> None:
    """It would look like a renewal, and give the one who planted it a key in each role."""
    honest = ceremony.proposal()
    assert honest.root is not None
    metadata = Metadata[Root].from_bytes(honest.root)
    swapped(metadata.signed.keys[metadata.signed.roles[role].keyids[0]])
    told, signed = ceremony.sign(replace(honest, root=metadata.to_bytes()))
    assert "[policy/bad-root]" in told.stderr
    assert signed == set()


def test_v15_targets_that_delegate_to_another_key_under_an_id_are_not_signed(ceremony: Ceremony) -> None:
    """The keyring role would be another's, under the id that it has."""
    honest = ceremony.proposal()

    def plant(metadata: Metadata[Targets]) -> None:
        assert metadata.signed.delegations is not None
        swapped(metadata.signed.delegations.keys[ceremony.keyring.keyid])

    targets = edited(honest.draft.targets, plant)
    told, signed = ceremony.sign(replace(honest, draft=replace(honest.draft, targets=targets)))
    assert "[policy/bad-root]" in told.stderr
    assert signed == set()


def test_v15_bindings_are_not_hidden_behind_the_keyring_role(ceremony: Ceremony) -> None:
    """The keyring metadata lists the bindings in force, the targets none: those shown were not those signed."""
    honest, nothing = ceremony.proposal(), dump_bindings(BindingSet(ceremony.realm, ()))
    old = dump_bindings(ceremony.bindings)

    def lists(data: bytes) -> Callable[[Metadata[Targets]], object]:
        file = TargetFile.from_data(BINDINGS_TARGET, data, ["sha256"])
        return lambda metadata: metadata.signed.targets.update({BINDINGS_TARGET: file})

    targets, keyring = edited(honest.draft.targets, lists(nothing)), edited(honest.draft.keyring, lists(old))
    draft = replace(honest.draft, targets=targets, keyring=keyring, content={BINDINGS_TARGET: old})
    told, signed = ceremony.sign(replace(honest, draft=draft))
    assert "[policy/unverified]" in told.stderr
    assert signed == set()
    # Nor where the keyring role lists nothing of it: the content is compared with the targets' own list.
    told, signed = ceremony.sign(replace(honest, draft=replace(draft, keyring=honest.draft.keyring)))
    assert "[policy/bad-proposal]" in told.stderr
    assert signed == set()


@pytest.mark.parametrize("days", [-1, 1, 20_000], ids=["over", "short", "endless"])
@pytest.mark.parametrize("role", sorted(EVERY))
def test_v8_lives_are_what_the_roles_are_given(ceremony: Ceremony, role: str, days: int) -> None:
    """Metadata of the year 2080 outlasts every rotation; metadata of a day stops everything at a chosen time."""
    honest = ceremony.proposal()

    def lives(metadata: Metadata[Targets]) -> None:
        metadata.signed.expires = (moment() + timedelta(days=days)).replace(microsecond=0)

    told, signed = ceremony.sign(with_change(honest, role, lives))
    assert "[policy/bad-proposal]" in told.stderr
    assert f"the proposed {role} would hold until" in told.stderr
    assert signed == set()


@pytest.mark.parametrize("role", sorted(EVERY))
def test_v16_what_nobody_is_shown_is_not_signed(ceremony: Ceremony, role: str) -> None:
    """A field beside those that are shown."""
    honest = ceremony.proposal()

    def says(metadata: Metadata[Targets]) -> None:
        metadata.signed.unrecognized_fields["x-more"] = "words"

    told, signed = ceremony.sign(with_change(honest, role, says))
    assert "[policy/bad-proposal]" in told.stderr
    assert signed == set()


def test_a_signature_that_does_not_hold_keeps_nobody_out(ceremony: Ceremony) -> None:
    """Junk under Bob's ids says that he signed already: he signs all the same, and the ceremony comes to its end."""
    honest = ceremony.proposal()
    assert honest.root is not None
    root = Metadata[Root].from_bytes(honest.root)
    targets = Metadata[Targets].from_bytes(honest.draft.targets)
    for metadata, signer in ((root, ceremony.roots[1]), (targets, ceremony.policies[1])):
        metadata.signatures[signer.keyid] = Signature(signer.keyid, "00" * 64)
    forged = Proposal(replace(honest.draft, targets=targets.to_bytes()), root.to_bytes())
    _, signed = ceremony.sign(forged)
    assert signed == {"root", "targets"}
    proposal = Proposal.from_bytes(ceremony.file.read_bytes(), own=ceremony.record)
    for signer in (ceremony.roots[0], ceremony.policies[0], ceremony.keyring):
        proposal = proposal.signed_by(signer)
    done = publisher.finish(complete(proposal), [ceremony.publisher], now=moment())
    assert done.record is not None
    assert done.record.root.version == 2


@pytest.fixture
def world() -> PolicyWorld:
    """An authority whose policy an agent has."""
    made = PolicyWorld()
    made.publish(denying("Bad"))
    return made


def refusal(world: PolicyWorld, directory: Path) -> str:
    """What an agent, and a hub that verifies an upload by the same run, say of what is served."""
    store = PolicyStore(directory, root=world.root, realm=world.realm)
    at = moment()
    with pytest.raises(CellwardError) as caught:
        store.commit(store.fetch(Served(world), select_all, at), at, "")
    return caught.value.code


def test_v8_an_agent_takes_no_root_whose_ids_are_not_those_of_its_keys(world: PolicyWorld, tmp_path: Path) -> None:
    """Signed by every real key; also where the id belongs to no role yet."""
    honest = publisher.next_root(world.record.roots, changes={}, now=moment())
    for role in ("root", ""):
        metadata = Metadata[Root].from_bytes(honest)
        twin = tuf_key(make().public_spki_der)
        twin.keyid = "a" * 64
        if role:
            metadata.signed.add_key(twin, role)
        else:
            metadata.signed.keys[twin.keyid] = twin
        metadata.sign(TufSigner(world.root_key))
        world.source.metadata["root", 2] = metadata.to_bytes()
        assert refusal(world, tmp_path / (role or "none")) == "policy/bad-root"


@pytest.mark.parametrize("part", ["delegated key", BINDINGS_TARGET, "keyring/more.json"])
def test_v8_an_agent_takes_no_set_with_a_key_or_path_in_disguise(world: PolicyWorld, tmp_path: Path, part: str) -> None:
    """A delegation to another key under a known id, or a path that is not the keyring role's own; really signed."""
    source = world.source
    newest = {role: world.version(role) for role in ("targets", "keyring", "snapshot")}
    targets_file = Metadata[Targets].from_bytes(source.metadata["targets", newest["targets"]])
    keyring_file = Metadata[Targets].from_bytes(source.metadata["keyring", newest["keyring"]])
    snapshot_file = Metadata[Snapshot].from_bytes(source.metadata["snapshot", newest["snapshot"]])
    targets, keyring, snapshot = targets_file.signed, keyring_file.signed, snapshot_file.signed
    if part == "delegated key":
        assert targets.delegations is not None
        other = make()
        targets.delegations.keys[world.keyring_key.keyid].keyval = dict(tuf_key(other.public_spki_der).keyval)
        signed = keyring_file.signed_bytes
        keyid = world.keyring_key.keyid
        keyring_file.signatures[keyid] = Signature(keyid, other.sign(signed).hex())
    else:
        data = dump_bindings(BindingSet(world.realm, ()))
        keyring.targets[part] = TargetFile.from_data(part, data, ["sha256"])
        source.targets[trust.digest_of(data)] = data
        keyring_file.sign(TufSigner(world.keyring_key))
    targets_file.sign(TufSigner(world.policy_key))
    for role, file in (("targets", targets_file), ("keyring", keyring_file)):
        source.metadata[role, newest[role]] = data = file.to_bytes()
        snapshot.meta[f"{role}.json"] = MetaFile.from_data(newest[role], data, ["sha256"])
    snapshot_file.sign(TufSigner(world.publisher_key))
    source.metadata["snapshot", newest["snapshot"]] = snapshot_file.to_bytes()
    world.timestamp()
    code = "policy/bad-root" if part == "delegated key" else "policy/unverified"
    assert refusal(world, tmp_path) == code


def test_v8_nobody_reads_metadata_whose_ids_are_not_those_of_its_keys(world: PolicyWorld) -> None:
    """The one reader of every side refuses it before anybody looks at an id or a signature."""
    root = Metadata[Root].from_bytes(world.root)
    targets = Metadata[Targets].from_bytes(world.source.metadata["targets", world.version("targets")])
    assert trust.parse(Root, root.to_bytes()).signed == root.signed
    assert trust.parse(Targets, targets.to_bytes()).signed == targets.signed
    assert targets.signed.delegations is not None
    for keys in (root.signed.keys, targets.signed.delegations.keys):
        swapped(next(iter(keys.values())))
    for read in (lambda: trust.parse(Root, root.to_bytes()), lambda: trust.parse(Targets, targets.to_bytes())):
        with pytest.raises(CellwardError) as caught:
            read()
        assert caught.value.code == "policy/bad-root"
    absent = Metadata[Root].from_bytes(world.root)
    absent.signed.roles["root"].keyids.append("b" * 64)
    with pytest.raises(CellwardError) as caught:
        trust.parse(Root, absent.to_bytes())
    assert caught.value.code == "policy/bad-root"
