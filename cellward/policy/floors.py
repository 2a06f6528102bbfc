"""Floors of the policy: what was accepted once is never undercut, in version or in what is known of a key. Pure values.

Invariants: the floor of a role never goes down (the timestamp's alone may, by a new root); a key once seen *retired* is
never *active* again, and one seen *compromised* stays it, also where a keyring in between left the key out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tuf.api.metadata import Root, Timestamp

from cellward.documents.canonical import MAX_INT
from cellward.policy.errors import KEY_LIFTED

if TYPE_CHECKING:
    from cellward.documents.keyring import Keyring

#: States of a key, the worse the higher; only the worse two are remembered.
_RANK = {"active": 0, "retired": 1, "compromised": 2}


@dataclass(frozen=True, slots=True)
class RoleFloor:
    """Highest version of a role ever accepted, and which document it was.

    ``digest`` is that of its signed part (``trust.floor_of``), never of a file: whoever carries a file may add to its
    signatures, and it stays the same document. Empty where it is not known, in state of a version that kept the
    digest of the file; then the version holds, and the next set accepted says the digest.
    """

    version: int
    digest: str

    def differs_from(self, other: RoleFloor) -> bool:
        """Whether two of one version are two documents, as far as both are known."""
        return bool(self.digest and other.digest) and self.digest != other.digest


@dataclass(frozen=True, slots=True)
class PolicyFloors:
    """Floors by role (root, timestamp, snapshot, targets, keyring), and the worst state seen of a key, by its id."""

    roles: Mapping[str, RoleFloor] = field(default_factory=dict)
    keys: Mapping[str, str] = field(default_factory=dict)

    def get(self, role: str) -> RoleFloor | None:
        """Return the floor of a role."""
        return self.roles.get(role)

    def to_json(self) -> dict[str, object]:
        """Return a JSON form for a state file."""
        roles = {role: {"version": floor.version, "signed": floor.digest} for role, floor in self.roles.items()}
        return {"roles": roles, "keys": dict(self.keys)}

    @classmethod
    def from_json(cls, value: object) -> PolicyFloors:
        """Read the JSON form; raises ValueError when it is not one.

        ``digest`` in place of ``signed`` was that of the file, which says nothing of the document.
        """
        given, keys = (value.get("roles"), value.get("keys")) if isinstance(value, dict) else (None, None)
        if not isinstance(given, dict) or not isinstance(keys, dict):
            raise ValueError("floors are not an object of roles and keys")  # noqa: TRY004 - one kind for a bad file
        roles: dict[str, RoleFloor] = {}
        for role, entry in given.items():
            version = entry.get("version") if isinstance(entry, dict) else None
            digest = entry.get("signed", entry.get("digest")) if isinstance(entry, dict) else None
            if type(version) is not int or not 0 < version <= MAX_INT or not isinstance(digest, str):
                raise ValueError(f"floor of {role} is malformed")
            digest = digest if "signed" in entry else ""
            roles[role] = RoleFloor(version, digest)
        if not all(isinstance(state, str) and _RANK.get(state) for state in keys.values()):
            raise ValueError("a remembered key is neither retired nor compromised")
        return cls(roles, dict(keys))

    def merged(self, other: PolicyFloors) -> PolicyFloors:
        """Return the higher floor of each role and the worse state of each key: two copies of the same floors.

        The timestamp's is that of the copy with the newer root, which may have reset it.
        """
        roles = dict(self.roles)
        for role, floor in other.roles.items():
            here = roles.get(role)
            same = here is not None and floor.version == here.version and not here.digest
            if here is None or floor.version > here.version or same:
                roles[role] = floor
        ours, theirs = (floors.roles.get(Root.type, RoleFloor(0, "")).version for floors in (self, other))
        newer = other if theirs > ours else self
        if ours != theirs and Timestamp.type in newer.roles:
            roles[Timestamp.type] = newer.roles[Timestamp.type]
        keys = dict(self.keys)
        for keyid, state in other.keys.items():
            keys[keyid] = max(state, keys.get(keyid, "active"), key=_RANK.__getitem__)
        return PolicyFloors(roles, keys)

    def undercut_by(self, found: Mapping[str, RoleFloor]) -> str:
        """Return the first role that is missing, older, or other than the floor of the same version; empty for none."""
        for role, floor in sorted(self.roles.items()):
            here = found.get(role)
            if here is None or here.version < floor.version:
                return role
            if here.version == floor.version and here.differs_from(floor):
                return role
        return ""

    def with_keys(self, keyring: Keyring) -> PolicyFloors:
        """Return the floors after a keyring as signed was seen; raises policy/key-state-lifted."""
        keys = dict(self.keys)
        for entry in keyring.entries:
            before = keys.get(entry.keyid, "active")
            if _RANK[entry.state] < _RANK[before]:
                raise KEY_LIFTED(
                    f"the keyring gives key {entry.keyid[:12]} of {entry.owner!r} as {entry.state}, it was {before}",
                    keyid=entry.keyid,
                )
            if entry.state != "active":
                keys[entry.keyid] = entry.state
        return PolicyFloors(self.roles, keys)


#: What holds where nothing was ever seen.
NOTHING_SEEN = PolicyFloors()
