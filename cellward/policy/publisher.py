"""Publishing side of the trust path, used by the CLI with local keys; the hub never has any of them.

Everything begins at the publishers' own record (:mod:`cellward.policy.record`): what is signed again was signed before
and is in it; what a hub shows is compared and never signed. Root counts by one; targets (the policy key), the delegated
keyring role and the snapshot (the publisher key) are numbered by the publisher's clock. Targets and keyring say what
they were made from, so that agents refuse policy by somebody who did not know what is in force.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import (
    DelegatedRole,
    Delegations,
    Metadata,
    MetaFile,
    Role,
    Root,
    Snapshot,
    TargetFile,
    Targets,
    Timestamp,
)

from cellward.documents.numbers import check_number, next_number
from cellward.policy import trust
from cellward.policy.bindings import dump_bindings
from cellward.policy.bundle import Bundle, read_bundle
from cellward.policy.errors import BAD_ROOT, EXPIRED, FOREIGN_REALM, INCOMPLETE, UNVERIFIED
from cellward.policy.floors import NOTHING_SEEN, PolicyFloors
from cellward.policy.model import BINDINGS_TARGET, KEYRING_ROLE, BindingSet
from cellward.policy.published import verified_roots
from cellward.policy.record import Record, RoleKeys
from cellward.policy.signing import expiry, sign_metadata, tuf_key

if TYPE_CHECKING:
    from cellward.documents.dsse import Ed25519Signer
    from cellward.documents.keyring import Keyring
    from cellward.documents.revocations import Revocations

ROOT_LIFE = timedelta(days=365)
TARGETS_LIFE = timedelta(days=180)
SNAPSHOT_LIFE = timedelta(days=7)
#: What each role that people sign together is given, from the moment it is made.
LIVES: Mapping[str, timedelta] = {Root.type: ROOT_LIFE, Targets.type: TARGETS_LIFE, KEYRING_ROLE: TARGETS_LIFE}


@dataclass(frozen=True, slots=True)
class MetadataFile:
    """One signed metadata file: role root, targets, keyring or snapshot; its version; its exact bytes."""

    role: str
    version: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Publication:
    """What is to be uploaded to the hub: metadata without timestamp, and target bytes by digest.

    ``record`` is for the publishers to keep and commit; ``floors`` for this machine to remember. Both are None and
    empty on the hub's side.
    """

    metadata: tuple[MetadataFile, ...]
    targets: Mapping[str, bytes] = field(default_factory=dict)
    floors: PolicyFloors = field(default_factory=PolicyFloors)
    record: Record | None = None


@dataclass(frozen=True, slots=True)
class SigningKeys:
    """Signers per role; a role that is not needed for an operation may be empty."""

    root: tuple[Ed25519Signer, ...] = ()
    policy: tuple[Ed25519Signer, ...] = ()
    keyring: tuple[Ed25519Signer, ...] = ()
    publisher: tuple[Ed25519Signer, ...] = ()


@dataclass(frozen=True, slots=True)
class Draft:
    """Metadata on its way: unsigned, signed by some, or as it was signed before.

    Attributes:
        record: what it was made from, with the keyring and revocations to publish.
        targets: metadata of targets.
        keyring: metadata of the keyring role.
        fresh: roles among them that are new; the others were signed before and stay as they are.
        content: target bytes by path, as far as they are at hand.
    """

    record: Record
    targets: bytes
    keyring: bytes
    fresh: frozenset[str]
    content: Mapping[str, bytes]

    def signed(self, keys: SigningKeys) -> Draft:
        """Return it with the signatures of these keys on what is new."""
        targets = _sign(self.targets, keys.policy) if Targets.type in self.fresh else self.targets
        keyring = _sign(self.keyring, keys.keyring) if KEYRING_ROLE in self.fresh else self.keyring
        return replace(self, targets=targets, keyring=keyring)

    def missing(self) -> tuple[str, ...]:
        """Return the paths of targets whose bytes are not at hand: a hub that has nothing yet cannot serve them."""
        return tuple(sorted({*trust.parse(Targets, self.targets).signed.targets} - {*self.content}))


def _sign(data: bytes, signers: Sequence[Ed25519Signer]) -> bytes:
    return sign_metadata(trust.parse(Targets, data), signers)


def create_root(
    *,
    root: RoleKeys,
    policy: RoleKeys,
    publisher: RoleKeys,
    timestamp: RoleKeys,
    signers: Sequence[Ed25519Signer],
    now: datetime,
) -> bytes:
    """Make root version 1; its realm is :func:`cellward.policy.trust.realm_of` of the result.

    ``timestamp`` is the hub's public key. Raises policy/bad-root when the signers do not reach the root's threshold.
    """
    signed = Root(version=1, expires=expiry(now, ROOT_LIFE), consistent_snapshot=True)
    _set_roles(signed, {"root": root, "targets": policy, "snapshot": publisher, "timestamp": timestamp})
    data = sign_metadata(Metadata(signed), signers)
    trust.realm_of(data)
    return data


def next_root(roots: Sequence[bytes], *, changes: Mapping[str, RoleKeys], now: datetime) -> bytes:
    """Return the next root, not signed: ``changes`` gives new keys by TUF role (root, targets, snapshot, timestamp).

    Raises policy/bad-root for a threshold that the keys cannot reach, or keys that count twice.
    """
    signed = trust.parse(Root, roots[-1]).signed
    signed.version += 1
    signed.expires = expiry(now, ROOT_LIFE)
    _set_roles(signed, changes)
    trust.check_root(signed)
    return Metadata(signed).to_bytes()


def rotate_root(
    roots: Sequence[bytes], *, changes: Mapping[str, RoleKeys], signers: Sequence[Ed25519Signer], now: datetime
) -> bytes:
    """Make the next root; raises policy/bad-root below the threshold of the old or of the new one."""
    return complete_root(roots, sign_metadata(trust.parse(Root, next_root(roots, changes=changes, now=now)), signers))


def complete_root(roots: Sequence[bytes], data: bytes) -> bytes:
    """Return a root that may follow the last of ``roots``; raises policy/bad-root."""
    try:
        verified_roots((*roots, data))
    except RepositoryError as error:
        raise BAD_ROOT("the signers do not reach the thresholds of the old and the new root") from error
    return data


def _set_roles(root: Root, roles: Mapping[str, RoleKeys]) -> None:
    for name, wanted in roles.items():
        check_threshold(name, wanted)
        for keyid in list(root.roles[name].keyids):
            root.revoke_key(keyid, name)
        for spki in wanted.keys:
            root.add_key(tuf_key(spki), name)
        root.roles[name] = Role(root.roles[name].keyids, wanted.threshold)


def check_threshold(name: str, keys: RoleKeys) -> None:
    """Refuse a threshold that a role's keys cannot reach (policy/bad-root)."""
    if not 1 <= keys.threshold <= len(set(keys.keys)):
        raise BAD_ROOT(f"role {name} has {len(set(keys.keys))} keys, and a threshold of {keys.threshold}")


