"""Health, status, who am I, and the public facts of trust."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cellward.api import schemas
from cellward.checks import errors as codes
from cellward.errors import CellwardError
from hub.api.resources import convert
from hub.api.routing import Call, RouteTable
from hub.clusters.errors import FACTS_DIFFER
from hub.documents.errors import NO_REALM
from hub.placement.delivery import differences
from hub.store.errors import DAMAGED

if TYPE_CHECKING:
    from cellward.errors import ErrorCode
    from hub.api.auth import Principal
    from hub.api.interfaces import Services
    from hub.clusters.model import ClusterView
    from hub.documents.realm import Realm

routes = RouteTable("system")


@routes.get("/healthz", role=None, response=schemas.Health, reach="shared")
async def get_health(_: Call) -> schemas.Health:
    """Say that the process answers."""
    return schemas.Health()


@routes.get("/whoami", role="viewer", response=schemas.WhoAmI, reach="shared")
async def get_whoami(call: Call) -> schemas.WhoAmI:
    """Say who the hub takes the caller for."""
    who = call.principal
    return schemas.WhoAmI(
        subject=who.subject, role=who.role, projects=list(who.projects), environments=list(who.environments)
    )


@routes.get("/status", role="viewer", response=schemas.Status, reach="shared")
async def get_status(call: Call) -> schemas.Status:
    """Show the whole installation: parts of the hub, clusters and their conditions, cells."""
    services = call.services
    realm = await services.realm.current()
    clusters = await services.clusters.clusters()
    away = {view.name: view.last_seen for view in clusters if not view.connected}
    states = [convert.cell_state(view, away) for view in await services.clusters.cells()]
    components = [_own(call), *_conditions(call), *await _policy(call)]
    for view in clusters:
        components += _cluster(view, call.principal)
    return schemas.Status(
        version=services.facts().version,
        realm=realm.realm if realm is not None else "",
        clusters=len(clusters),
        connected=sum(view.connected for view in clusters),
        cells=sum(state.phase != "removed" for state in states),
        cells_ready=sum(state.phase == "ready" and state.connected for state in states),
        cells_unknown=sum(map(convert.is_unknown, states)),
        audit_size=await _audit_size(services) if realm is not None else 0,
        components=components,
    )


async def _audit_size(services: Services) -> int:
    """Size of the log, also of one that is damaged: this is where that is shown."""
    try:
        return (await services.audit.head()).size
    except CellwardError as error:
        if error.code != DAMAGED.code:
            raise
        return await services.store.audit.size()


@routes.get("/trust", role="viewer", response=schemas.Trust, reach="shared")
async def get_trust(call: Call) -> schemas.Trust:
    """Show realm, root and the hub's public keys; compare them out of band."""
    return await _trust(call)


@routes.post(
    "/trust/root", role="admin", request=schemas.RootAdoption, response=schemas.Trust, action="realm.adopt", status=201
)
async def adopt_root(call: Call) -> schemas.Trust:
    """Adopt the root that names this installation; a second, different one is refused."""

    def describe(adopted: Realm) -> None:
        call.subject = f"Realm//{adopted.realm}"

    root = call.body(schemas.RootAdoption).root
    await call.services.realm.adopt(root, commit=call.committing(describe))
    return await _trust(call)


async def _trust(call: Call) -> schemas.Trust:
    realm, facts = await call.services.realm.current(), call.services.facts()
    return schemas.Trust(
        realm=realm.realm if realm is not None else "",
        root=realm.root if realm is not None else b"",
        timestamp_spki=facts.timestamp_spki,
        tree_head_spki=facts.tree_head_spki,
        log_origin=facts.log_origin,
        hub_ca_pem=facts.hub_ca_pem,
    )


def _own(call: Call) -> schemas.Component:
    return schemas.Component(category="hub", name="api", ok=True, message=f"version {call.services.facts().version}")


def _conditions(call: Call) -> list[schemas.Component]:
    found_here = (
        schemas.Component(
            category="hub",
            name=found.name,
            ok=found.ok,
            code=found.code,
            message=found.message,
            hint=convert.hint_of(found.code),
            since=found.since,
        )
        for found in call.services.health.get()
    )
    return [convert.plain(one, call.principal) for one in found_here]


async def _policy(call: Call) -> list[schemas.Component]:
    realm = await call.services.realm.current()
    result = await call.services.policy.status() if realm is not None else None
    if result is None:
        found = codes.NO_POLICY if realm is not None else NO_REALM
        message = "no policy was published yet" if realm is not None else "no root of trust was adopted yet"
        return [_red("policy", "published", message, found)]
    left = result.snapshot_expires - call.services.clock.now()
    fresh = left.total_seconds() > 0
    return [
        schemas.Component(
            category="policy",
            name="snapshot",
            ok=fresh,
            code="" if fresh else "policy/expired",
            message=f"version {result.snapshot_version}, {'expires' if fresh else 'expired'} "
            f"{result.snapshot_expires:%Y-%m-%d %H:%M} UTC",
            hint="" if fresh else "Run `cellward policy refresh`.",
        )
    ]


def _cluster(view: ClusterView, who: Principal) -> list[schemas.Component]:
    away = codes.AGENT_AWAY if view.joined else codes.NOT_JOINED
    link = schemas.Component(
        category="clusters",
        name="connected",
        ok=view.connected,
        code="" if view.connected else away.code,
        message="link is open" if view.connected else _silence(view),
        hint="" if view.connected else away.hint.replace("NAME", view.name),
        cluster=view.name,
        since=view.last_seen,
    )
    said = (convert.condition(view.name, value) for value in view.report.conditions)
    return [link, *(convert.plain(one, who) for one in (*_facts(view), *said))]


def _facts(view: ClusterView) -> list[schemas.Component]:
    """What the cluster says of itself, beside what its invite said; nothing before it said anything."""
    if view.facts is None:
        return []
    found = differences(view.invited, view.facts)
    code = "" if not found else FACTS_DIFFER.code
    return [
        schemas.Component(
            category="clusters",
            name="facts",
            ok=not found,
            code=code,
            message="; ".join(found) or "as invited",
            hint=FACTS_DIFFER.hint.replace("NAME", view.name) if found else "",
            cluster=view.name,
        )
    ]


def _silence(view: ClusterView) -> str:
    if not view.joined:
        return "invited, nobody joined yet"
    seen = f"{view.last_seen:%Y-%m-%d %H:%M:%S} UTC" if view.last_seen is not None else "never"
    return f"no link; last seen {seen}"


def _red(category: str, name: str, message: str, code: ErrorCode) -> schemas.Component:
    return schemas.Component(category=category, name=name, ok=False, code=code.code, message=message, hint=code.hint)
