"""The keyring, and verification of a document against it.

The keyring comes from TUF (delegated role, target ``keyring/keyring.json``), never from the hub alone. An entry's scope
is enforced here, before any policy sees the document; policy can only ask for more.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Generic, Literal, TypeVar, cast

from cellward.documents import dsse, names
from cellward.documents.canonical import JSON
from cellward.documents.errors import (
    BAD_KEYRING,
    EXPIRED,
    ISSUED_AHEAD,
    NO_VALID_SIGNATURE,
    THRESHOLD_NOT_MET,
    UNKNOWN_SCHEMA,
    WRONG_KIND,
    WRONG_REALM,
)
from cellward.documents.fields import DIGEST, KEYID, Fields, format_time
from cellward.documents.model import (
    Deployment,
    Document,
    Tombstone,
    environments_of,
    parse_document,
    payload_type_of,
    project_of,
)
from cellward.documents.numbers import MAX_AHEAD, check_number, milliseconds
from cellward.errors import CellwardError

KEYRING_SCHEMA = "cellward.keyring/v1"
MAX_ENTRIES = 1024
#: How far ahead of this clock a document may be issued.
MAX_ISSUED_AHEAD = MAX_AHEAD
#: Longest life that a new key is given.
MAX_LIFE = timedelta(days=3650)
#: Owner of the hub's attestation key; it counts only where a signed binding admits it.
HUB_OWNER = "hub"

#: Words of ASCII, single spaces between them: a name, an e-mail address, a team. Owners are compared byte for byte and
#: read by people, so no letter looks like another one's, and none pushes words into the next line of a terminal.
#: Nor is one the beginning of a key id, by which commands choose keys.
_OWNER = re.compile(r"(?=.{1,64}\Z)(?![0-9a-f]{12,}\Z)[A-Za-z0-9._@+'-]+(?: [A-Za-z0-9._@+'-]+)*\Z", re.ASCII)

State = Literal["active", "retired", "compromised"]
D = TypeVar("D", bound=Document)

_ENTRY = (
    "keyid",
    "scheme",
    "publicKey",
    "owner",
    "kinds",
    "projects",
    "environments",
    "notBefore",
    "notAfter",
    "state",
)


@dataclass(frozen=True, slots=True)
class KeyringEntry:
    """One key and what it may sign.

    ``projects`` and ``environments`` may be ``("*",)``. ``notBefore`` and ``notAfter`` bound when a document may be
    newly accepted. A *retired* key vouches only for what was accepted before, a *compromised* one for nothing.
    """

    keyid: str
    scheme: str
    spki_der: bytes
    owner: str
    kinds: tuple[str, ...]
    projects: tuple[str, ...]
    environments: tuple[str, ...]
    not_before: datetime
    not_after: datetime
    state: State = "active"

    def to_json(self) -> dict[str, JSON]:
        """Return the entry as JSON."""
        return {
            "keyid": self.keyid,
            "scheme": self.scheme,
            "publicKey": base64.b64encode(self.spki_der).decode("ascii"),
            "owner": self.owner,
            "kinds": list(self.kinds),
            "projects": list(self.projects),
            "environments": list(self.environments),
            "notBefore": format_time(self.not_before),
            "notAfter": format_time(self.not_after),
            "state": self.state,
        }

    @classmethod
    def from_json(cls, value: JSON) -> KeyringEntry:
        """Read an entry strictly; the key id must be that of the key, and the key in its usual encoding."""
        fields = Fields(value, _ENTRY, "a keyring entry", error=BAD_KEYRING)
        state = fields.text("state")
        if state not in ("active", "retired", "compromised"):
            fields.fail("state", "is not active, retired or compromised")
        scheme = fields.text("scheme")
        spki = fields.base64("publicKey", 4096)
        if scheme in dsse.SCHEMES:
            dsse.load_public_key(spki, scheme)
        keyid = fields.text("keyid", KEYID)
        if keyid != dsse.keyid_of(spki):
            fields.fail("keyid", "is not the sha256 of the key")
        owner = fields.text("owner")
        if not owner:
            fields.fail("owner", "is empty")
        return cls(
            keyid=keyid,
            scheme=scheme,
            spki_der=spki,
            owner=owner,
            kinds=fields.names("kinds", names.LABEL_MAX),
            projects=fields.names("projects", names.PROJECT_MAX, star=True),
            environments=fields.names("environments", names.ENVIRONMENT_MAX, star=True, empty=True),
            not_before=fields.time("notBefore"),
            not_after=fields.time("notAfter"),
            state=cast("State", state),
        )

    def why_not(self, document: Document, now: datetime, *, accepted: bool = False, named: bool = False) -> str:
        """Return why the entry may not sign the document, or an empty text when it may.

        For a document that this agent had ``accepted`` before, time and retirement are not asked again; for one that is
        ``named`` by the digest in another verified document, neither retirement nor that the key's time is over.
        """
        if self.state == "compromised":
            return "the key is compromised"
        if not accepted:
            if self.state != "active" and not named:
                return f"the key is {self.state}"
            if now < self.not_before or (now > self.not_after and not named):
                return "the key is not valid at this time"
        if document.kind not in self.kinds:
            return f"the key may not sign documents of kind {document.kind}"
        project = project_of(document)
        if "*" not in self.projects and project not in self.projects:
            return "the key may not sign for every project" if project is None else f"not for project {project}"
        outside = sorted(set(environments_of(document)) - set(self.environments))
        if outside and "*" not in self.environments:
            return f"the key may not sign for environment {', '.join(outside)}"
        return ""


@dataclass(frozen=True, slots=True)
class Keyring:
    """Every author's key; ``version`` is for people and counts by one, order is kept by TUF."""

    realm: str
    version: int
    entries: tuple[KeyringEntry, ...]

    def find(self, keyid: str) -> KeyringEntry | None:
        """Return the entry of a key id."""
        return next((entry for entry in self.entries if entry.keyid == keyid), None)

    def to_json(self) -> dict[str, JSON]:
        """Return the keyring as JSON; its canonical form is the TUF target."""
        return {
            "schema": KEYRING_SCHEMA,
            "realm": self.realm,
            "version": self.version,
            "entries": [entry.to_json() for entry in self.entries],
        }

    @classmethod
    def from_json(cls, value: JSON) -> Keyring:
        """Read a keyring strictly; one key appears once.

        Raises document/bad-keyring, document/bad-key, or document/unknown-schema and document/unknown-field (too new).
        An entry with a scheme this version does not know is kept, and never verifies anything.
        """
        if isinstance(value, dict) and value.get("schema") != KEYRING_SCHEMA:
            raise UNKNOWN_SCHEMA(f"schema {str(value.get('schema'))[:80]!r} is not {KEYRING_SCHEMA!r}")
        fields = Fields(value, ("schema", "realm", "version", "entries"), "the keyring", error=BAD_KEYRING)
        listed = fields.raw("entries")
        if not isinstance(listed, list) or len(listed) > MAX_ENTRIES:
            raise BAD_KEYRING(f"entries is not a list of at most {MAX_ENTRIES}")
        entries = tuple(KeyringEntry.from_json(item) for item in listed)
        if len({entry.keyid for entry in entries}) != len(entries):
            raise BAD_KEYRING("one key appears in two entries")
        return cls(realm=fields.text("realm", DIGEST), version=fields.integer("version", 1), entries=entries)


