"""Request and response bodies of the admin API, as hub and command line read them.

JSON names are camelCase. Requests refuse unknown fields; responses may grow, so whoever reads one ignores what it does
not know. Bytes are standard base64, times RFC 3339 in UTC, digests ``sha256:<64 hex>``.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from cellward.api.base import Request, Response
from cellward.api.fields import Blob, ClusterName, FactKey, FactText, Moment, ScopeName, TokenName
from cellward.api.isolation import IsolationProof
from cellward.documents.model import DocumentState

Role = Literal["viewer", "deployer", "admin"]
HubState = Literal["run", "hold", "quarantine"]
Digest = Annotated[str, StringConstraints(pattern=r"^sha256:[0-9a-f]{64}$")]

#: Longest life of an API token, seconds.
MAX_TOKEN_LIFE = 366 * 24 * 3600
#: Most envelopes of one upload.
MAX_ENVELOPES = 256
#: Largest envelope, bytes.
MAX_ENVELOPE = 2 * 1024**2


class Nothing(Request):
    """A request that says everything by its path."""


class Problem(Response):
    """RFC 9457 problem details, with our stable code and what to do next (V15)."""

    type: str = Field(description="URI of the code's documentation.")
    title: str
    status: int
    detail: str
    instance: str = Field(default="", description="Request id.")
    code: str
    hint: str = ""
    details: dict[str, str] = Field(default_factory=dict)


class Health(Response):
    """The process answers; nothing more is said without authentication."""

    status: Literal["ok"] = "ok"


class Component(Response):
    """State of one part: of the hub (``cluster`` empty), or one condition of an agent."""

    category: str = Field(description="hub, trust, policy, audit or clusters.")
    name: str
    ok: bool
    code: str = ""
    message: str = ""
    hint: str = ""
    cluster: str = ""
    since: Moment | None = None


class Status(Response):
    """The whole installation on one page."""

    version: str
    realm: str = Field(default="", description="Empty before a root was adopted.")
    clusters: int
    connected: int
    cells: int = Field(description="Cells times clusters they are meant for, without those ended by a tombstone.")
    cells_ready: int = Field(description="Of them, those that are ready, by agents with an open link.")
    cells_unknown: int = Field(default=0, description="Of them, those on clusters whose link is down.")
    audit_size: int = 0
    components: list[Component]


class WhoAmI(Response):
    """Who the hub takes the caller for."""

    subject: str
    role: Role
    projects: list[str] = Field(default_factory=lambda: ["*"])
    environments: list[str] = Field(default_factory=lambda: ["*"])


class Trust(Response):
    """Public facts that trust is built on; compare them out of band."""

    realm: str = Field(default="", description="Empty before a root was adopted.")
    root: Blob = Field(default=b"", description="TUF root version 1, exact bytes.")
    timestamp_spki: Blob = Field(description="Public key of the hub's TUF timestamp, DER.")
    tree_head_spki: Blob = Field(description="Public key of the hub's audit tree head, DER.")
    log_origin: str = Field(default="", description="Origin line of the audit log.")
    hub_ca_pem: str = Field(default="", description="Certificate authority of hubs.")


class RootAdoption(Request):
    """The root that names this installation; only the first one counts."""

    root: Blob = Field(description="TUF root version 1, exact bytes.")


class PolicyVersions(Response):
    """Versions of the policy set an agent verified."""

    root: int = 0
    timestamp: int = 0
    snapshot: int = 0
    targets: int = 0
    snapshot_expires: Moment | None = None
    bundles: dict[str, str] = Field(default_factory=dict)


class Facts(Response):
    """What a cluster said of itself; used for placement only."""

    environments: list[str] = Field(default_factory=list)
    production: bool = False
    labels: dict[str, str] = Field(default_factory=dict)
    region: str = ""
    projects: list[str] = Field(default_factory=list)


class Invitation(Response):
    """What an invite named a cluster to be; it is given what this and its facts both name."""

    environments: list[str]
    production: bool
    projects: list[str]
    region: str = ""
    labels: dict[str, str] = Field(default_factory=dict)


class Cluster(Response):
    """A data plane as the hub knows it."""

    name: str
    created_at: Moment
    created_by: str
    uid: str = ""
    joined: bool = False
    connected: bool = False
    locked: bool = False
    lock: str = Field(default="", description="The lock that holds it, as KIND/SUBJECT; empty for none.")
    platform_uid: str = Field(default="", description="Uid of its namespace kube-system, at first contact.")
    last_seen: Moment | None = None
    facts: Facts | None = None
    invited: Invitation | None = Field(default=None, description="What its invite named it to be; null for nothing.")
    agent_version: str = ""
    opa_version: str = ""
    boot: str = Field(default="", description="SHA-256 of what the agent calls its boot, which is for the hub alone.")
    statement_keyid: str = ""
    statement_spki: Blob = Field(default=b"", description="Public statement key bound at join, DER.")
    generation: int = 0
    revision: int = Field(default=0, description="Newest revision of its desired items; 0 in lists.")
    policy: PolicyVersions = Field(default_factory=PolicyVersions)
    authority: str = Field(default="authors", description="authors, or authors+hub.")
    certificate_expires: Moment | None = None
    spool_depth: int = 0
    conditions: list[Component] = Field(default_factory=list)


class ClusterCreate(Request):
    """A new data plane, known by name until an agent joins under it."""

    name: ClusterName


class ClusterList(Response):
    """A page of clusters."""

    items: list[Cluster]
    next_cursor: str = ""


class InvitedFacts(Request):
    """What a cluster is meant to be. The hub gives it only what this and the cluster's own facts both name."""

    environments: Annotated[list[ScopeName], Field(min_length=1, max_length=32)]
    production: bool
    projects: Annotated[list[ScopeName], Field(min_length=1, max_length=64)] = Field(default=["*"])
    region: FactText = ""
    labels: Annotated[dict[FactKey, FactText], Field(max_length=64)] = Field(default={})


