"""Publishing side of the trust path, used by the CLI with local keys; the hub never has any of them.

Seam: signatures are final, bodies follow.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from cellward.documents.dsse import Ed25519Signer
from cellward.documents.keyring import Keyring
from cellward.policy.model import BindingSet
from cellward.policy.trust import PolicyFloors


@dataclass(frozen=True, slots=True)
class RoleKeys:
    """Public keys (SubjectPublicKeyInfo, DER, Ed25519) of one role, and how many must sign."""

    keys: tuple[bytes, ...]
    threshold: int = 1


@dataclass(frozen=True, slots=True)
class MetadataFile:
    """One signed metadata file: role root, targets, keyring or snapshot; its version; its exact bytes."""

    role: str
    version: int
    data: bytes


@dataclass(frozen=True, slots=True)
class RepositoryState:
    """What is published now: all roots from version 1 on, and the newest of each other role (None before the first)."""

    roots: tuple[bytes, ...]
    targets: bytes | None = None
    keyring: bytes | None = None
    snapshot: bytes | None = None


@dataclass(frozen=True, slots=True)
class Publication:
    """What is to be uploaded to the hub: metadata without timestamp, and target bytes by digest."""

    metadata: tuple[MetadataFile, ...]
    targets: Mapping[str, bytes] = field(default_factory=dict)
    floors: PolicyFloors | None = None


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
    """Make root version 1; its realm is ``trust.realm_of`` of the result."""
    raise NotImplementedError


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
    """Make new targets, keyring and snapshot metadata above the present state."""
    raise NotImplementedError


def refresh(
    state: RepositoryState, *, keys: SigningKeys, now: datetime, known: PolicyFloors | None = None
) -> Publication:
    """Make a new snapshot only (7 d), with the publisher key alone."""
    raise NotImplementedError
