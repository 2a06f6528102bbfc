"""Cells over the fleet: what is desired, what agents report, and the hub's own narrowing."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from cellward.api import schemas
from hub.api.errors import BAD_CURSOR
from hub.api.resources import convert
from hub.api.routing import Call, Page, RouteTable
from hub.store.interfaces import CellKey

routes = RouteTable("cells")


@routes.get("/cells", role="viewer", response=schemas.CellList, query=Page)
async def list_cells(call: Call) -> schemas.CellList:
    """List cells, without their states."""
    page = call.query(Page)
    after = tuple(page.cursor.split("/")) if page.cursor else ("", "")
    if len(after) != 2:
        raise BAD_CURSOR("the cursor is not one of this list")
    grouped: dict[tuple[str, str], list[schemas.CellState]] = defaultdict(list)
    for view in await call.services.fleet.cells():
        grouped[view.desired.key[:2]].append(convert.cell_state(view))
    keys = sorted(key for key in grouped if key > after)
    items = [_cell(grouped[key], with_states=False) for key in keys[: page.limit]]
    return schemas.CellList(items=items, next_cursor="/".join(keys[page.limit - 1]) if len(keys) > page.limit else "")


@routes.get("/cells/{project}/{cell}", role="viewer", response=schemas.Cell)
async def get_cell(call: Call) -> schemas.Cell:
    """Show a cell on every cluster it is meant for, with what was refused and why."""
    views = await call.services.fleet.cell(call.name("project"), call.name("cell"))
    return _cell([convert.cell_state(view) for view in views], with_states=True)


@routes.post(
    "/cells/{project}/{cell}/narrowing",
    role="deployer",
    request=schemas.NarrowRequest,
    response=schemas.Cell,
    action="cell.narrow",
)
async def narrow_cell(call: Call) -> schemas.Cell:
    """Hold or quarantine a cell on a cluster, or lift that; the hub alone may only narrow."""
    body = call.body(schemas.NarrowRequest)
    project, cell = call.name("project"), call.name("cell")
    call.subject = f"Cell/{project}/{cell}"
    call.details.update(cluster=body.cluster, environment=body.environment, state=body.state)
    await call.services.fleet.narrow(body.cluster, CellKey(project, cell, body.environment), body.state)
    return await get_cell(call)


def _cell(states: Iterable[schemas.CellState], *, with_states: bool) -> schemas.Cell:
    ordered = sorted(states, key=lambda state: (state.environment, state.cluster))
    return schemas.Cell(
        project=ordered[0].project,
        cell=ordered[0].cell,
        environments=sorted({state.environment for state in ordered}),
        versions=sorted({state.version for state in ordered if state.version}),
        clusters=len({state.cluster for state in ordered}),
        ready=sum(state.phase == "ready" for state in ordered),
        refused=sum(state.phase == "refused" or state.acknowledged is False for state in ordered),
        states=ordered if with_states else [],
    )
