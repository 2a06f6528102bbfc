"""What is measured of a cell, and the record of it; pure."""

from __future__ import annotations

from agent.audit.interfaces import Entry
from agent.cells.cell import Cell
from agent.isolation.interfaces import Evidence
from cellward.cells.network import NetworkIntent


def in_force(cell: Cell, network: NetworkIntent) -> NetworkIntent:
    """Return the intent as it is in force: in quarantine nothing is open."""
    if not cell.record.quarantined:
        return network
    return NetworkIntent(network.project, network.cell, network.environment, ())


def measured(cell: Cell, evidence: Evidence) -> Entry:
    """Return the record of a measurement."""
    wrong = sum(1 for one in evidence.edges if one.measured not in {one.expected, "unknown"})
    details = {
        "isolation": evidence.state,
        "namespace": cell.record.namespace,
        "edges": str(len(evidence.edges)),
        "wrong": str(wrong),
    }
    return Entry("isolation.probe", f"Cell/{cell.record.namespace}", "done", reason=evidence.text, details=details)