def is_owner(text: str) -> bool:
    """Whether a text may name the owner of a key that is newly signed; older keyrings may keep others."""
    return _OWNER.match(text) is not None


def following_version(keyring: Keyring, now: datetime) -> int:
    """Return the version of the keyring after this one: one more.

    Where nobody would take that, because somebody once signed a number far ahead of the clock, it goes on at the clock.
    """
    return milliseconds(now) if _is_ahead(keyring, now) else keyring.version + 1


def _is_ahead(keyring: Keyring, now: datetime) -> bool:
    return keyring.version + 1 > milliseconds(now + MAX_AHEAD)


def check_following(before: Keyring | None, after: Keyring, now: datetime) -> None:
    """Refuse to sign a keyring that no command makes out of the one in force; raises document/bad-keyring.

    ``before`` is None where nothing was signed yet. What agents read leniently, a number for people, a scheme of a
    later version, any owner, is no less signed: it could stop every later command, or mislead a person.
    """
    had = {} if before is None else {entry.keyid: entry for entry in before.entries}
    owners = {entry.owner for entry in had.values()}
    check_number(after.version, now, "the version of the keyring")
    if before is not None and not _is_ahead(before, now):
        allowed = {before.version + 1, *([before.version] if before.entries == after.entries else [])}
        if after.version not in allowed:
            raise BAD_KEYRING(f"version {after.version} of the keyring does not follow version {before.version}")
    for entry in after.entries:
        old = had.get(entry.keyid)
        if (old is None or old.scheme != entry.scheme) and entry.scheme not in dsse.SCHEMES:
            raise BAD_KEYRING(f"key {entry.keyid} is given scheme {entry.scheme!r}, with which nothing verifies")
        if entry.owner not in owners and not is_owner(entry.owner):
            raise BAD_KEYRING(
                f"key {entry.keyid} is given an owner that is not at most 64 letters, digits and ._@+'- of ASCII, "
                "with single spaces between words"
            )
        if old is None or (old.not_before, old.not_after) != (entry.not_before, entry.not_after):
            _check_life(entry, now)