class JoinTokenRequest(Request):
    """Bound to the cluster in the path; its life comes from the hub's settings."""

    facts: InvitedFacts | None = Field(
        default=None, description="Replaces the facts of an earlier invite; a cluster without them is given nothing."
    )
    replace: bool = Field(default=False, description="A new installation may take this name from the one bound to it.")


class JoinToken(Response):
    """What the hub adds to a join line; everything else of it is local to the CLI (design §5)."""

    cluster: str
    token: str = Field(description="Shown once; the hub keeps a hash.")
    #: Parsed by ``cli.invitation``, as all of it.
    expires_at: datetime
    enrolment_address: str
    hub_ca_pem: str


class RemovedCluster(Response):
    """A cluster that was decommissioned, as it was, and what went with it."""

    cluster: Cluster
    join_tokens: int | None = Field(default=0, description="Join tokens that were revoked; null where none was tried.")


class RetiredCertificates(Response):
    """All certificates of a cluster are invalid: its agent must join again, with a token."""

    cluster: str
    generation_floor: int


class LockRequest(Request):
    """Whom to lock. ``agent`` is one installation by its uid, ``cluster`` a name, ``serial`` and ``key`` are hex."""

    kind: Literal["agent", "cluster", "serial", "key"]
    subject: Annotated[str, StringConstraints(min_length=1, max_length=200)]
    reason: Annotated[str, StringConstraints(min_length=1, max_length=500)]
    dry_run: bool = Field(default=False, description="Check and say whom it would hold, but lock nobody.")


class Lock(Response):
    """A lock. One with ``signed`` is in the policy set, and no hub lifts it."""

    kind: str
    subject: str
    reason: str = ""
    created_at: Moment | None = None
    created_by: str = ""
    signed: bool = False
    clusters: list[str] = Field(default_factory=list, description="Clusters it holds now.")


class LockList(Response):
    """A page of locks."""

    items: list[Lock]
    next_cursor: str = ""


#: What a hub may ask of an agent: a closed list, in which nothing changes what an agent believes (V2).
CommandKind = Literal["resync", "probe", "diagnose", "renew", "reconnect"]
CommandId = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([a-z0-9-]{6,62}[a-z0-9])$")]


class CommandRequest(Request):
    """A command to the connected agent of a cluster; it is carried out at most once, within two minutes."""

    kind: CommandKind
    subject: Annotated[str, StringConstraints(max_length=128)] = Field(
        default="", description="For probe: PROJECT/CELL/ENVIRONMENT. Empty for all others."
    )
    id: CommandId | None = Field(
        default=None, description="Chosen by the caller: sent again, it gives no second command but shows the first."
    )


