"""``--wait``: looks until every cluster meant has done what was asked, refused it, or time is up."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from cli import errors
from cli.cells import show_refusals
from cli.clusters import all_clusters
from cli.output import say

if TYPE_CHECKING:
    from cellward.api import schemas
    from cli.door.client import Client
    from cli.state.model import Key

#: Seconds between two looks.
STEP = 0.5


def wait_cells(client: Client, wanted: Mapping[Key, str], phase: str, timeout: float) -> None:
    """Wait until every cluster meant has each Deployment or tombstone, by digest, in a phase.

    Raises cli/cell-refused, cli/not-ready; cli/no-cluster at once when no cluster is meant to take one of them.
    """
    nowhere = [key for key, digest in wanted.items() if not _states(client, key, digest)]
    if nowhere:
        raise errors.NO_CLUSTER(f"no cluster matches yet: {_names(nowhere)}")

    def missing() -> str:
        states = {key: _states(client, key, digest) for key, digest in wanted.items()}
        refused = [state for found in states.values() for state in found if state.acknowledged is False]
        if refused:
            show_refusals(refused)
            first = refused[0]
            raise errors.CELL_REFUSED(f"{first.cluster} refused {first.project}/{first.cell} in {first.environment}")
        return _names([key for key, found in states.items() if not all(_done(state, phase) for state in found)])

    _until(missing, phase, timeout)
    say(f"all targeted clusters succeeded: {phase}")


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
    return state.phase == phase and state.deployment_digest == state.desired_digest


def _names(keys: list[Key]) -> str:
    return ", ".join("/".join(key) for key in keys)