def _check_life(entry: KeyringEntry, now: datetime) -> None:
    """Refuse a life that begins later, which locks an author out until then, or ends before it, or never."""
    if not entry.not_before <= now + MAX_AHEAD:
        raise BAD_KEYRING(f"key {entry.keyid} would count from {format_time(entry.not_before)} on, not from now")
    if not entry.not_before < entry.not_after <= now + MAX_LIFE + MAX_AHEAD:
        until = format_time(entry.not_after)
        raise BAD_KEYRING(f"key {entry.keyid} would count until {until}: a key has at most {MAX_LIFE.days} days")


@dataclass(frozen=True, slots=True)
class Verified(Generic[D]):
    """A document whose signatures hold.

    ``signers`` has one entry per distinct owner, ordered by owner; ``digest`` is that of the payload bytes.
    """

    document: D
    digest: str
    signers: tuple[KeyringEntry, ...]


@dataclass(frozen=True, slots=True)
class _Count:
    """Outcome of checking every signature: good entries by owner, and why others do not count."""

    by_owner: dict[str, KeyringEntry] = field(default_factory=dict)
    reasons: list[str] = field(default_factory=list)


class Verifier:
    """Verifies envelopes against one keyring; pure, holds no state of its own.

    ``thresholds`` maps kind to the number of distinct owners needed, 1 where it says nothing. ``hub_environments`` are
    those where a signed binding admits the hub's own key; the caller passes none where the fact ``production`` is true.
    """

    def __init__(
        self,
        keyring: Keyring,
        realm: str,
        thresholds: Mapping[str, int] | None = None,
        *,
        hub_environments: tuple[str, ...] = (),
    ) -> None:
        self._keyring = keyring
        self._realm = realm
        self._thresholds = dict(thresholds or {})
        self._hub_environments = frozenset(hub_environments)

    def verify(
        self, envelope_bytes: bytes, expect: type[D], *, now: datetime, accepted: bool = False, named: bool = False
    ) -> Verified[D]:
        """Verify an envelope as a document of the expected kind.

        Checks, in this order: form, kind, realm, scope and signature of each key one at a time, distinct owners, time.
        ``accepted`` says that this very digest was durably accepted before: then ``notAfter``, the keys' validity and
        retirement are not asked again, so that a restart does not undo what runs; a compromised key still counts for
        nothing. ``named`` says that a verified Deployment names this very digest: whoever signed that vouches for a
        release whose own signer is retired by now, or his key past its time.

        Raises document/wrong-kind, document/wrong-realm, document/no-valid-signature, document/threshold-not-met,
        document/expired, document/issued-in-the-future, document/number-ahead, and whatever parsing raises.
        """
        envelope = dsse.parse_envelope(envelope_bytes)
        document = self._parse(envelope, expect)
        if self._keyring.realm != self._realm or document.realm != self._realm:
            raise WRONG_REALM(f"the {document.kind} is of realm {document.realm}, this is {self._realm}")
        count = self._count(envelope, document, lambda one: one.why_not(document, now, accepted=accepted, named=named))
        needed = max(1, self._thresholds.get(document.kind, 1))
        why = "; ".join(count.reasons)[:600]
        if not count.by_owner:
            raise NO_VALID_SIGNATURE(
                f"no signature on the {document.kind} counts: {why or 'it is not signed'}", digest=envelope.digest
            )
        if len(count.by_owner) < needed:
            raise THRESHOLD_NOT_MET(
                f"{len(count.by_owner)} of {needed} owners signed the {document.kind}{': ' + why if why else ''}",
                digest=envelope.digest,
            )
        _check_time(document, now, accepted=accepted)
        signers = tuple(count.by_owner[owner] for owner in sorted(count.by_owner))
        return Verified(document, envelope.digest, signers)

    def _parse(self, envelope: dsse.Envelope, expect: type[D]) -> D:
        document = parse_document(envelope.payload_type, envelope.payload)
        if not isinstance(document, expect) or envelope.payload_type != payload_type_of(expect.kind):
            raise WRONG_KIND(f"the document is a {document.kind}, a {expect.kind} was expected", digest=envelope.digest)
        return document

    def _count(self, envelope: dsse.Envelope, document: Document, why_not: Callable[[KeyringEntry], str]) -> _Count:
        message = dsse.pae(envelope.payload_type, envelope.payload)
        count = _Count()
        for signature in sorted(envelope.signatures, key=lambda item: item.keyid):
            short = signature.keyid[:12]
            entry = self._keyring.find(signature.keyid)
            if entry is None:
                count.reasons.append(f"{short}: not in the keyring")
                continue
            reason = self._hub_reason(entry, document) or why_not(entry)
            if not reason and not _holds(entry, message, signature.sig):
                reason = "the signature does not hold"
            if reason:
                count.reasons.append(f"{short} of {entry.owner}: {reason}")
            else:
                count.by_owner.setdefault(entry.owner, entry)
        return count

    def _hub_reason(self, entry: KeyringEntry, document: Document) -> str:
        if entry.owner != HUB_OWNER:
            return ""
        reached = environments_of(document)
        if not reached or not self._hub_environments.issuperset(reached):
            return "the hub's key is not admitted here"
        return ""


def _holds(entry: KeyringEntry, message: bytes, sig: bytes) -> bool:
    """Check one signature of one key; a key that cannot be used makes it not hold."""
    try:
        return dsse.verify_signature(entry.spki_der, entry.scheme, message, sig)
    except CellwardError:
        return False


def _check_time(document: Document, now: datetime, *, accepted: bool) -> None:
    if isinstance(document, Deployment | Tombstone):
        check_number(document.sequence, now, f"the sequence of the {document.kind}")
    if document.issued_at - now > MAX_ISSUED_AHEAD:
        raise ISSUED_AHEAD(
            f"issued at {format_time(document.issued_at)}, this clock says {format_time(now)}",
            issuedAt=format_time(document.issued_at),
        )
    if not accepted and document.not_after is not None and now > document.not_after:
        raise EXPIRED(f"the {document.kind} was good until {format_time(document.not_after)}")
