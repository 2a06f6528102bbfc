"""What is measured of a cell, and the record of it; pure."""

from __future__ import annotations

from agent.audit.interfaces import Entry
from agent.cells.cell import Cell
from agent.isolation.interfaces import Evidence
from agent.isolation.kept import first_wrong
from agent.objects.model import CellRecord, Role
from cellward.cells.network import NetworkIntent


def in_force(cell: Cell, network: NetworkIntent) -> NetworkIntent:
    """Return the intent as it is in force: in quarantine nothing is open."""
    if not cell.record.quarantined:
        return network
    return NetworkIntent(network.project, network.cell, network.environment, ())


def is_isolated(record: CellRecord) -> bool:
    """Whether isolation is written and is to stay, so that there is something to be measured."""
    return not record.ending and any(owned.role is Role.ISOLATION and owned.uid for owned in record.objects)


def measured(cell: Cell, evidence: Evidence) -> Entry:
    """Return the record of a measurement."""
    wrong = sum(1 for one in evidence.edges if one.wrong)
    details = {
        "isolation": evidence.state,
        "namespace": cell.record.namespace,
        "edges": str(len(evidence.edges)),
        "wrong": str(wrong),
    }
    if wrong:
        details["first"] = first_wrong(evidence.edges)
    if evidence.cut:
        details["suppressed"] = str(evidence.cut)
    return Entry("isolation.probe", f"Cell/{cell.record.namespace}", "done", reason=evidence.text, details=details)
