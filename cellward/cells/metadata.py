"""Addresses where clouds answer with credentials, and every other spelling under which a packet reaches them; pure.

Invariant: what a connection opens never holds one of them, neither itself nor behind a NAT64 gateway whose prefix is
one of the two below; a prefix of an operator's own cannot be known. The well-known prefix (RFC 6052) has one twin for
each address. Of the local-use block (RFC 8215) a gateway may take any part, so the block is left out as a whole; inside
it only a single gateway's prefix can be opened, of which the twins are known.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from typing import Final

_IPV4: Final = tuple(
    map(
        ipaddress.IPv4Address,
        (
            "169.254.169.254",  # nearly everybody, also GKE's resolver
            "169.254.170.2",  # ECS credentials
            "169.254.170.23",  # EKS pod identity
            "168.63.129.16",  # Azure wire server
            "100.100.100.200",  # Alibaba
            "192.0.0.192",  # Oracle
        ),
    )
)
_IPV6: Final = (
    "fd00:ec2::254/128",  # EC2
    "fd00:ec2::23/128",  # EKS pod identity
    "fd20:ce::254/128",  # GCE
)
_WELL_KNOWN: Final = ipaddress.IPv6Network("64:ff9b::/96")
#: NAT64 prefixes that an operator chooses.
LOCAL_USE: Final = ipaddress.IPv6Network("64:ff9b:1::/48")
#: The longest prefix of a gateway, and the shortest range that names one gateway alone.
GATEWAY_LENGTH: Final = 96
_LENGTHS: Final = (48, 56, 64, GATEWAY_LENGTH)
#: Bits 64 to 71 of an address with an embedded one are zero (RFC 6052, section 2.2).
_GAP: Final = range(64, 72)


def _embedded(prefix: ipaddress.IPv6Network, length: int, address: ipaddress.IPv4Address) -> ipaddress.IPv6Network:
    """Return the addresses that a gateway with the first ``length`` bits of ``prefix`` translates to ``address``."""
    value = int(prefix.network_address) >> (128 - length) << (128 - length)
    at = length
    for bit in f"{int(address):032b}":
        at = _GAP.stop if at in _GAP else at
        value |= int(bit) << (127 - at)
        at += 1
    return ipaddress.IPv6Network((value >> (128 - at) << (128 - at), at))


#: Single addresses, as ranges; always left out of what a connection opens.
METADATA_ADDRESSES: Final = (
    *(f"{address}/32" for address in _IPV4),
    *_IPV6,
    *(str(_embedded(_WELL_KNOWN, GATEWAY_LENGTH, address)) for address in _IPV4),
)


def metadata_within(cidr: str) -> list[str]:
    """Return the ranges that have to be left out of an address range, in order."""
    network = ipaddress.ip_network(cidr)
    known: list[ipaddress.IPv4Network | ipaddress.IPv6Network] = [*map(ipaddress.ip_network, METADATA_ADDRESSES)]
    if isinstance(network, ipaddress.IPv6Network) and network.subnet_of(LOCAL_USE) and network != LOCAL_USE:
        known += _local_twins(network)
    else:
        known.append(LOCAL_USE)
    inside = [found for found in known if found.version == network.version]
    return sorted({str(found) for found in inside if found.subnet_of(network)})  # type: ignore[arg-type]


def is_metadata(cidr: str) -> bool:
    """Whether a range holds nothing but what has to be left out."""
    network = ipaddress.ip_network(cidr)
    if isinstance(network, ipaddress.IPv6Network) and network.subnet_of(LOCAL_USE):
        return any(network.subnet_of(twin) for twin in _local_twins(network))
    return str(network) in METADATA_ADDRESSES


def is_many_gateways(cidr: str) -> bool:
    """Whether a range is in the local-use block and wider than one gateway's prefix, so that no twin can be named."""
    network = ipaddress.ip_network(cidr)
    local = isinstance(network, ipaddress.IPv6Network) and network.subnet_of(LOCAL_USE)
    return local and network.prefixlen < GATEWAY_LENGTH


def _local_twins(network: ipaddress.IPv6Network) -> Iterator[ipaddress.IPv6Network]:
    return (_embedded(network, length, address) for length in _LENGTHS for address in _IPV4)
