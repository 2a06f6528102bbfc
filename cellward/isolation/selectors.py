"""What selectors, address blocks and ports of a NetworkPolicy match.

Sources: Kubernetes API reference, LabelSelector meta/v1 and NetworkPolicy networking.k8s.io/v1; KEP-2079 for endPort.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence
from typing import Any, Final

from cellward.isolation.errors import BAD_POLICY
from cellward.isolation.model import ContainerPort

#: Protocols that a NetworkPolicy is defined for.
PROTOCOLS: Final = frozenset({"TCP", "UDP", "SCTP"})


def selects(selector: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    """Whether a LabelSelector selects something with these labels; an empty one selects everything.

    ``NotIn`` and ``DoesNotExist`` select what lacks the key (meta/v1, LabelSelectorRequirement; the concept page
    "Labels and Selectors"). Raises isolation/bad-policy for an operator that the API does not have.
    """
    return all(labels.get(key) == value for key, value in (selector.get("matchLabels") or {}).items()) and all(
        _holds(one, labels) for one in selector.get("matchExpressions") or ()
    )


def _holds(requirement: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    key, operator, values = requirement.get("key"), requirement.get("operator"), requirement.get("values") or ()
    if not isinstance(key, str) or (operator in {"In", "NotIn"}) != bool(values):
        raise BAD_POLICY(f"a selector requires {key!r} {operator!r} of {list(values)!r}")
    match operator:
        case "In":
            return labels.get(key) in values
        case "NotIn":
            return labels.get(key) not in values
        case "Exists":
            return key in labels
        case "DoesNotExist":
            return key not in labels
    raise BAD_POLICY(f"a selector has the operator {operator!r}")


def block_has(block: Mapping[str, Any], ip: str) -> bool | None:
    """Whether an ipBlock has an address; None when the address is not known and that decides.

    IPv4 and IPv6 have nothing in common. Raises isolation/bad-policy for what is no block.
    """
    try:
        cidr = ipaddress.ip_network(str(block.get("cidr")), strict=False)
        excluded = [ipaddress.ip_network(str(one), strict=False) for one in block.get("except") or ()]
        if not ip:
            return None
        address = ipaddress.ip_address(ip)
    except ValueError as error:
        raise BAD_POLICY(f"an ipBlock cannot be read: {error}") from error
    return address in cidr and not any(address in one for one in excluded)


def port_matches(wanted: Mapping[str, Any], port: int, protocol: str, named: Sequence[ContainerPort]) -> bool:
    """Whether one NetworkPolicyPort is met by a port of a receiver whose containers name ``named``.

    Without a protocol it is TCP; without a port every port of the protocol; with endPort (KEP-2079) all from port to
    it, both included. A name means what the receiver calls so, for that protocol. Raises isolation/bad-policy.
    """
    low, high = wanted.get("port"), wanted.get("endPort")
    if high is not None and (not isinstance(low, int) or high < low):
        raise BAD_POLICY(f"endPort {high!r} follows port {low!r}")
    if (wanted.get("protocol") or "TCP") != protocol:
        return False
    if low is None:
        return True
    if isinstance(low, str):
        return ContainerPort(low, port, protocol) in named
    return bool(low <= port <= (low if high is None else high))
