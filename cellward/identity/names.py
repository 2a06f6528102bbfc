"""SPIFFE IDs as Cellward uses them: ``spiffe://<trust domain>/<agent|hub>/<name>``.

Whole fields are parsed and compared, never prefixes (V3; OCM's CVE-2026-4740 compared by prefix). The grammar is
a strict subset of the SPIFFE ID standard: two path segments, no port, no user, no query, no escapes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, get_args

from cellward.identity.errors import BAD_NAME

Kind = Literal["agent", "hub"]
#: Fixed DNS name in every hub leaf; clients verify it whatever address they dialled.
HUB_DNS_NAME = "hub.cellward.internal"
#: Longest SPIFFE ID taken, in bytes; the standard allows 2048.
MAX_SPIFFE_ID = 512

_LABEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_NAME = re.compile(rf"{_LABEL}\Z")
_TRUST_DOMAIN = re.compile(rf"{_LABEL}(?:\.{_LABEL})*\Z")
_SPIFFE = re.compile(rf"spiffe://(?P<domain>{_LABEL}(?:\.{_LABEL})*)/(?P<kind>[a-z]+)/(?P<name>{_LABEL})\Z")
_REALM = re.compile(r"sha256:(?P<hex>[0-9a-f]{64})\Z")
_KINDS: tuple[str, ...] = get_args(Kind)


@dataclass(frozen=True, slots=True)
class SpiffeId:
    """One identity. Equality is equality of all three whole fields."""

    trust_domain: str
    kind: Kind
    name: str

    def __post_init__(self) -> None:
        """Refuse parts outside the grammar, so that an instance is always printable and parseable."""
        if len(self.trust_domain) > 255 or not _TRUST_DOMAIN.match(self.trust_domain):
            raise BAD_NAME(f"trust domain {self.trust_domain[:80]!r} is malformed")
        if self.kind not in _KINDS:
            raise BAD_NAME(f"kind {self.kind[:80]!r} is neither agent nor hub")
        check_name(self.name)

    def __str__(self) -> str:
        return f"spiffe://{self.trust_domain}/{self.kind}/{self.name}"

    @classmethod
    def parse(cls, text: str) -> SpiffeId:
        """Parse the whole of ``text``; raises identity/bad-name."""
        match = _SPIFFE.match(text) if len(text) <= MAX_SPIFFE_ID else None
        if match is None:
            raise BAD_NAME(f"{text[:80]!r} is not a SPIFFE ID of this system")
        kind = match["kind"]
        if kind == "agent":
            return cls(match["domain"], "agent", match["name"])
        if kind == "hub":
            return cls(match["domain"], "hub", match["name"])
        raise BAD_NAME(f"kind {kind[:80]!r} is neither agent nor hub")


def check_name(name: str) -> str:
    """Return ``name`` when it is one RFC 1123 label; raises identity/bad-name."""
    if not _NAME.match(name):
        raise BAD_NAME(f"name {name[:80]!r} is not an RFC 1123 label")
    return name


def trust_domain_of(realm: str) -> str:
    """Trust domain of a realm (``sha256:<64 hex>``): its first 128 bits under ``.cellward``."""
    match = _REALM.match(realm)
    if match is None:
        raise BAD_NAME(f"realm {realm[:80]!r} is not sha256: and 64 hex digits")
    return f"{match['hex'][:32]}.cellward"
