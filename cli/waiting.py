"""``--wait``: looks until every cluster meant has done what was asked, refused it, or time is up."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Final

from cli import errors
from cli.cells import OF_PODS, show_condition, show_refusal, show_refusals
from cli.clusters import all_clusters
from cli.output import say

if TYPE_CHECKING:
    from cellward.api import schemas
    from cli.door.client import Client
    from cli.state.model import Key

#: Seconds between two looks.
STEP = 0.5
#: What a cluster waits for itself. Any other refusal comes with a receipt; until then it may be that of an older wish.
_CLUSTERS_OWN: Final = (
    "policy/engine-",
    "policy/no-verified-set",
    "apply/admission-guard",
    "apply/deletion-pending",
    "apply/namespace-terminating",
    "apply/policy-stale",
    "kube/",
    "spool/",
    "stamps/",
)


def wait_cells(client: Client, wanted: Mapping[Key, str], phase: str, timeout: float) -> None:
    """Wait until every cluster meant has each Deployment or tombstone, by digest, in a phase.

    Why a cluster waits with one, and why its pods do not run, is said as soon as the hub knows it, each once. Raises
    cli/cell-refused, cli/not-ready; cli/no-cluster at once when no cluster is meant to take one of them.
    """
    nowhere = [key for key, digest in wanted.items() if not _states(client, key, digest)]
    if nowhere:
        raise errors.NO_CLUSTER(f"no cluster matches yet: {_names(nowhere)}")

    told: set[tuple[str, ...]] = set()

    def missing() -> str:
        states = {key: _states(client, key, digest) for key, digest in wanted.items()}
        refused = [state for found in states.values() for state in found if state.acknowledged is False]
        if refused:
            show_refusals(refused)
            first = refused[0]
            raise errors.CELL_REFUSED(f"{first.cluster} refused {first.project}/{first.cell} in {first.environment}")
        left = [state for found in states.values() for state in found if not _done(state, phase)]
        for state in left:
            _tell(state, told)
        return ", ".join(dict.fromkeys(_waited(left)))

    _until(missing, phase, timeout)
    say(f"all targeted clusters succeeded: {phase}")


def _tell(state: schemas.CellState, told: set[tuple[str, ...]]) -> None:
    """Say what keeps one place of a cell from it, unless that was said."""
    place = (state.cluster, state.project, state.cell, state.environment)
    if not state.connected:
        if (*place, "") not in told:
            told.add((*place, ""))
            say(f"{state.cluster} has no link to the hub: nobody knows what becomes of {state.project}/{state.cell}")
        return
    # By its code alone: a reason may change with each try.
    for refusal in _waits(state):
        if (*place, refusal.code) not in told:
            told.add((*place, refusal.code))
            show_refusal(state, refusal, "waits with", say)
    for found in state.conditions:
        if found.code in OF_PODS and (*place, found.code, found.subject) not in told:
            told.add((*place, found.code, found.subject))
            show_condition(state, found, say)


def _waits(state: schemas.CellState) -> list[schemas.Refusal]:
    return [refusal for refusal in state.refusals if refusal.code.startswith(_CLUSTERS_OWN)]


def _waited(states: Iterable[schemas.CellState]) -> list[str]:
    """What is waited for, each with why, as far as its clusters say."""
    found = []
    for state in states:
        codes = [refusal.code for refusal in _waits(state)]
        codes += [one.code for one in state.conditions if one.code in OF_PODS]
        why = "no link" if not state.connected else ", ".join(dict.fromkeys(codes))
        found.append(f"{state.project}/{state.cell}" + (f" on {state.cluster} ({why})" if why else ""))
    return found


def wait_policy(client: Client, snapshot: int, timeout: float) -> None:
    """Wait until every cluster that joined decides on this snapshot or a newer one; raises as ``wait_cells``."""
    if not any(cluster.joined for cluster in all_clusters(client)):
        raise errors.NO_CLUSTER("no cluster has joined yet", hint="Invite one with `cellward clusters invite NAME`.")

    def missing() -> str:
        return ", ".join(one.name for one in all_clusters(client) if one.joined and one.policy.snapshot < snapshot)

    _until(missing, f"on snapshot {snapshot}", timeout)
    say(f"all targeted clusters succeeded: on snapshot {snapshot}")


def _until(missing: Callable[[], str], what: str, timeout: float) -> None:
    deadline = time.monotonic() + timeout
    while left := missing():
        if time.monotonic() > deadline:
            raise errors.NOT_READY(f"timed out waiting for {left} to be {what} ({timeout:.0f} s)")
        time.sleep(STEP)


def _states(client: Client, key: Key, digest: str) -> list[schemas.CellState]:
    from cellward.api import schemas
    from cellward.errors import NotFound

    try:
        found = client.get(f"/cells/{key[0]}/{key[1]}", schemas.Cell).states
    except NotFound:
        return []
    return [state for state in found if state.desired_digest == digest]


def _done(state: schemas.CellState, phase: str) -> bool:
    # What ended does not come back; of anything else nobody knows while the cluster has no link.
    known = state.connected or phase == "removed"
    return known and state.phase == phase and state.deployment_digest == state.desired_digest


def _names(keys: list[Key]) -> str:
    return ", ".join("/".join(key) for key in keys)
