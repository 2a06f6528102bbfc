"""Signed revocations: locks, quarantines and the oldest issue that first contact accepts. Pure values over bytes.

They come from TUF under the delegation of the keyring (target ``keyring/revocations.json``), so the holders of the
keyring key set and lift them, and a hub does neither: lifting is a new signed set without the entry. Invariant: nothing
here widens; a lock, a quarantine or a minimum only ever refuses, closes or withholds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import TYPE_CHECKING

from cellward.documents import canonical, names
from cellward.documents.errors import BAD_REVOCATIONS, UNKNOWN_SCHEMA
from cellward.documents.fields import DIGEST, Fields, format_time
from cellward.errors import CellwardError
from cellward.identity.locks import Lock, LockKind, lock_of

if TYPE_CHECKING:
    from cellward.documents.canonical import JSON
    from cellward.documents.keyring import Keyring

REVOCATIONS_SCHEMA = "cellward.revocations/v1"
MAX_LOCKS = 4096
MAX_QUARANTINES = 4096
MAX_REASON = 200
#: Every project, in ``minimumIssuedAt``.
EVERY = "*"


@dataclass(frozen=True, slots=True)
class SignedLock:
    """What is cut off: agent (cluster uid), cluster (name), serial (lower-case hexadecimal), or key (its id)."""

    kind: LockKind
    subject: str
    reason: str
    issued_at: datetime

    def to_json(self) -> dict[str, JSON]:
        """Return the lock as JSON."""
        return {
            "kind": self.kind,
            "subject": self.subject,
            "reason": self.reason,
            "issuedAt": format_time(self.issued_at),
        }

    @classmethod
    def from_json(cls, value: JSON) -> SignedLock:
        """Read a lock strictly."""
        fields = Fields(value, ("kind", "subject", "reason", "issuedAt"), "a lock", error=BAD_REVOCATIONS)
        kind = fields.text("kind")
        subject = fields.text("subject")
        try:
            lock = lock_of(kind, subject)
        except CellwardError as error:
            raise BAD_REVOCATIONS(f"a lock is malformed: {error.message}", field="subject") from error
        if lock.subject != subject:
            fields.fail("subject", "is not in the form it is compared in")
        return cls(lock.kind, subject, _reason(fields), fields.time("issuedAt"))


@dataclass(frozen=True, slots=True)
class SignedQuarantine:
    """A cell that is isolated in one environment, on every cluster."""

    project: str
    cell: str
    environment: str
    reason: str
    issued_at: datetime

    @property
    def key(self) -> names.CellKey:
        """What it is about."""
        return names.CellKey(self.project, self.cell, self.environment)

    def to_json(self) -> dict[str, JSON]:
        """Return the quarantine as JSON."""
        return {
            "project": self.project,
            "cell": self.cell,
            "environment": self.environment,
            "reason": self.reason,
            "issuedAt": format_time(self.issued_at),
        }

    @classmethod
    def from_json(cls, value: JSON) -> SignedQuarantine:
        """Read a quarantine strictly."""
        known = ("project", "cell", "environment", "reason", "issuedAt")
        fields = Fields(value, known, "a quarantine", error=BAD_REVOCATIONS)
        return cls(
            fields.name("project", names.PROJECT_MAX),
            fields.name("cell", names.CELL_MAX),
            fields.name("environment", names.ENVIRONMENT_MAX),
            _reason(fields),
            fields.time("issuedAt"),
        )


@dataclass(frozen=True, slots=True)
class Revocations:
    """Everything that is revoked in a realm.

    ``minimum_issued_at`` maps a project, or ``*``, to the earliest ``issuedAt`` of a Deployment that a cluster without
    a floor of its own for the cell accepts.
    """

    realm: str
    locks: tuple[SignedLock, ...] = ()
    quarantines: tuple[SignedQuarantine, ...] = ()
    minimum_issued_at: Mapping[str, datetime] = field(default_factory=dict)

    def lock(self, kind: LockKind, subject: str) -> SignedLock | None:
        """Return the lock on one subject."""
        return next((lock for lock in self.locks if (lock.kind, lock.subject) == (kind, subject)), None)

    def lock_of(self, *, uid: str, cluster: str, serial: str = "") -> SignedLock | None:
        """Return what locks a cluster: its agent's uid, its name, or a certificate's serial; whole values compared."""
        return self.lock("agent", uid) or self.lock("cluster", cluster) or (self.lock("serial", serial))

    def quarantine(self, project: str, cell: str, environment: str) -> SignedQuarantine | None:
        """Return the quarantine of a cell."""
        wanted = (project, cell, environment)
        return next((found for found in self.quarantines if found.key == wanted), None)

    def minimum(self, project: str) -> datetime | None:
        """Return the earliest issue that first contact accepts for a project; None when nothing bounds it."""
        found = [self.minimum_issued_at[name] for name in (EVERY, project) if name in self.minimum_issued_at]
        return max(found, default=None)

    def as_locks(self) -> tuple[Lock, ...]:
        """Return the locks as listeners ask for them; what an honest hub enforces of the set it serves."""
        return tuple(lock_of(lock.kind, lock.subject, lock.reason) for lock in self.locks)

    def narrow(self, keyring: Keyring) -> Keyring:
        """Return the keyring with every locked key as compromised: it counts for nothing, not even what it signed."""
        locked = {lock.subject for lock in self.locks if lock.kind == "key"}
        entries = (replace(one, state="compromised") if one.keyid in locked else one for one in keyring.entries)
        return replace(keyring, entries=tuple(entries))

    def to_json(self) -> dict[str, JSON]:
        """Return the set as JSON; its canonical form is the TUF target."""
        return {
            "schema": REVOCATIONS_SCHEMA,
            "realm": self.realm,
            "locks": [lock.to_json() for lock in self.locks],
            "quarantines": [one.to_json() for one in self.quarantines],
            "minimumIssuedAt": {name: format_time(moment) for name, moment in self.minimum_issued_at.items()},
        }

    def to_bytes(self) -> bytes:
        """Return the canonical bytes, read back once; raises what :meth:`from_bytes` raises."""
        data = canonical.encode(self.to_json())
        self.from_bytes(data)
        return data

    @classmethod
    def from_bytes(cls, data: bytes) -> Revocations:
        """Read the target strictly; raises document/bad-revocations, or document/unknown-* (too new)."""
        return cls.from_json(canonical.decode(data))

    @classmethod
    def from_json(cls, value: JSON) -> Revocations:
        """Read a set strictly; one subject is locked once, one cell quarantined once."""
        if isinstance(value, dict) and value.get("schema") != REVOCATIONS_SCHEMA:
            raise UNKNOWN_SCHEMA(f"schema {str(value.get('schema'))[:80]!r} is not {REVOCATIONS_SCHEMA!r}")
        known = ("schema", "realm", "locks", "quarantines", "minimumIssuedAt")
        fields = Fields(value, known, "the revocations", error=BAD_REVOCATIONS)
        locks = tuple(SignedLock.from_json(one) for one in _list(fields, "locks", MAX_LOCKS))
        closed = tuple(SignedQuarantine.from_json(one) for one in _list(fields, "quarantines", MAX_QUARANTINES))
        if len({(lock.kind, lock.subject) for lock in locks}) != len(locks):
            fields.fail("locks", "locks something twice")
        if len({one.key for one in closed}) != len(closed):
            fields.fail("quarantines", "has a cell twice")
        return cls(fields.text("realm", DIGEST), locks, closed, _minimum(fields.raw("minimumIssuedAt")))


#: What holds where no set was verified.
NOTHING_REVOKED = Revocations("")


def _reason(fields: Fields) -> str:
    reason = fields.text("reason", limit=MAX_REASON)
    if not reason:
        fields.fail("reason", "is empty")
    return reason


def _list(fields: Fields, name: str, limit: int) -> list[JSON]:
    found = fields.raw(name)
    if not isinstance(found, list) or len(found) > limit:
        raise BAD_REVOCATIONS(f"{name} is not a list of at most {limit}")
    return found


def _minimum(value: JSON) -> dict[str, datetime]:
    if not isinstance(value, dict) or not all(
        name == EVERY or names.is_name(name, names.PROJECT_MAX) for name in value
    ):
        raise BAD_REVOCATIONS("minimumIssuedAt is not a map of projects")
    fields = Fields(value, tuple(value), "minimumIssuedAt", error=BAD_REVOCATIONS)
    return {name: fields.time(name) for name in value}