def draft_policy(
    record: Record,
    *,
    bundles: Sequence[bytes],
    bindings: BindingSet,
    now: datetime,
    seen: PolicyFloors = NOTHING_SEEN,
) -> Draft:
    """Make new targets and keyring metadata from the record, not signed yet.

    ``bundles`` are archives (see :func:`cellward.policy.bundle.build_bundle`); each binding must name one of them.
    ``seen`` is what this machine remembers and what verified of what a hub shows.

    Raises policy/record-older, policy/foreign-realm, policy/incomplete-set, or what a bundle raises.
    """
    record.check_newest(seen)
    # Who holds the keyring role changes by a proposal (:func:`draft_again`) alone.
    record = replace(record, keyring_role=record.role_in_force())
    if bindings.realm != record.realm:
        raise FOREIGN_REALM(f"the bindings belong to realm {bindings.realm}")
    content = _content(bundles, bindings)
    targets = _targets(record, Targets.type, _files(content), now, seen)
    return _draft_both(record, targets, content, now, seen)


def draft_again(record: Record, *, now: datetime, seen: PolicyFloors = NOTHING_SEEN) -> Draft:
    """Make targets of the same content again, and a keyring: after a root or the keyring's keys were replaced.

    The keyring role becomes what the record names, which its signers are shown; see :mod:`cellward.policy.ceremony`.
    """
    record.check_newest(seen)
    before = record.signed_targets()
    if before is None:
        raise INCOMPLETE("there is no policy yet; publish it first")
    return _draft_both(record, _targets(record, Targets.type, before.targets, now, seen), {}, now, seen)


