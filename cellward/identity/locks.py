"""Locks: whom hub and agents no longer let speak, and the one question whether somebody is among them (V4).

Pure. Invariants: a lock only ever takes away; whole normalised fields are compared, never prefixes; a subject that
cannot be what its kind names is refused, so that a typing mistake is not a lock that locks nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Literal, get_args

from cellward.identity.errors import BAD_LOCK

#: ``agent`` is one installation by its uid, ``cluster`` a name whoever holds it, ``serial`` one certificate, ``key``
#: one TLS key by the digest of its SubjectPublicKeyInfo.
LockKind = Literal["agent", "cluster", "serial", "key"]
KINDS: Final[tuple[LockKind, ...]] = get_args(LockKind)
#: Longest reason kept.
MAX_REASON: Final = 500
_SUBJECTS: Final[dict[str, re.Pattern[str]]] = {
    "agent": re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\Z"),
    "cluster": re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\Z"),
    "serial": re.compile(r"[1-9a-f][0-9a-f]{0,39}\Z"),
    "key": re.compile(r"[0-9a-f]{64}\Z"),
}


@dataclass(frozen=True, slots=True, order=True)
class Lock:
    """One lock. Made by ``lock_of``, which checks it."""

    kind: LockKind
    subject: str
    reason: str = ""

    def __str__(self) -> str:
        return f"{self.kind}/{self.subject}"


def lock_of(kind: str, subject: str, reason: str = "") -> Lock:
    """Return a lock with its subject in the one form it is compared in; raises identity/bad-lock."""
    for known in KINDS:
        if known == kind:
            break
    else:
        raise BAD_LOCK(f"{kind[:40]!r} is none of {', '.join(KINDS)}")
    text = subject.strip()
    if known == "key":
        text = text.removeprefix("sha256:")
    if known in {"serial", "key"}:
        text = text.lower().replace(":", "").removeprefix("0x")
    if known == "serial":
        text = text.lstrip("0")
    if not _SUBJECTS[known].match(text):
        raise BAD_LOCK(f"{subject[:80]!r} cannot be the {known} of a lock")
    return Lock(known, text, reason[:MAX_REASON])


def parse_lock(text: str, reason: str = "") -> Lock:
    """Return the lock that ``KIND/SUBJECT`` names; raises identity/bad-lock."""
    kind, slash, subject = text.partition("/")
    if not slash:
        raise BAD_LOCK(f"{text[:80]!r} is not KIND/SUBJECT")
    return lock_of(kind, subject, reason)


class LockSet:
    """Locks, looked up by what is known of a peer."""

    def __init__(self, locks: Iterable[Lock] = ()) -> None:
        self._locks: dict[tuple[str, str], Lock] = {}
        for lock in locks:
            self._locks.setdefault((lock.kind, lock.subject), lock)

    def __len__(self) -> int:
        return len(self._locks)

    def subjects(self, kind: LockKind) -> tuple[str, ...]:
        """Subjects of one kind, sorted."""
        return tuple(sorted(subject for found, subject in self._locks if found == kind))

    def hit(self, *, cluster: str = "", uid: str = "", serial: str = "", key: str = "") -> Lock | None:
        """Return the lock that holds somebody of whom this much is known, or None; what is not known is left out."""
        for kind, subject in (("cluster", cluster), ("agent", uid), ("key", key), ("serial", serial)):
            found = self._locks.get((kind, subject)) if subject else None
            if found is not None:
                return found
        return None
