"""Bearer tokens of the admin API: made, listed and revoked by admins; kept as hashes, and they expire."""

from __future__ import annotations

from datetime import datetime, timedelta

from cellward.api import schemas
from hub.api.auth import ANONYMOUS, BOOTSTRAP, hash_token, new_token, require
from hub.api.door import revoke
from hub.api.errors import BAD_REQUEST, RESERVED_NAME, UNKNOWN_API_TOKEN
from hub.api.routing import Call, Page, RouteTable
from hub.store.interfaces import Tables
from hub.store.tokens import ApiTokenRow

routes = RouteTable("tokens")

#: Names that stand for somebody else in audit records.
RESERVED = frozenset({ANONYMOUS.subject, BOOTSTRAP, "hub"})


@routes.post(
    "/tokens",
    role="admin",
    request=schemas.ApiTokenCreate,
    response=schemas.ApiTokenCreated,
    action="api-token.create",
    status=201,
)
async def create_api_token(call: Call) -> schemas.ApiTokenCreated:
    """Make a token for a person or a machine; it is shown once, and its role is at most the caller's."""
    body = call.body(schemas.ApiTokenCreate)
    now = call.services.clock.now()
    expires_at = now.replace(microsecond=0) + timedelta(seconds=body.lifetime_seconds)
    call.subject = f"ApiToken//{body.name}"
    call.details.update(role=body.role, expiresAt=f"{expires_at:%Y-%m-%dT%H:%M:%SZ}")
    if body.name in RESERVED:
        raise RESERVED_NAME(f"{body.name} is not a name for a token")
    require(call.principal, body.role)
    projects, environments = tuple(sorted(set(body.projects))), tuple(sorted(set(body.environments)))
    call.details.update(projects=",".join(projects), environments=",".join(environments))
    if body.role == "admin" and ("*" not in projects or "*" not in environments):
        raise BAD_REQUEST("an admin acts on the whole installation; only other roles are for some projects")
    token = new_token()
    made = ApiTokenRow(
        hash_token(token), body.name, body.role, expires_at, now, call.principal.subject, projects, environments
    )
    await call.commit(lambda tables: tables.api_tokens.add(made))
    return schemas.ApiTokenCreated(**_shown(made, now).model_dump(), token=token)


@routes.get("/tokens", role="admin", response=schemas.ApiTokenList, query=Page)
async def list_api_tokens(call: Call) -> schemas.ApiTokenList:
    """List tokens by name, expired ones too, without the tokens themselves."""
    page, now = call.query(Page), call.services.clock.now()
    found = [token for token in await call.services.tokens.list() if token.subject > page.cursor]
    items = [_shown(token, now) for token in found[: page.limit]]
    return schemas.ApiTokenList(items=items, next_cursor=items[-1].name if len(found) > page.limit else "")


@routes.delete("/tokens/{name}", role="admin", response=schemas.ApiToken, action="api-token.revoke")
async def revoke_api_token(call: Call) -> schemas.ApiToken:
    """Revoke a token: the next request with it is refused, and its connections end."""
    name = call.name("name")
    call.subject = f"ApiToken//{name}"
    if name in RESERVED:
        raise RESERVED_NAME(f"the token of {name} comes from a file of the hub")

    async def remove(tables: Tables) -> ApiTokenRow:
        row = await tables.api_tokens.remove(name)
        if row is None:
            raise UNKNOWN_API_TOKEN(f"there is no token of {name}")
        call.details["role"] = row.role
        return row

    gone = await call.commit(remove)
    revoke(call.request, call.services, gone.subject)
    return _shown(gone, call.services.clock.now())


def _shown(token: ApiTokenRow, now: datetime) -> schemas.ApiToken:
    return schemas.ApiToken(
        name=token.subject,
        role=token.role,
        expires_at=token.expires_at,
        expired=token.expires_at is not None and token.expires_at <= now,
        created_at=token.created_at,
        created_by=token.created_by,
        projects=list(token.projects),
        environments=list(token.environments),
    )