def _draft_both(
    record: Record, targets: Targets, content: Mapping[str, bytes], now: datetime, seen: PolicyFloors
) -> Draft:
    check_threshold(KEYRING_ROLE, record.keyring_role)
    tuf_keys = [tuf_key(spki) for spki in dict.fromkeys(record.keyring_role.keys)]
    role = DelegatedRole(
        KEYRING_ROLE,
        [key.keyid for key in tuf_keys],
        record.keyring_role.threshold,
        terminating=True,
        paths=[f"{KEYRING_ROLE}/*"],
    )
    targets.delegations = Delegations({key.keyid: key for key in tuf_keys}, {KEYRING_ROLE: role})
    keyring = _targets(record, KEYRING_ROLE, _files(record.content()), now, seen)
    fresh = frozenset((Targets.type, KEYRING_ROLE))
    return Draft(record, Metadata(targets).to_bytes(), Metadata(keyring).to_bytes(), fresh, content)


def draft_keyring(
    record: Record,
    *,
    keyring: Keyring | None = None,
    revocations: Revocations | None = None,
    now: datetime,
    seen: PolicyFloors = NOTHING_SEEN,
) -> Draft:
    """Make a new keyring or new revocations: adding an author needs neither the root nor the policy key.

    Raises policy/record-older, policy/key-state-lifted, policy/foreign-realm, or policy/incomplete-set before the first
    publication.
    """
    record.check_newest(seen)
    if record.targets is None:
        raise INCOMPLETE("there is no policy yet; publish it first")
    changed = replace(record, keyring=keyring or record.keyring, revocations=revocations or record.revocations)
    for what, found in (("keyring", changed.keyring.realm), ("revocations", changed.revocations.realm)):
        if found != record.realm:
            raise FOREIGN_REALM(f"the {what} belong to realm {found}")
    record.floors().merged(seen).with_keys(changed.keyring)
    signed = _targets(record, KEYRING_ROLE, _files(changed.content()), now, seen)
    return Draft(changed, record.targets, Metadata(signed).to_bytes(), frozenset((KEYRING_ROLE,)), {})


def draft_refresh(record: Record, *, seen: PolicyFloors = NOTHING_SEEN) -> Draft:
    """Take targets and keyring as the record has them, for a new snapshot alone.

    Raises policy/record-older, policy/incomplete-set before the first publication.
    """
    record.check_newest(seen)
    if record.targets is None or record.keyring_metadata is None:
        raise INCOMPLETE("there is no policy yet; publish it first")
    return Draft(record, record.targets, record.keyring_metadata, frozenset(), {})


def _targets(record: Record, role: str, files: Mapping[str, TargetFile], now: datetime, seen: PolicyFloors) -> Targets:
    """Return metadata of targets or keyring with the next number, based on what the record has of that role."""
    base, floor = record.base(role), seen.get(role)
    known = [found.version for found in (base, floor) if found is not None]
    value = None if base is None else {"version": base.version, "digest": base.digest}
    return Targets(
        next_number(now, known),
        expires=expiry(now, TARGETS_LIFE),
        targets=dict(files),
        unrecognized_fields={trust.BASE_FIELD: value},
    )


def finish(
    draft: Draft,
    publisher: Sequence[Ed25519Signer],
    *,
    now: datetime,
    seen: PolicyFloors = NOTHING_SEEN,
) -> Publication:
    """Put a signed draft under a new snapshot.

    Raises policy/unverified where a threshold is not reached, policy/expired where something is too old to go on with,
    document/number-ahead.
    """
    publication = preview(draft, now=now, seen=seen, publisher=publisher)
    record = publication.record
    if record is None:
        raise INCOMPLETE("there is no record")
    _check_signatures(record.root, publication.metadata, now)
    record.check()
    return publication


def preview(
    draft: Draft,
    *,
    now: datetime,
    seen: PolicyFloors = NOTHING_SEEN,
    publisher: Sequence[Ed25519Signer] = (),
) -> Publication:
    """Return what would be published; signed by nobody and checked by nobody, for a dry run."""
    record = draft.record
    files: tuple[MetadataFile, ...] = (
        MetadataFile(Targets.type, trust.parse(Targets, draft.targets).signed.version, draft.targets),
        MetadataFile(KEYRING_ROLE, trust.parse(Targets, draft.keyring).signed.version, draft.keyring),
    )
    meta = {f"{file.role}.json": MetaFile.from_data(file.version, file.data, ["sha256"]) for file in files}
    floor = seen.get(Snapshot.type)
    version = next_number(now, (record.snapshot, floor.version if floor is not None else 0))
    snapshot: Metadata[Snapshot] = Metadata(Snapshot(version, expires=expiry(now, SNAPSHOT_LIFE), meta=meta))
    files = (*files, MetadataFile(Snapshot.type, version, sign_metadata(snapshot, publisher)))
    roots = tuple(MetadataFile(Root.type, index + 1, data) for index, data in enumerate(record.roots))
    floors = {file.role: trust.floor_in(file.role, file.data) for file in (*roots[-1:], *files)}
    content = {trust.digest_of(data): data for data in (*draft.content.values(), *record.content().values())}
    kept = replace(record, targets=draft.targets, keyring_metadata=draft.keyring, snapshot=version)
    return Publication((*roots, *files), content, PolicyFloors(floors).with_keys(record.keyring), kept)


