"""What is published now, as a hub shows it to a publisher: verified before anything is built on it.

A hub that was taken may show older parts, or parts of several sets; it must not get them signed anew.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from tuf.api.exceptions import LengthOrHashMismatchError, RepositoryError, UnsignedMetadataError
from tuf.api.metadata import Metadata, MetaFile, Root, Snapshot, Targets

from cellward.policy import trust
from cellward.policy.errors import INCOMPLETE, ROLLBACK, UNVERIFIED
from cellward.policy.model import KEYRING_ROLE
from cellward.policy.trust import PolicyFloors


@dataclass(frozen=True, slots=True)
class RepositoryState:
    """What is published now: all roots from version 1 on, and the newest of each other role (None before the first)."""

    roots: tuple[bytes, ...]
    targets: bytes | None = None
    keyring: bytes | None = None
    snapshot: bytes | None = None


@dataclass(frozen=True, slots=True)
class Present:
    """Versions of the present state, after its signatures were checked from the first root on."""

    root: Root
    shown: Mapping[str, int]
    known: PolicyFloors

    def next(self, role: str) -> int:
        """Return the version to give a role: above what is shown and above what was published before."""
        floor = self.known.get(role)
        return max(self.shown[role], floor.version if floor else 0) + 1

    @classmethod
    def of(cls, state: RepositoryState, known: PolicyFloors | None, *, anew: bool = False) -> Present:
        """Verify a state; ``anew`` when nothing of it is signed again, so that older versions of it do no harm."""
        floors = known or PolicyFloors()
        try:
            root = verified_roots(state.roots)
            versions = dict.fromkeys(("targets", KEYRING_ROLE, "snapshot"), 0)
            found = {"root": trust.RoleFloor(root.version, trust.digest_of(state.roots[-1]))}
            for role, data in _given(state):
                metadata: Metadata[Targets] | Metadata[Snapshot] = (
                    trust.parse(Snapshot, data) if role == "snapshot" else trust.parse(Targets, data)
                )
                if role == KEYRING_ROLE:
                    _delegator(state).verify_delegate(role, metadata.signed_bytes, metadata.signatures)
                else:
                    _by_any_root(state.roots, role, metadata)
                versions[role] = metadata.signed.version
                found[role] = trust.RoleFloor(metadata.signed.version, trust.digest_of(data))
        except RepositoryError as error:
            raise UNVERIFIED(f"what the hub says is published does not verify: {error}") from error
        _check_one_set(state, versions)
        _check_not_older(found, floors, ("root",) if anew else tuple(floors.roles))
        return cls(root, versions, floors)


def _check_one_set(state: RepositoryState, shown: Mapping[str, int]) -> None:
    """Refuse targets or a keyring that the shown snapshot does not name: the newest snapshot over older parts."""
    if state.snapshot is None:
        return
    named = trust.parse(Snapshot, state.snapshot).signed.meta
    for role, data in (("targets", state.targets), (KEYRING_ROLE, state.keyring)):
        if not _is_named(named.get(f"{role}.json"), data, shown[role]):
            raise ROLLBACK(f"the hub shows a {role} that is not the one its snapshot names", role=role)


def _is_named(meta: MetaFile | None, data: bytes | None, version: int) -> bool:
    if data is None or meta is None or meta.version != version:
        return False
    try:
        meta.verify_length_and_hashes(data)
    except LengthOrHashMismatchError:
        return False
    return True


def _check_not_older(found: Mapping[str, trust.RoleFloor], floors: PolicyFloors, roles: Sequence[str]) -> None:
    for role in roles:
        here, floor = found.get(role), floors.get(role)
        if role == "timestamp" or floor is None:
            continue
        forked = here is not None and here.version == floor.version and here.digest != floor.digest
        if here is None or here.version < floor.version or forked:
            raise ROLLBACK(f"the hub shows an older or other {role} than was published before", role=role)


def _given(state: RepositoryState) -> Iterable[tuple[str, bytes]]:
    for role, data in (("targets", state.targets), (KEYRING_ROLE, state.keyring), ("snapshot", state.snapshot)):
        if data is not None:
            yield role, data


def _delegator(state: RepositoryState) -> Targets:
    if state.targets is None:
        raise INCOMPLETE("there is a keyring, but no targets that delegate to it")
    metadata = trust.parse(Targets, state.targets)
    _by_any_root(state.roots, "targets", metadata)
    return metadata.signed


def _by_any_root(roots: Sequence[bytes], role: str, metadata: Metadata[Targets] | Metadata[Snapshot]) -> None:
    """Verify by the newest root, else by an older one of the verified chain.

    After a rotation that replaces a role's keys the present set is still the old keys'; it only gives the versions
    to go on from. What is signed now is held to the newest root (:func:`_check_signatures`).
    """
    failure = UnsignedMetadataError(f"no root signs for {role}")
    for data in reversed(roots):
        try:
            trust.parse(Root, data).signed.verify_delegate(role, metadata.signed_bytes, metadata.signatures)
        except UnsignedMetadataError as error:
            failure = error
        else:
            return
    raise failure


def verified_roots(roots: Sequence[bytes]) -> Root:
    """Return the newest root of a chain, verified from the first one on.

    Raises what TUF raises, policy/bad-root, or policy/incomplete-set for none.
    """
    previous: Root | None = None
    for data in roots:
        metadata = trust.parse(Root, data)
        (previous or metadata.signed).verify_delegate("root", metadata.signed_bytes, metadata.signatures)
        metadata.signed.verify_delegate("root", metadata.signed_bytes, metadata.signatures)
        trust.check_root(metadata.signed)
        previous = metadata.signed
    if previous is None:
        raise INCOMPLETE("there is no root")
    return previous
