"""What the hub makes of a document's signatures, by the keyring it serves: a service to honest users, never trust.

Agents verify everything again with keys that did not come from the hub. What is decided here keeps what nobody could
accept out of the way of what somebody can. Invariants: a signature counts when it holds and its key is in force with a
scope that covers the document; each owner has at most one, so no owner fills an envelope; a document is *verified* when
as many distinct owners signed as the signed bindings want, *pending* before, *unverified* with none. A key that was
retired since still vouches for a document that was verified while it was in force, and for a new release only where a
Deployment that somebody in force signed names it; a compromised one for nothing. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from cellward.documents import dsse
from cellward.documents.errors import EXPIRED, ISSUED_AHEAD
from cellward.documents.fields import format_time
from cellward.documents.keyring import HUB_OWNER, MAX_ISSUED_AHEAD, Keyring, KeyringEntry
from cellward.documents.model import Document, DocumentState, environments_of, parse_document
from cellward.errors import CellwardError


@dataclass(frozen=True, slots=True)
class Trusted:
    """What documents are judged by; ``mark`` names the exact content, so that a change is seen.

    ``served`` names the policy metadata it was read from: another one may hold the same content.

    ``thresholds`` are distinct owners by kind, ``hub_environments`` those where a binding admits the hub's own key.
    """

    keyring: Keyring
    thresholds: Mapping[str, int] = field(default_factory=dict)
    hub_environments: frozenset[str] = frozenset()
    mark: str = ""
    served: str = ""

    def needed(self, kind: str) -> int:
        """How many distinct owners must sign a document of this kind."""
        return max(1, self.thresholds.get(kind, 1))


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the signatures of a document come to.

    Attributes:
        signatures: those that count, one per owner, in the order of ``owners``.
        owners: whose they are, sorted.
        needed: how many owners must have signed.
        reasons: why each other signature does not count.
    """

    standing: DocumentState
    signatures: tuple[dsse.Signature, ...] = ()
    owners: tuple[str, ...] = ()
    needed: int = 1
    reasons: tuple[str, ...] = ()

    def to_json(self) -> dict[str, object]:
        """What is kept beside the standing."""
        return {"owners": list(self.owners), "needed": self.needed, "reasons": [why[:200] for why in self.reasons[:8]]}


def judge(
    envelope: dsse.Envelope, trusted: Trusted, now: datetime, *, before: str = "", named: bool = False
) -> Verdict:
    """Judge every signature of an envelope; ``before`` is the standing it had, empty for a new document.

    ``named`` says of a release that a Deployment names it, as agents know the word.

    Raises what parsing the payload raises: what cannot be read cannot be verified.
    """
    document = parse_document(envelope.payload_type, envelope.payload)
    needed, message = trusted.needed(document.kind), dsse.pae(envelope.payload_type, envelope.payload)
    found: dict[str, dsse.Signature] = {}
    late: dict[str, dsse.Signature] = {}
    reasons: list[str] = []
    kept = before == "verified" or (named and document.kind == "release")
    for signature in envelope.signatures:
        entry = trusted.keyring.find(signature.keyid)
        why = _why_not(entry, document, trusted, now)
        stays = kept and bool(why) and entry is not None and _stays(entry, document, trusted, now)
        if entry is None or (why and not stays):
            reasons.append(f"{signature.keyid[:12]}: {why}")
        elif not _holds(entry, message, signature.sig):
            reasons.append(f"{signature.keyid[:12]} of {entry.owner}: the signature does not hold")
        else:
            (late if stays else found).setdefault(entry.owner, signature)
    # Of one owner a key in force speaks, and a retired one where there is no other.
    counted = {**late, **found}
    owners = tuple(sorted(counted))
    standing: DocumentState = "unverified" if not owners else "verified" if len(owners) >= needed else "pending"
    return Verdict(standing, tuple(counted[owner] for owner in owners), owners, needed, tuple(reasons))


def check_times(envelope: dsse.Envelope, now: datetime) -> None:
    """Refuse a new document that no agent takes at this time; raises document/expired, document/issued-in-the-future.

    By the hub's clock, and only what is uploaded: what is kept was in time once, and agents ask their own clock.
    """
    document = parse_document(envelope.payload_type, envelope.payload)
    if document.issued_at - now > MAX_ISSUED_AHEAD:
        raise ISSUED_AHEAD(f"issued at {format_time(document.issued_at)}, the hub's clock says {format_time(now)}")
    if document.not_after is not None and now > document.not_after:
        raise EXPIRED(f"the {document.kind} was good until {format_time(document.not_after)}")


def _why_not(entry: KeyringEntry | None, document: Document, trusted: Trusted, now: datetime) -> str:
    if entry is None:
        return "not in the keyring"
    if entry.owner == HUB_OWNER:
        reached = environments_of(document)
        if not reached or not trusted.hub_environments.issuperset(reached):
            return "the hub's key is not admitted here"
    return entry.why_not(document, now)


def _stays(entry: KeyringEntry, document: Document, trusted: Trusted, now: datetime) -> bool:
    """Whether the signature of a retired or outlived key counts on what was verified before, or is named.

    What it signs besides is not kept: its holder could fill the project, by whatever time he writes into a document.
    """
    if entry.owner == HUB_OWNER and not trusted.hub_environments.issuperset(environments_of(document)):
        return False
    return not entry.why_not(document, now, accepted=True)


def _holds(entry: KeyringEntry, message: bytes, sig: bytes) -> bool:
    try:
        return dsse.verify_signature(entry.spki_der, entry.scheme, message, sig)
    except CellwardError:
        return False