class Command(Response):
    """A command and what became of it."""

    id: CommandId
    cluster: ClusterName
    kind: CommandKind
    subject: str = ""
    state: Literal["waiting", "sent", "done", "refused", "expired"] = Field(description="expired: never delivered.")
    created_at: Moment | None = None
    created_by: str = ""
    expires_at: Moment | None = None
    code: str = Field(default="", description="Why the agent refused it.")
    reason: str = ""
    facts: dict[str, str] = Field(default_factory=dict, description="What the agent says of itself, for diagnose.")


class CommandList(Response):
    """The newest commands of a cluster, newest first; each is kept for a day."""

    items: list[Command]


class ApiTokenCreate(Request):
    """A bearer token of the admin API for a person or a machine; it expires."""

    name: TokenName = Field(description="Whom it stands for: the actor of audit records.")
    role: Role
    lifetime_seconds: int = Field(default=30 * 24 * 3600, ge=60, le=MAX_TOKEN_LIFE)
    projects: Annotated[list[ScopeName], Field(min_length=1, max_length=64)] = Field(
        default=["*"], description="Projects it is for; * for every one."
    )
    environments: Annotated[list[ScopeName], Field(min_length=1, max_length=32)] = Field(
        default=["*"], description="Environments it is for; * for every one."
    )


class ApiToken(Response):
    """A bearer token as the hub keeps it: without the token."""

    name: str
    role: str
    expires_at: Moment | None = Field(default=None, description="Null for the first admin's, which comes from a file.")
    expired: bool = False
    created_at: Moment | None = None
    created_by: str = ""
    projects: list[str] = Field(default_factory=lambda: ["*"])
    environments: list[str] = Field(default_factory=lambda: ["*"])


class ApiTokenCreated(ApiToken):
    """The only answer that holds the token."""

    token: str = Field(description="Shown once; the hub keeps a hash.")


class ApiTokenList(Response):
    """A page of tokens."""

    items: list[ApiToken]
    next_cursor: str = ""


class DocumentUpload(Request):
    """Signed documents, opaque to the hub beyond an index."""

    envelopes: Annotated[list[Blob], Field(min_length=1, max_length=MAX_ENVELOPES)]


class UnsignedPayload(Request):
    """A payload that nobody signed, so that nobody can make anything of it but a guess at what it would change."""

    payload_type: Annotated[str, StringConstraints(max_length=80)]
    payload: Blob


class DocumentTrial(Request):
    """Unsigned payloads, to find out what signed ones would change."""

    payloads: Annotated[list[UnsignedPayload], Field(min_length=1, max_length=MAX_ENVELOPES)]


class TrialResult(Response):
    """What would change; nothing was kept."""

    clusters: list[str] = Field(default_factory=list, description="Clusters whose desired item would change.")


class DocumentSummary(Response):
    """The index entry of a document; what agents believe is in its bytes."""

    digest: str
    kind: str
    project: str
    cell: str
    environments: list[str]
    sequence: int = 0
    received_at: Moment | None = None
    state: DocumentState = Field(
        default="unverified",
        description="By the keyring this hub serves; agents verify again and decide by themselves.",
    )
    signers: list[str] = Field(default_factory=list, description="Owners whose signatures count.")
    needed: int = Field(default=1, description="Distinct owners who must have signed.")


class Document(DocumentSummary):
    """A document with its envelope."""

    envelope: Blob


class DocumentList(Response):
    """A page of documents."""

    items: list[DocumentSummary]
    next_cursor: str = ""


class UploadResult(Response):
    """What was kept, and which clusters are now meant to take it."""

    items: list[DocumentSummary]
    clusters: list[str] = Field(default_factory=list, description="Clusters with a changed desired item.")


class MetadataFile(Request):
    """One signed TUF metadata file."""

    role: Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9-]{0,31}$")]
    version: Annotated[int, Field(ge=1)]
    data: Blob


class TargetFile(Request):
    """One TUF target."""

    digest: Digest
    data: Blob


class Publication(Request):
    """Policy to be served: metadata without timestamp, and the targets it names."""

    metadata: Annotated[list[MetadataFile], Field(min_length=1, max_length=64)]
    targets: Annotated[list[TargetFile], Field(max_length=256)] = Field(default=[])


class PublicationResult(Response):
    """Versions now served."""

    realm: str
    root_version: int
    targets_version: int
    keyring_version: int
    snapshot_version: int
    timestamp_version: int
    snapshot_expires: Moment


class PolicyBundle(Response):
    """A bundle among the signed targets."""

    target: str
    digest: str
    length: int


class PolicyBinding(Response):
    """A binding, as signed."""

    name: str
    bundle: str
    mode: str
    on_stale: str = ""
    staleness_seconds: int = 0
    selector: dict[str, object] = Field(default_factory=dict)


