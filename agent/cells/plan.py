"""What a new release changes in the inventory, and the prune limit (V14); pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from agent.cells.errors import PRUNE_BRAKE
from agent.kube.interfaces import ObjectRef
from agent.objects.model import CellRecord, OwnedObject, Role
from agent.objects.order import DATA, is_workload, removal

#: So many objects may always go in one change.
PRUNE_FLOOR: Final = 3
#: Beyond that, this share of the inventory, in percent.
PRUNE_PERCENT: Final = 30


@dataclass(frozen=True, slots=True)
class Prune:
    """What goes, in order of removal, and what stays although it is no longer released because it holds data.

    ``leave`` is what says by labels alone that it is of the cell, was not released and runs nothing: it may be a
    stranger's, and is taken off the record.
    """

    delete: tuple[OwnedObject, ...]
    retain: tuple[OwnedObject, ...]
    leave: tuple[OwnedObject, ...] = ()


def plan_prune(record: CellRecord, released: Iterable[ObjectRef]) -> Prune:
    """Compare the inventory with what is released now; namespace and rights are never pruned."""
    wanted = set(released)
    gone = [o for o in record.objects if o.ref not in wanted and o.role in {Role.OBJECT, Role.ISOLATION}]
    left = tuple(owned for owned in gone if is_doubtful(owned))
    gone = [owned for owned in gone if owned not in left]
    return Prune(
        delete=removal(owned for owned in gone if owned.ref.kind not in DATA),
        retain=tuple(owned for owned in gone if owned.ref.kind in DATA),
        leave=left,
    )


def is_doubtful(owned: OwnedObject) -> bool:
    """Whether an object may be a stranger's that only has the labels of the cell; what runs pods as it is ended."""
    return owned.found == "labels" and not is_workload(owned)


def check_brake(
    record: CellRecord, prune: Prune, *, signed_limit: int, confirmed: int, what: str = "the release"
) -> None:
    """Raise apply/prune-needs-confirmation when too much would go at once.

    What an interrupted release brought is no part of it: it was never in force, and a release after it would be
    refused for ever.

    Args:
        record: the inventory before the change.
        prune: what would go.
        signed_limit: the limit of the signed bindings; the smaller of the two limits holds.
        confirmed: ``confirm_prune`` of the signed Deployment.
        what: would delete it.
    """
    known = [owned for owned in record.objects if not is_doubtful(owned) and not owned.unfinished]
    total = sum(1 for owned in known if owned.role in {Role.OBJECT, Role.ISOLATION})
    limit = min(max(PRUNE_FLOOR, total * PRUNE_PERCENT // 100), signed_limit)
    going = [owned for owned in prune.delete if not owned.unfinished]
    count = len(going)
    if count > max(limit, confirmed):
        names = ", ".join(str(owned.ref) for owned in going[:5])
        raise PRUNE_BRAKE(
            f"{what} deletes {count} of {total} objects ({names}…), {limit} may go without confirmation",
            hint=f"Sign a Deployment with confirmPrune: {count} if that is meant.",
            object=record.namespace,
            count=count,
            limit=limit,
        )
