"""Clusters and join tokens."""

from __future__ import annotations

from cellward.api import schemas
from hub.api.resources import convert
from hub.api.routing import Call, Page, RouteTable
from hub.placement.delivery import Invited
from hub.store.interfaces import Tables

routes = RouteTable("clusters")


@routes.get("/clusters", role="viewer", response=schemas.ClusterList, query=Page, reach="shared")
async def list_clusters(call: Call) -> schemas.ClusterList:
    """List clusters by name."""
    page = call.query(Page)
    found = [view for view in await call.services.clusters.clusters() if view.name > page.cursor]
    items = [convert.cluster(view, call.principal) for view in found[: page.limit]]
    return schemas.ClusterList(items=items, next_cursor=items[-1].name if len(found) > page.limit else "")


@routes.post(
    "/clusters",
    role="admin",
    request=schemas.ClusterCreate,
    response=schemas.Cluster,
    action="cluster.create",
    status=201,
)
async def create_cluster(call: Call) -> schemas.Cluster:
    """Create a cluster by name; an agent joins under it with a token."""
    name = call.body(schemas.ClusterCreate).name
    call.subject = f"Cluster//{name}"
    clusters, by = call.services.clusters, call.principal.subject
    return convert.cluster(
        await call.commit(lambda tables: clusters.create_cluster(name, by, tables=tables)), call.principal
    )


@routes.get("/clusters/{cluster}", role="viewer", response=schemas.Cluster, reach="shared")
async def get_cluster(call: Call) -> schemas.Cluster:
    """Show one cluster with its conditions."""
    return convert.cluster(await call.services.clusters.cluster(call.name("cluster")), call.principal)


@routes.post(
    "/clusters/{cluster}/join-tokens",
    role="admin",
    request=schemas.JoinTokenRequest,
    response=schemas.JoinToken,
    action="token.mint",
    status=201,
)
async def mint_join_token(call: Call) -> schemas.JoinToken:
    """Mint a join token, bound to this name and shown once (V6)."""
    name = call.name("cluster")
    call.subject = f"Cluster//{name}"
    services = call.services
    await services.realm.require()
    body = call.body(schemas.JoinTokenRequest)
    named = _named(call, body)
    expires_at = services.clock.now() + services.join_token_life

    async def mint(tables: Tables) -> str:
        return await services.enrolment.mint(
            name, lifetime=services.join_token_life, replace=body.replace, tokens=tables.tokens
        )

    token = await services.clusters.invite(name, named, mint, commit=call.commit)
    facts = services.facts()
    return schemas.JoinToken(
        cluster=name,
        token=token,
        expires_at=expires_at,
        enrolment_address=facts.enrolment_address,
        hub_ca_pem=facts.hub_ca_pem,
    )


@routes.post(
    "/clusters/{cluster}/retired-certificates",
    role="admin",
    request=schemas.Nothing,
    response=schemas.RetiredCertificates,
    action="cluster.rekey",
)
async def retire_certificates(call: Call) -> schemas.RetiredCertificates:
    """Let no certificate of a cluster count any more; its agent comes back with a new join token (V7)."""
    name = call.name("cluster")
    call.subject = f"Cluster//{name}"
    clusters = call.services.clusters

    def describe(floor: int) -> None:
        call.details["generation"] = str(floor)

    floor = await call.commit(lambda tables: clusters.retire_certificates(name, tables=tables), describe)
    return schemas.RetiredCertificates(cluster=name, generation_floor=floor)


@routes.delete("/clusters/{cluster}", role="admin", response=schemas.RemovedCluster, action="cluster.remove")
async def remove_cluster(call: Call) -> schemas.RemovedCluster:
    """Decommission a cluster: streams, identities, tokens and desired items end; nothing is deleted over there."""
    name = call.name("cluster")
    call.subject = f"Cluster//{name}"
    clusters = call.services.clusters
    view = await clusters.cluster(name)

    def describe(tokens: int) -> None:
        call.details.update(uid=view.uid, count=str(tokens))

    tokens = await call.commit(lambda tables: clusters.remove_cluster(name, tables=tables), describe)
    return schemas.RemovedCluster(cluster=convert.cluster(view, call.principal), join_tokens=tokens)


def _named(call: Call, body: schemas.JoinTokenRequest) -> Invited | None:
    if body.facts is None:
        return None
    named = body.facts
    call.details.update(environments=",".join(named.environments), projects=",".join(named.projects))
    return Invited(tuple(named.environments), named.production, tuple(named.projects), named.region, dict(named.labels))
