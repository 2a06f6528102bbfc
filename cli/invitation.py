"""What a hub adds to a join: each value is parsed into its own type here, or the invitation is refused.

Invariants, for every answer a hub may give:

- An ``Invitation`` holds no text of the hub's. The address is a host and a port, each within its own grammar. The
  authority is PEM that we wrote from certificates that we parsed. The token has the one form of a join token. The
  cluster is the one that was asked for.
- Nothing else of an answer reaches a join line, a values file or an agent's settings.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from cli import errors

if TYPE_CHECKING:
    from cellward.api import schemas

#: Longest address, PEM and number of certificates taken.
MAX_ADDRESS, MAX_PEM, MAX_AUTHORITIES = 300, 64 * 1024, 8
_TOKEN = re.compile(r"cwj_(replace_)?[0-9a-f]{64}\Z")
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_NAME = rf"{_LABEL}(?:\.{_LABEL})*"
_ADDRESS = re.compile(rf"(?:\[(?P<v6>[0-9a-fA-F:.]{{2,45}})\]|(?P<name>{_NAME})):(?P<port>[0-9]{{1,5}})\Z")


@dataclass(frozen=True, slots=True)
class Address:
    """Where an agent asks to be enrolled."""

    host: str
    port: int

    def __str__(self) -> str:
        """``host:port``, an IPv6 host in brackets."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Invitation:
    """A checked answer; ``token`` is secret."""

    cluster: str
    token: str
    address: Address
    ca_pem: str
    expires_at: datetime


def read_invitation(answer: schemas.JoinToken, cluster: str) -> Invitation:
    """Parse an answer to the request for a token of ``cluster``; raises cli/bad-invitation."""
    if answer.cluster != cluster:
        raise errors.BAD_INVITATION(f"the token is for {answer.cluster[:80]!r}, {cluster} was asked for")
    if not _TOKEN.match(answer.token):
        raise errors.BAD_INVITATION("the token does not have the form of a join token")
    return Invitation(
        cluster, answer.token, parse_address(answer.enrolment_address), _authorities(answer), _expiry(answer.expires_at)
    )


def parse_address(text: str) -> Address:
    """Parse ``host:port``; raises cli/bad-invitation."""
    found = _ADDRESS.match(text) if len(text) <= MAX_ADDRESS else None
    if found is None or not 0 < int(found["port"]) < 65536:
        raise errors.BAD_INVITATION(f"the enrolment address {text[:80]!r} is not host:port")
    port = int(found["port"])
    if found["v6"] is None:
        return Address(found["name"], port)
    try:
        return Address(str(ipaddress.IPv6Address(found["v6"])), port)
    except ValueError as error:
        raise errors.BAD_INVITATION(f"the enrolment address {text[:80]!r} is not host:port") from error


def _authorities(answer: schemas.JoinToken) -> str:
    """PEM of the certificates in the answer, written again: what stood around them is gone."""
    from cellward.errors import CellwardError
    from cellward.identity import x509

    if len(answer.hub_ca_pem) > MAX_PEM:
        raise errors.BAD_INVITATION(f"the hub's authority has {len(answer.hub_ca_pem)} characters")
    try:
        found = x509.load_certificates(answer.hub_ca_pem.encode())
    except (CellwardError, UnicodeError) as error:
        raise errors.BAD_INVITATION("the hub's authority is not PEM of certificates") from error
    if len(found) > MAX_AUTHORITIES or not all(map(x509.is_authority, found)):
        raise errors.BAD_INVITATION("the hub's authority is not a few certificates that may issue others")
    return b"".join(map(x509.to_pem, found)).decode("ascii")


def _expiry(at: datetime) -> datetime:
    try:
        if at.tzinfo is not None:
            return at.astimezone(UTC)
    except OverflowError as error:
        raise errors.BAD_INVITATION("the token's expiry is not a time") from error
    raise errors.BAD_INVITATION("the token's expiry has no time zone")
