"""From domain values to response bodies."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, cast

from cellward.api import isolation, schemas
from cellward.cells.proof import is_wrong
from cellward.documents.model import DocumentState
from cellward.errors import known
from hub.store.documents import DocumentRow
from hub.store.links import boot_digest

if TYPE_CHECKING:
    from hub.api.auth import Principal
    from hub.clusters.model import ClusterView
    from hub.placement.model import IndexEntry
    from hub.policy.service import PublishResult
    from hub.store.interfaces import CellRow, ReceiptRow

#: Names of conditions, as agents of ours have them.
_PLAIN = re.compile(r"[a-z][a-z-]{0,39}\Z")


def at(unix: object) -> datetime | None:
    """Time of seconds since the epoch; None for 0, for nonsense, and for what no clock shows."""
    if not isinstance(unix, int | float) or unix <= 0:
        return None
    try:
        return datetime.fromtimestamp(unix, UTC)
    except (OverflowError, ValueError, OSError):
        return None


def texts(value: object) -> dict[str, str]:
    """A mapping of texts, or an empty one."""
    return {str(key): str(text) for key, text in value.items()} if isinstance(value, Mapping) else {}


def number(value: object) -> int:
    """A whole number, or 0."""
    return value if isinstance(value, int) and not isinstance(value, bool) else 0


def hint_of(code: str) -> str:
    """Hint of a code this hub knows; an agent may be newer."""
    entry = known(code)
    return entry.hint if entry is not None else ""


def plain(component: schemas.Component, who: Principal) -> schemas.Component:
    """A component as the caller may see it: for some projects only, code and colour with our own fixed words.

    Free words may name what is other projects' business, whoever wrote them.
    """
    if not who.bound:
        return component
    entry = known(component.code)
    return component.model_copy(
        update={
            "name": component.name if _PLAIN.match(component.name) else "",
            "code": component.code if entry is not None else "",
            "message": entry.title if entry is not None else "",
            "hint": hint_of(component.code),
        }
    )


def projects(named: Iterable[str], who: Principal) -> list[str]:
    """Projects of a cluster that the caller may know of."""
    return [name for name in named if name == "*" or who.covers(name)]


def condition(cluster: str, value: Mapping[str, object]) -> schemas.Component:
    """A condition an agent reported."""
    code = str(value.get("code", ""))
    return schemas.Component(
        category="clusters",
        name=str(value.get("name", "")),
        ok=value.get("ok") is True,
        code=code,
        message=str(value.get("message", "")),
        # The agent knows its own codes best; an older one says nothing.
        hint=str(value.get("hint", "")) or hint_of(code),
        cluster=cluster,
        since=at(value.get("since_unix")),
    )


def cluster(view: ClusterView, who: Principal) -> schemas.Cluster:
    """A cluster, as the caller may see it."""
    report, facts = view.report, view.facts
    policy = report.policy
    return schemas.Cluster(
        name=view.name,
        created_at=view.created_at,
        created_by=view.created_by,
        uid=view.uid,
        joined=view.joined,
        connected=view.connected,
        locked=view.locked,
        lock=view.lock,
        platform_uid=view.platform_uid,
        last_seen=view.last_seen,
        facts=None
        if facts is None
        else schemas.Facts(
            environments=list(facts.environments),
            production=facts.production,
            labels=dict(facts.labels),
            region=facts.region,
            projects=projects(facts.projects, who),
        ),
        invited=None
        if view.invited is None
        else schemas.Invitation(
            environments=list(view.invited.environments),
            production=view.invited.production,
            projects=projects(view.invited.projects, who),
            region=view.invited.region,
            labels=dict(view.invited.labels),
        ),
        agent_version=report.agent_version,
        opa_version=report.opa_version,
        boot=boot_digest(report.boot_id) if report.boot_id else "",
        statement_keyid=report.statement_keyid,
        statement_spki=view.statement_spki,
        generation=view.generation,
        revision=view.revision,
        policy=schemas.PolicyVersions(
            root=number(policy.get("root")),
            timestamp=number(policy.get("timestamp")),
            snapshot=number(policy.get("snapshot")),
            targets=number(policy.get("targets")),
            snapshot_expires=at(policy.get("snapshot_expires_unix")),
            bundles=texts(policy.get("bundles")),
        ),
        authority=report.authority,
        certificate_expires=at(report.certificate_expires_unix),
        spool_depth=report.spool_depth,
        conditions=[plain(condition(view.name, value), who) for value in report.conditions],
    )


def document(found: IndexEntry | DocumentRow) -> schemas.DocumentSummary:
    """An index entry, or a row as kept."""
    return schemas.DocumentSummary(
        state=cast("DocumentState", found.standing),
        signers=list(found.judgement.get("owners", ()) if isinstance(found, DocumentRow) else found.owners),
        needed=number(found.judgement.get("needed", 1)) if isinstance(found, DocumentRow) else found.needed,
        digest=found.digest,
        kind=found.kind,
        project=found.project,
        cell=found.cell,
        environments=list(found.environments),
        sequence=found.sequence,
        received_at=found.received_at if isinstance(found, DocumentRow) else None,
    )


def refusals(value: object) -> list[schemas.Refusal]:
    """Refusals as kept, each with the five parts of V15."""
    if not isinstance(value, list | tuple):
        return []
    return [schemas.Refusal(**texts(entry)) for entry in value if isinstance(entry, Mapping) and entry.get("code")]


def cell_state(row: CellRow, away: Mapping[str, datetime | None], *, edges: bool = False) -> schemas.CellState:
    """Desired and reported state of one cell, environment and cluster; ``away`` as ``ClusterService.away`` has it.

    ``edges`` says whether the edges of its isolation are part of it.
    """
    desired, receipt = row.desired, row.receipt
    status: Mapping[str, object] = row.status.body if row.status is not None else {}
    about = receipt if receipt is not None and receipt.deployment_digest == desired.deployment_digest else None
    return schemas.CellState(
        project=desired.key.project,
        cell=desired.key.cell,
        environment=desired.key.environment,
        cluster=desired.cluster,
        desired_digest=desired.deployment_digest,
        revision=desired.revision,
        hub_state=cast("schemas.HubState", desired.hub_state),
        phase=str(status.get("phase") or "pending"),
        deployment_digest=str(status.get("deployment_digest", "")),
        release_digest=str(status.get("release_digest", "")),
        version=str(status.get("version", "")),
        objects_ready=number(status.get("objects_ready")),
        objects_total=number(status.get("objects_total")),
        isolation=str(status.get("isolation") or "unknown"),
        isolation_proof=_isolation_proof(status.get("proof"), with_edges=edges),
        drift_repairs=number(status.get("drift_repairs")),
        acknowledged=about.accepted if about is not None else None,
        receipt=about.statement if about is not None else b"",
        refusals=_why_refused(row, about),
        conditions=_conditions(status.get("conditions")),
        reported_at=row.status.reported_at if row.status is not None else None,
        connected=desired.cluster not in away,
        unknown_since=away.get(desired.cluster),
    )


def is_unknown(state: schemas.CellState) -> bool:
    """Whether nobody knows what became of a cell: its cluster's link is down. What ended does not come back."""
    return not state.connected and state.reported_at is not None and state.phase != "removed"