def publish(
    record: Record,
    *,
    bundles: Sequence[bytes],
    bindings: BindingSet,
    keys: SigningKeys,
    now: datetime,
    seen: PolicyFloors = NOTHING_SEEN,
) -> Publication:
    """Draft, sign and finish a policy set where all the keys are at hand."""
    draft = draft_policy(record, bundles=bundles, bindings=bindings, now=now, seen=seen)
    return finish(draft.signed(keys), keys.publisher, now=now, seen=seen)


def publish_keyring(
    record: Record,
    *,
    keyring: Keyring | None = None,
    revocations: Revocations | None = None,
    keys: SigningKeys,
    now: datetime,
    seen: PolicyFloors = NOTHING_SEEN,
) -> Publication:
    """Draft, sign and finish a keyring or revocations where the keys are at hand."""
    draft = draft_keyring(record, keyring=keyring, revocations=revocations, now=now, seen=seen)
    return finish(draft.signed(keys), keys.publisher, now=now, seen=seen)


def refresh(
    record: Record,
    *,
    keys: SigningKeys,
    now: datetime,
    seen: PolicyFloors = NOTHING_SEEN,
) -> Publication:
    """Make a new snapshot only (7 d), with the publisher key alone, over targets and keyring of the record."""
    return finish(draft_refresh(record, seen=seen), keys.publisher, now=now, seen=seen)


def _content(bundles: Sequence[bytes], bindings: BindingSet) -> dict[str, bytes]:
    content = {BINDINGS_TARGET: dump_bindings(bindings)}
    digests: dict[str, str] = {}
    for archive in bundles:
        bundle: Bundle = read_bundle(archive)
        if bundle.target_path in content:
            raise INCOMPLETE(f"two bundles are called {bundle.target_path}", target=bundle.target_path)
        content[bundle.target_path], digests[bundle.target_path] = archive, bundle.digest
    for binding in bindings.bindings:
        if digests.get(binding.bundle) != binding.bundle_digest:
            raise INCOMPLETE(
                f"binding {binding.name} names a bundle that is not among those given", target=binding.bundle
            )
    return content


def _files(content: Mapping[str, bytes]) -> dict[str, TargetFile]:
    return {path: TargetFile.from_data(path, data, ["sha256"]) for path, data in content.items()}


def _check_signatures(root: Root, files: Sequence[MetadataFile], now: datetime) -> None:
    """Fail here, at the publisher, where agents would: a threshold, an expiry, or a number ahead of the clock."""
    by_role = {file.role: file.data for file in files if file.role != Root.type}
    targets = trust.parse(Targets, by_role[Targets.type])
    trust.check_delegation(targets.signed)
    trust.check_keyring(trust.parse(Targets, by_role[KEYRING_ROLE]).signed)
    for role, data in by_role.items():
        metadata: Metadata[Targets] | Metadata[Snapshot] = (
            trust.parse(Snapshot, data) if role == Snapshot.type else trust.parse(Targets, data)
        )
        delegator: Root | Targets = targets.signed if role == KEYRING_ROLE else root
        try:
            delegator.verify_delegate(role, metadata.signed_bytes, metadata.signatures)
        except RepositoryError as error:
            raise UNVERIFIED(f"the keys given do not reach the threshold of role {role}", role=role) from error
        if metadata.signed.expires <= now:
            raise EXPIRED(f"{role} version {metadata.signed.version} has expired; publish again", role=role)
        # Once in the record or the floors, it would stand above every number that comes.
        check_number(metadata.signed.version, now, f"the version of {role}")


def sign_timestamp(
    version: int, snapshot: MetadataFile, signer: Ed25519Signer, *, now: datetime, life: timedelta
) -> bytes:
    """Sign a timestamp that names one snapshot: the one thing a hub signs."""
    meta = MetaFile.from_data(snapshot.version, snapshot.data, ["sha256"])
    return sign_metadata(Metadata(Timestamp(version, expires=expiry(now, life), snapshot_meta=meta)), (signer,))
