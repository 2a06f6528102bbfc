"""What a person types for an end of a connection: a cell's component, or an address; pure."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import Final

from cellward.documents import names
from cli import errors

_PORT: Final = re.compile(r"(\d{1,5})(?:/(tcp|udp|sctp))?\Z", re.IGNORECASE)
_WITH_PORT: Final = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([0-9.]+)):([^:]+)\Z")


@dataclass(frozen=True, slots=True)
class Port:
    """A port and its protocol."""

    number: int
    protocol: str = "TCP"

    def __str__(self) -> str:
        return f"{self.number}/{self.protocol}"


@dataclass(frozen=True, slots=True)
class CellEnd:
    """A cell; ``environment`` and ``component`` are empty where none was named."""

    project: str
    cell: str
    environment: str
    component: str


@dataclass(frozen=True, slots=True)
class AddressEnd:
    """An address that is no pod's, with a port where one was given."""

    ip: str
    port: Port | None


def parse_port(text: str) -> Port:
    """Return ``PORT`` or ``PORT/PROTOCOL``; raises cli/bad-option."""
    found = _PORT.match(text)
    if found is None or not 0 < int(found[1]) < 2**16:
        raise errors.BAD_OPTION(f"{text[:40]!r} is not a port, as 8080 or 53/UDP")
    return Port(int(found[1]), (found[2] or "TCP").upper())


def parse_end(text: str) -> CellEnd | AddressEnd:
    """Return what ``PROJECT/CELL[/ENVIRONMENT][:COMPONENT]``, ``ADDRESS`` or ``ADDRESS:PORT`` means; IPv6 in brackets.

    Raises cli/bad-option.
    """
    address, port = text, None
    if (found := _WITH_PORT.match(text)) is not None:
        address, port = found[1] or found[2], parse_port(found[3])
    try:
        return AddressEnd(str(ipaddress.ip_address(address)), port)
    except ValueError:
        pass
    path, colon, component = text.partition(":")
    parts = path.split("/")
    if len(parts) not in {2, 3} or (colon and not component) or not all(names.is_label(part) for part in parts):
        raise errors.BAD_OPTION(
            f"{text[:120]!r} is neither a cell nor an address",
            hint="Give PROJECT/CELL[/ENVIRONMENT][:COMPONENT], ADDRESS, ADDRESS:PORT or [IPV6]:PORT.",
        )
    return CellEnd(parts[0], parts[1], parts[2] if len(parts) == 3 else "", component)
