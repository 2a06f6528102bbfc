"""Which edges of a release are refused, because the other side as accepted here offers something else; pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from agent.audit.interfaces import RefusalText
from agent.cells.errors import EDGE_DIFFERS
from agent.isolation.driver import closed
from agent.kube.interfaces import JSONObject
from agent.verify.refusals import refusal_of
from cellward.cells.edges import Need, Offer, difference
from cellward.documents.names import CellKey

#: What the accepted release of a cell (project, cell, environment) offers on this cluster, None where there is none.
Offers = Callable[[CellKey], tuple[Offer, ...] | None]


def refused_edges(needs: Sequence[Need], environment: str, offers: Offers) -> dict[str, RefusalText]:
    """Return why edges are refused, by their names; one to a cell that is not here leads nowhere and is no matter."""
    found: dict[str, RefusalText] = {}
    for need in needs:
        there = offers(CellKey(need.project, need.cell, environment))
        why = "" if there is None else difference(need, there)
        if why:
            about = f"Connection/{need.project}/{need.cell}/{need.offer.endpoint}"
            error = EDGE_DIFFERS(f"the connection is closed: {why}", object=about)
            found[need.edge] = refusal_of(error, about)
    return found


def shut(policy: JSONObject, edges: Sequence[str]) -> tuple[JSONObject, JSONObject]:
    """Return an isolation object as it is to be written, and what was released where that is another."""
    return (closed(policy), policy) if policy["metadata"]["name"] in edges else (policy, {})
