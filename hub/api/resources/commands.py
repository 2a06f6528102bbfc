"""Commands to agents: a closed list, given at any process of the hub and delivered by the one that holds the stream."""

from __future__ import annotations

import re
import uuid
from typing import TYPE_CHECKING, Final, cast

from cellward.api import schemas
from hub.api.errors import BAD_REQUEST, COMMAND_ID_TAKEN, UNKNOWN_COMMAND
from hub.api.resources import convert
from hub.api.routing import Call, RouteTable
from hub.store.links import ANSWER

if TYPE_CHECKING:
    from hub.store.interfaces import Tables
    from hub.store.links import CommandRow

routes = RouteTable("clusters")

_LABEL: Final = r"[a-z0-9](?:[a-z0-9-]{0,38}[a-z0-9])?"
_CELL: Final = re.compile(rf"{_LABEL}/{_LABEL}/{_LABEL}\Z")
#: Agents want a section for diagnose, and have one: themselves.
_SECTION: Final = "agent"


@routes.post(
    "/clusters/{cluster}/commands",
    role="admin",
    request=schemas.CommandRequest,
    response=schemas.Command,
    action="cluster.command",
    status=201,
)
async def give_command(call: Call) -> schemas.Command:
    """Give a command to the connected agent of a cluster; it changes nothing that the agent believes (V2)."""
    name, body = call.name("cluster"), call.body(schemas.CommandRequest)
    call.subject = f"Cluster//{name}"
    command_id, subject = body.id or str(uuid.uuid4()), _subject(body)
    call.details.update(cluster=name, name=body.kind, command=command_id)
    if subject:
        call.details["subject"] = subject
    services, by = call.services, call.principal.subject
    await services.clusters.cluster(name)
    repeated = False

    async def give(tables: Tables) -> CommandRow:
        nonlocal repeated
        before = await tables.links.command(command_id)
        repeated = before is not None
        if before is None:
            return await services.send_command(
                name, body.kind, subject, by=by, store=tables.links, command_id=command_id
            )
        if (before.cluster, before.kind, before.subject) != (name, body.kind, subject):
            raise COMMAND_ID_TAKEN(f"the id {command_id} is that of another command")
        return before

    def describe(_: CommandRow) -> None:
        if repeated:
            call.details["mode"] = "repeated"

    return _shown(call, await call.commit(give, describe))


@routes.get("/clusters/{cluster}/commands", role="viewer", response=schemas.CommandList)
async def list_commands(call: Call) -> schemas.CommandList:
    """List the newest commands to a cluster's agent with what became of each."""
    name = call.name("cluster")
    await call.services.clusters.cluster(name)
    rows = await call.services.store.links.commands(name)
    return schemas.CommandList(items=[_shown(call, row) for row in rows if row.kind != ANSWER])


@routes.get("/clusters/{cluster}/commands/{command}", role="viewer", response=schemas.Command)
async def get_command(call: Call) -> schemas.Command:
    """Show what became of a command."""
    name, command_id = call.name("cluster"), call.name("command")
    row = await call.services.store.links.command(command_id)
    if row is None or row.cluster != name or row.kind == ANSWER:
        raise UNKNOWN_COMMAND(f"no command {command_id} was given to {name}")
    return _shown(call, row)


def _subject(body: schemas.CommandRequest) -> str:
    """Return the subject as agents want it; raises api/bad-request before anything is kept."""
    if body.kind == "probe":
        if not _CELL.match(body.subject):
            raise BAD_REQUEST("subject: probe wants PROJECT/CELL/ENVIRONMENT")
        return body.subject
    if body.subject:
        raise BAD_REQUEST(f"subject: {body.kind} has none")
    return _SECTION if body.kind == "diagnose" else ""


def _shown(call: Call, row: CommandRow) -> schemas.Command:
    late = row.state == "waiting" and row.expires_at <= call.services.clock.now()
    return schemas.Command(
        id=row.id,
        cluster=row.cluster,
        kind=cast("schemas.CommandKind", row.kind),
        subject=row.subject,
        state="expired" if late else row.state,
        created_at=row.created_at,
        created_by=row.created_by,
        expires_at=row.expires_at,
        code=str(row.result.get("code", "")),
        reason=str(row.result.get("reason", "")),
        facts=convert.texts(row.result.get("facts")),
    )