def _why_refused(row: CellRow, about: ReceiptRow | None) -> list[schemas.Refusal]:
    """Return the refusals that were said last: the state that follows a refused receipt comes a moment after it."""
    said = refusals(row.status.body.get("refusals")) if row.status is not None else []
    answered = refusals(about.body.get("refusals")) if about is not None else []
    if row.status is None or about is None:
        return said or answered
    refused_since = not about.accepted and about.received_at is not None and about.received_at > row.status.reported_at
    return answered or said if refused_since else said or answered


def _isolation_proof(value: object, *, with_edges: bool) -> isolation.IsolationProof | None:
    if not isinstance(value, Mapping):
        return None
    edges = [isolation.IsolationEdge(**found) for found in value.get("edges") or ()]
    lag, cut = value.get("egress_lag_ms"), number(value.get("edges_cut"))
    return isolation.IsolationProof(
        state=str(value.get("state") or "unknown"),
        measured_at=at(value.get("measured_at_unix")),
        prober=str(value.get("prober", "")),
        text=str(value.get("text", "")),
        tried=len(edges) + cut,
        wrong=sum(is_wrong(edge.expected, edge.measured) for edge in edges),
        egress_lag_seconds=None if lag is None else number(lag) / 1000,
        edges=edges if with_edges else [],
        edges_cut=cut,
    )


def _conditions(value: object) -> list[schemas.CellCondition]:
    return [schemas.CellCondition(**found) for found in value] if isinstance(value, list) else []


def published(result: PublishResult) -> schemas.PublicationResult:
    """Versions served."""
    return schemas.PublicationResult(
        realm=result.realm,
        root_version=result.root_version,
        targets_version=result.targets_version,
        keyring_version=result.keyring_version,
        snapshot_version=result.snapshot_version,
        timestamp_version=result.timestamp_version,
        snapshot_expires=result.snapshot_expires,
    )
