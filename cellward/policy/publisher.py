"""Publishing side of the trust path, used by the CLI with local keys; the hub never has any of them.

Root is version 1 for ever until rotated; targets (the policy key), the delegated keyring role and the snapshot (the
publisher key) get the next version at each publish; a refresh renews the snapshot alone. Nothing is taken on trust
from the hub that serves the present state: it is verified from the first root on, must be one set, and is compared with
the floors the publisher kept (``known``), so that a hub cannot have an older set, or parts of one, signed anew.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
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

from cellward.documents import canonical
from cellward.policy import trust
from cellward.policy.bindings import dump_bindings
from cellward.policy.bundle import Bundle, read_bundle
from cellward.policy.errors import BAD_ROOT, EXPIRED, FOREIGN_REALM, INCOMPLETE, NO_FLOORS, UNVERIFIED
from cellward.policy.model import BINDINGS_TARGET, KEYRING_ROLE, KEYRING_TARGET, BindingSet
from cellward.policy.published import Present, RepositoryState, verified_roots
from cellward.policy.signing import expiry, sign_metadata, tuf_key
from cellward.policy.trust import PolicyFloors

if TYPE_CHECKING:
    from cellward.documents.dsse import Ed25519Signer
    from cellward.documents.keyring import Keyring

ROOT_LIFE = timedelta(days=365)
TARGETS_LIFE = timedelta(days=180)
SNAPSHOT_LIFE = timedelta(days=7)


@dataclass(frozen=True, slots=True)
class RoleKeys:
    """Public keys (SubjectPublicKeyInfo, DER) of one role, and how many must sign."""

    keys: tuple[bytes, ...]
    threshold: int = 1


@dataclass(frozen=True, slots=True)
class MetadataFile:
    """One signed metadata file: role root, targets, keyring or snapshot; its version; its exact bytes."""

    role: str
    version: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Publication:
    """What is to be uploaded to the hub: metadata without timestamp, and target bytes by digest.

    ``floors`` is for the publisher to keep and to give back as ``known`` the next time.
    """

    metadata: tuple[MetadataFile, ...]
    targets: Mapping[str, bytes] = field(default_factory=dict)
    floors: PolicyFloors = field(default_factory=PolicyFloors)


@dataclass(frozen=True, slots=True)
class SigningKeys:
    """Signers per role; a role that is not needed for an operation may be empty."""

    root: tuple[Ed25519Signer, ...] = ()
    policy: tuple[Ed25519Signer, ...] = ()
    keyring: tuple[Ed25519Signer, ...] = ()
    publisher: tuple[Ed25519Signer, ...] = ()


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
    data = sign_metadata(signed, signers)
    trust.realm_of(data)
    return data


def rotate_root(
    roots: Sequence[bytes], *, changes: Mapping[str, RoleKeys], signers: Sequence[Ed25519Signer], now: datetime
) -> bytes:
    """Make the next root: ``changes`` gives new keys by TUF role (root, targets, snapshot, timestamp).

    ``signers`` must reach the thresholds of the old and the new root. Raises policy/bad-root otherwise.
    """
    signed = trust.parse(Root, roots[-1]).signed
    signed.version += 1
    signed.expires = expiry(now, ROOT_LIFE)
    _set_roles(signed, changes)
    data = sign_metadata(signed, signers)
    try:
        verified_roots((*roots, data))
    except RepositoryError as error:
        raise BAD_ROOT("the signers do not reach the thresholds of the old and the new root") from error
    return data


def _set_roles(root: Root, roles: Mapping[str, RoleKeys]) -> None:
    for name, wanted in roles.items():
        _check_threshold(name, wanted)
        for keyid in list(root.roles[name].keyids):
            root.revoke_key(keyid, name)
        for spki in wanted.keys:
            root.add_key(tuf_key(spki), name)
        root.roles[name] = Role(root.roles[name].keyids, wanted.threshold)


def _check_threshold(name: str, keys: RoleKeys) -> None:
    if not 1 <= keys.threshold <= len(set(keys.keys)):
        raise BAD_ROOT(f"role {name} has {len(set(keys.keys))} keys, and a threshold of {keys.threshold}")


def publish(
    state: RepositoryState,
    *,
    bundles: Sequence[bytes],
    bindings: BindingSet,
    keyring: Keyring,
    keyring_keys: RoleKeys,
    keys: SigningKeys,
    now: datetime,
    known: PolicyFloors | None = None,
) -> Publication:
    """Make new targets, keyring and snapshot metadata above the present state, and above what was published before.

    ``bundles`` are archives (see :func:`cellward.policy.bundle.build_bundle`); each binding must name one of them.
    Nothing of what the hub shows is signed again, only its versions count; so a hub that was restored from a backup may
    show an older set, and gets a newer one.

    Raises policy/foreign-realm, policy/incomplete-set, policy/unverified, policy/rollback or what a bundle raises.
    """
    present = Present.of(state, known, anew=True)
    _check_realm(state, bindings, keyring)
    content = _content(bundles, bindings)
    keyring_data = canonical.encode(keyring.to_json())
    targets = Targets(present.next("targets"), expires=expiry(now, TARGETS_LIFE), targets=_files(content))
    _check_threshold(KEYRING_ROLE, keyring_keys)
    tuf_keys = [tuf_key(spki) for spki in dict.fromkeys(keyring_keys.keys)]
    role = DelegatedRole(
        KEYRING_ROLE,
        [key.keyid for key in tuf_keys],
        keyring_keys.threshold,
        terminating=True,
        paths=[f"{KEYRING_ROLE}/*"],
    )
    targets.delegations = Delegations({key.keyid: key for key in tuf_keys}, {KEYRING_ROLE: role})
    keyring_signed = Targets(
        present.next(KEYRING_ROLE), expires=expiry(now, TARGETS_LIFE), targets=_files({KEYRING_TARGET: keyring_data})
    )
    files = (
        MetadataFile("targets", targets.version, sign_metadata(targets, keys.policy)),
        MetadataFile(KEYRING_ROLE, keyring_signed.version, sign_metadata(keyring_signed, keys.keyring)),
    )
    return _finish(state, present, files, {**content, KEYRING_TARGET: keyring_data}, keys, now)


def publish_keyring(
    state: RepositoryState,
    *,
    keyring: Keyring,
    keys: SigningKeys,
    now: datetime,
    known: PolicyFloors | None,
    first_use: bool = False,
) -> Publication:
    """Make a new keyring and snapshot only: adding an author needs neither the root nor the policy key.

    Raises what :func:`refresh` raises, and policy/foreign-realm.
    """
    present, targets, _ = _to_sign_again(state, known, first_use=first_use)
    if keyring.realm != trust.realm_of(state.roots[0]):
        raise FOREIGN_REALM(f"the keyring belongs to realm {keyring.realm}")
    data = canonical.encode(keyring.to_json())
    signed = Targets(
        present.next(KEYRING_ROLE), expires=expiry(now, TARGETS_LIFE), targets=_files({KEYRING_TARGET: data})
    )
    files = (
        MetadataFile("targets", present.shown["targets"], targets),
        MetadataFile(KEYRING_ROLE, signed.version, sign_metadata(signed, keys.keyring)),
    )
    return _finish(state, present, files, {KEYRING_TARGET: data}, keys, now)


def refresh(
    state: RepositoryState,
    *,
    keys: SigningKeys,
    now: datetime,
    known: PolicyFloors | None,
    first_use: bool = False,
) -> Publication:
    """Make a new snapshot only (7 d), with the publisher key alone, over the targets and keyring there are.

    ``first_use`` takes what the hub shows as the newest where the publisher has no floors (``known`` is None).

    Raises policy/rollback when the state is older than ``known`` or not one set, policy/no-floors without ``known``,
    policy/expired when the targets have expired, policy/incomplete-set when nothing was published.
    """
    present, targets, keyring = _to_sign_again(state, known, first_use=first_use)
    files = (
        MetadataFile("targets", present.shown["targets"], targets),
        MetadataFile(KEYRING_ROLE, present.shown[KEYRING_ROLE], keyring),
    )
    return _finish(state, present, files, {}, keys, now)


def _to_sign_again(
    state: RepositoryState, known: PolicyFloors | None, *, first_use: bool
) -> tuple[Present, bytes, bytes]:
    """Return what is there and may be put under a new snapshot: the targets and the keyring of one set."""
    present = Present.of(state, known)
    if state.targets is None or state.keyring is None or state.snapshot is None:
        raise INCOMPLETE("there is no policy yet; publish it first")
    if known is None and not first_use:
        raise NO_FLOORS("the hub shows a policy, and nothing here says which one was published last")
    return present, state.targets, state.keyring


def _check_realm(state: RepositoryState, bindings: BindingSet, keyring: Keyring) -> None:
    realm = trust.realm_of(state.roots[0])
    for what, found in (("bindings", bindings.realm), ("keyring", keyring.realm)):
        if found != realm:
            raise FOREIGN_REALM(f"the {what} belong to realm {found}")


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


def _finish(
    state: RepositoryState,
    present: Present,
    files: tuple[MetadataFile, ...],
    content: Mapping[str, bytes],
    keys: SigningKeys,
    now: datetime,
) -> Publication:
    meta = {f"{file.role}.json": MetaFile.from_data(file.version, file.data, ["sha256"]) for file in files}
    snapshot = Snapshot(present.next("snapshot"), expires=expiry(now, SNAPSHOT_LIFE), meta=meta)
    files = (*files, MetadataFile("snapshot", snapshot.version, sign_metadata(snapshot, keys.publisher)))
    _check_signatures(present.root, files, now)
    first = trust.parse(Root, state.roots[0]).signed.version
    roots = tuple(MetadataFile("root", first + index, data) for index, data in enumerate(state.roots))
    metadata = (*roots, *files)
    floors = {file.role: trust.RoleFloor(file.version, trust.digest_of(file.data)) for file in metadata}
    return Publication(metadata, {trust.digest_of(data): data for data in content.values()}, PolicyFloors(floors))


def _check_signatures(root: Root, files: tuple[MetadataFile, ...], now: datetime) -> None:
    """Fail here, at the publisher, when a threshold is not reached or something has expired already."""
    by_role = {file.role: file.data for file in files}
    targets = trust.parse(Targets, by_role["targets"])
    trust.check_delegation(targets.signed)
    for role, data in by_role.items():
        metadata: Metadata[Targets] | Metadata[Snapshot] = (
            trust.parse(Snapshot, data) if role == "snapshot" else trust.parse(Targets, data)
        )
        delegator: Root | Targets = targets.signed if role == KEYRING_ROLE else root
        try:
            delegator.verify_delegate(role, metadata.signed_bytes, metadata.signatures)
        except RepositoryError as error:
            raise UNVERIFIED(f"the keys given do not reach the threshold of role {role}", role=role) from error
        if metadata.signed.expires <= now:
            raise EXPIRED(f"{role} version {metadata.signed.version} has expired; publish again", role=role)


def sign_timestamp(
    version: int, snapshot: MetadataFile, signer: Ed25519Signer, *, now: datetime, life: timedelta
) -> bytes:
    """Sign a timestamp that names one snapshot: the one thing a hub signs."""
    meta = MetaFile.from_data(snapshot.version, snapshot.data, ["sha256"])
    return sign_metadata(Timestamp(version, expires=expiry(now, life), snapshot_meta=meta), (signer,))
