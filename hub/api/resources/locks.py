"""Locks: set, listed and lifted by admins. A hub's lock only narrows; a signed one it cannot lift (design §2)."""

from __future__ import annotations

from cellward.api import schemas
from cellward.identity.locks import lock_of
from hub.api.errors import UNKNOWN_LOCK
from hub.api.routing import Call, Page, RouteTable
from hub.clusters.model import LockView
from hub.store.interfaces import Tables

routes = RouteTable("locks")

#: Ends the cursor of a signed lock, which may have the very text of one that this hub set; no subject has it.
_SIGNED = "#signed"


@routes.get("/locks", role="viewer", response=schemas.LockList, query=Page)
async def list_locks(call: Call) -> schemas.LockList:
    """List locks, with the clusters each of them holds now."""
    page = call.query(Page)
    after = (page.cursor.removesuffix(_SIGNED), page.cursor.endswith(_SIGNED))
    found = [view for view in await call.services.locks.list() if (str(view.lock), view.signed) > after]
    items = [_shown(view) for view in found[: page.limit]]
    cursor = _place(found[page.limit - 1]) if len(found) > page.limit else ""
    return schemas.LockList(items=items, next_cursor=cursor)


@routes.post("/locks", role="admin", request=schemas.LockRequest, response=schemas.Lock, action="lock.set", status=201)
async def set_lock(call: Call) -> schemas.Lock:
    """Lock an agent, a cluster, a certificate or a key: its streams end within a second (V4)."""
    body = call.body(schemas.LockRequest)
    lock = lock_of(body.kind, body.subject, body.reason)
    call.subject = f"Lock//{lock}"
    call.reason = lock.reason
    call.details["mode"] = "dry-run" if body.dry_run else "set"
    book, by = call.services.locks, call.principal.subject
    if body.dry_run:
        view = await book.would_hold(lock, by)
        _name(call, view)
    else:
        view = await call.commit(lambda tables: book.lock(tables, lock, by), lambda view: _name(call, view))
    return _shown(view)


@routes.delete("/locks/{kind}/{subject}", role="admin", response=schemas.Lock, action="lock.lift")
async def lift_lock(call: Call) -> schemas.Lock:
    """Lift a lock that this hub set."""
    lock = lock_of(call.name("kind"), call.name("subject"))
    call.subject = f"Lock//{lock}"

    async def lift(tables: Tables) -> LockView:
        gone = await call.services.locks.unlock(tables, lock)
        if gone is None:
            raise UNKNOWN_LOCK(f"this hub has no lock {lock}")
        call.reason = gone.lock.reason
        return gone

    return _shown(await call.commit(lift, lambda view: _name(call, view)))


def _name(call: Call, view: LockView) -> None:
    call.details["clusters"] = ",".join(view.clusters)


def _place(view: LockView) -> str:
    return f"{view.lock}{_SIGNED if view.signed else ''}"


def _shown(view: LockView) -> schemas.Lock:
    return schemas.Lock(
        kind=view.lock.kind,
        subject=view.lock.subject,
        reason=view.lock.reason,
        created_at=view.created_at,
        created_by=view.created_by,
        signed=view.signed,
        clusters=list(view.clusters),
    )