class Policy(Response):
    """What policy is served now; ``published`` is null before the first publication."""

    published: PublicationResult | None = None
    bundles: list[PolicyBundle] = Field(default_factory=list)
    bindings: list[PolicyBinding] = Field(default_factory=list)
    #: What the hub signs itself.
    timestamp_expires: Moment | None = None


class PolicyMetadata(Response):
    """The newest set without its bundles, for whoever verifies it with roots of his own."""

    roots: list[Blob] = Field(default_factory=list, description="All roots from version 1 on.")
    targets: Blob | None = None
    keyring: Blob | None = None
    snapshot: Blob | None = None
    timestamp: Blob | None = None
    contents: list[Blob] = Field(default_factory=list, description="Bindings, keyring and revocations.")


class Refusal(Response):
    """Why a cluster does not do what is desired (V15)."""

    code: str
    rule: str = ""
    object: str = ""
    reason: str = ""
    next: str = ""


class CellCondition(Response):
    """What a release asks for and a cluster cannot do as asked, or why pods of it do not run."""

    code: str
    subject: str = Field(default="", description="Field of the cell, or object in the cluster.")
    message: str = Field(default="", description="What holds instead, or what is wrong.")


class CellState(Response):
    """One cell in one environment on one cluster: what is desired, and what the agent reports."""

    project: str
    cell: str
    environment: str
    cluster: ClusterName
    desired_digest: str = ""
    revision: int = 0
    hub_state: HubState = "run"
    phase: str = Field(default="pending", description="pending, verifying, refused, applying, progressing, ready, …")
    deployment_digest: str = ""
    release_digest: str = ""
    version: str = ""
    objects_ready: int = 0
    objects_total: int = 0
    isolation: str = "unknown"
    isolation_proof: IsolationProof | None = Field(default=None, description="Null before the first measurement.")
    drift_repairs: int = 0
    acknowledged: bool | None = Field(default=None, description="Last receipt for the desired digest; null for none.")
    receipt: Blob = Field(default=b"", description="That receipt as the agent signed it (DSSE), empty for none.")
    evidence: str = Field(default="", description="Whether an endorsed key signed it; the CLI finds out, no hub says.")
    refusals: list[Refusal] = Field(default_factory=list)
    conditions: list[CellCondition] = Field(default_factory=list)
    reported_at: Moment | None = None
    connected: bool = Field(
        default=True,
        description="Whether the cluster's link is open; if not, nobody knows whether the rest still holds.",
    )
    unknown_since: Moment | None = Field(
        default=None, description="When the cluster was last seen, while its link is down."
    )


class Cell(Response):
    """A cell over all clusters it is meant for."""

    project: str
    cell: str
    environments: list[str]
    versions: list[str]
    clusters: int
    ready: int = Field(description="Where it is ready, by agents with an open link.")
    enforced: int = Field(default=0, description="Where its isolation was measured to hold, by agents with a link.")
    refused: int
    unknown: int = Field(default=0, description="Where it was, and the link is down: nobody knows what it is.")
    states: list[CellState] = Field(default_factory=list)


class CellList(Response):
    """A page of cells, without their states."""

    items: list[Cell]
    next_cursor: str = ""


class NarrowRequest(Request):
    """Hold or quarantine a cell, or lift that; the hub alone may only narrow."""

    cluster: ClusterName
    environment: str
    state: HubState


class AuditRecord(Response):
    """A record of the log; ``record`` holds the exact bytes that were hashed."""

    index: int
    record: Blob
    writer: Literal["hub", "agent"] = Field(description="Whose chain it is in; what a record says cannot change that.")
    origin: str = ""
    cluster: str = Field(
        default="", description="Of an agent's record the cluster of its certificate, of the hub's the one it is about."
    )
    epoch: int = 0
    seq: int = 0
    time: Moment | None = None
    actor: str = ""
    action: str = ""
    object: str = ""
    decision: str = ""
    code: str = ""
    reason: str = ""
    rule: str = ""
    correlation_id: str = ""
    details: dict[str, str] = Field(default_factory=dict)


class AuditPage(Response):
    """A page of records, oldest first; ``next_cursor`` is never empty, so that a reader can follow the log."""

    items: list[AuditRecord]
    next_cursor: str


class Checkpoint(Response):
    """The newest signed tree head (C2SP signed note)."""

    size: int
    root: str
    note: str
