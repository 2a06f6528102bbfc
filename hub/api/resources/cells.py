"""Cells over the fleet: what is desired, what agents report, and the hub's own narrowing."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

from pydantic import Field

from cellward.api import schemas
from cellward.api.usage import UsageList
from cellward.documents.names import CellKey
from hub.api.auth import require_scope
from hub.api.errors import BAD_CURSOR
from hub.api.resources import convert
from hub.api.routing import Call, Page, Query, RouteTable
from hub.metrics.usage import unknown_usage, usage_of
from hub.store.interfaces import CellRow

routes = RouteTable("cells")


@routes.get("/cells", role="viewer", response=schemas.CellList, query=Page, reach="own")
async def list_cells(call: Call) -> schemas.CellList:
    """List cells that the token is for, without their states."""
    page = call.query(Page)
    after = tuple(page.cursor.split("/")) if page.cursor else ("", "")
    if len(after) != 2:
        raise BAD_CURSOR("the cursor is not one of this list")
    grouped: dict[tuple[str, str], list[schemas.CellState]] = defaultdict(list)
    for view, state in await _states(call, _reached(call, await call.services.clusters.cells())):
        grouped[view.desired.key[:2]].append(state)
    keys = sorted(key for key in grouped if key > after)
    items = [_cell(grouped[key], with_states=False) for key in keys[: page.limit]]
    return schemas.CellList(items=items, next_cursor="/".join(keys[page.limit - 1]) if len(keys) > page.limit else "")


class Detail(Query):
    """What a cell is shown with."""

    edges: bool = Field(default=False, description="Whether each edge of the isolation that was measured is shown.")


@routes.get("/cells/{project}/{cell}", role="viewer", response=schemas.Cell, query=Detail, reach="own")
async def get_cell(call: Call) -> schemas.Cell:
    """Show a cell on every cluster it is meant for, with what was refused and why."""
    return await _shown(call, edges=call.query(Detail).edges)


async def _shown(call: Call, *, edges: bool = False) -> schemas.Cell:
    project = call.name("project")
    require_scope(call.principal, project)
    views = await call.services.clusters.cell(project, call.name("cell"))
    reached = _reached(call, views)
    if not reached:
        require_scope(call.principal, project, sorted({view.desired.key.environment for view in views}))
    return _cell([state for _, state in await _states(call, reached, edges=edges)], with_states=True)


@routes.get("/usage", role="viewer", response=UsageList, query=Page, reach="own")
async def list_usage(call: Call) -> UsageList:
    """List what cells use on each cluster, as agents with a link to this hub measured it."""
    page = call.query(Page)
    after = tuple(page.cursor.split("/")) if page.cursor else ("",) * 4
    if len(after) != 4:
        raise BAD_CURSOR("the cursor is not one of this list")
    reached = await _states(call, _reached(call, await call.services.clusters.cells()))
    keys = sorted((view.desired.cluster, *view.desired.key) for view, state in reached if state.phase != "removed")
    wanted = [key for key in keys if key > after]
    shown = wanted[: page.limit]
    fleet = call.services.fleet
    found = usage_of(fleet, frozenset(shown), call.services.clock.now()) if fleet is not None else {}
    return UsageList(
        items=[found.get(key) or unknown_usage(key) for key in shown],
        next_cursor="/".join(shown[-1]) if len(wanted) > page.limit else "",
    )


@routes.post(
    "/cells/{project}/{cell}/narrowing",
    role="deployer",
    request=schemas.NarrowRequest,
    response=schemas.Cell,
    action="cell.narrow",
    reach="own",
)
async def narrow_cell(call: Call) -> schemas.Cell:
    """Hold or quarantine a cell on a cluster, or lift that; what an admin set, only an admin loosens."""
    body = call.body(schemas.NarrowRequest)
    project, cell = call.name("project"), call.name("cell")
    call.subject = f"Cell/{project}/{cell}"
    call.details.update(cluster=body.cluster, environment=body.environment, state=body.state)
    require_scope(call.principal, project, (body.environment,))
    key, admin = CellKey(project, cell, body.environment), call.principal.role == "admin"
    clusters = call.services.clusters
    await call.commit(lambda tables: clusters.narrow(body.cluster, key, body.state, admin=admin, tables=tables))
    return await _shown(call)


def _reached(call: Call, views: Iterable[CellRow]) -> list[CellRow]:
    """Those of a project and environment the token is for."""
    keys = [(view, view.desired.key) for view in views]
    return [view for view, key in keys if call.principal.covers(key.project, (key.environment,))]


async def _states(
    call: Call, views: Sequence[CellRow], *, edges: bool = False
) -> list[tuple[CellRow, schemas.CellState]]:
    away = await call.services.clusters.away(view.desired.cluster for view in views)
    return [(view, convert.cell_state(view, away, edges=edges)) for view in views]


def _cell(states: Iterable[schemas.CellState], *, with_states: bool) -> schemas.Cell:
    ordered = sorted(states, key=lambda state: (state.environment, state.cluster))
    return schemas.Cell(
        project=ordered[0].project,
        cell=ordered[0].cell,
        environments=sorted({state.environment for state in ordered}),
        versions=sorted({state.version for state in ordered if state.version}),
        clusters=len({state.cluster for state in ordered}),
        ready=sum(state.phase == "ready" and state.connected for state in ordered),
        enforced=sum(state.isolation == "enforced" and state.connected for state in ordered),
        refused=sum(state.phase == "refused" or state.acknowledged is False for state in ordered),
        unknown=sum(map(convert.is_unknown, ordered)),
        states=ordered if with_states else [],
    )
