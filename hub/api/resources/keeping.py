"""Keeping the hub's data: a backup now, and a look for damage. The client names no place: the hub's settings do."""

from __future__ import annotations

from cellward.api import schemas, upkeep
from hub.api.routing import Call, RouteTable

routes = RouteTable("keeping")


@routes.post(
    "/backups", role="admin", request=schemas.Nothing, response=upkeep.Backup, action="store.backup", status=201
)
async def create_backup(call: Call) -> upkeep.Backup:
    """Write a backup of the database into the hub's directory for backups, and answer when it is durable."""
    call.subject = "Hub"
    made = await call.services.keeping.back_up()
    call.details.update(name=made.file.name, size=str(made.size), digest=made.digest)
    return upkeep.Backup(name=made.file.name, size=made.size, digest=made.digest)


@routes.post("/fsck", role="admin", request=schemas.Nothing, response=upkeep.StoreCheck, action="store.check")
async def check_store(call: Call) -> upkeep.StoreCheck:
    """Look for damage of the whole database and the whole audit log; found, it is the error store/damaged."""
    call.subject = "Hub"
    found = await call.services.keeping.check()
    return upkeep.StoreCheck(pages=found.pages, audit_records=found.records)
