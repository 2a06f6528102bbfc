"""Tables of the store as they are now; ``migrations`` tells how they came to be, and a test compares the two."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Dialect,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    String,
    Table,
    TypeDecorator,
    UniqueConstraint,
    false,
)
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
# SQLite only counts an INTEGER primary key up by itself.
_SERIAL = BigInteger().with_variant(Integer(), "sqlite")


def microseconds(time: datetime) -> int:
    """Return what is stored of an aware time."""
    return (time - _EPOCH) // _MICROSECOND


def from_microseconds(value: int) -> datetime:
    """Return the time that is stored so."""
    return _EPOCH + value * _MICROSECOND


class UtcTime(TypeDecorator[datetime]):
    """An aware UTC time as microseconds since 1970: exact, sortable, and the same in every database."""

    impl = BigInteger
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> int | None:
        """Return microseconds; a naive time is a programming error."""
        del dialect
        return None if value is None else microseconds(value)

    def process_result_value(self, value: int | None, dialect: Dialect) -> datetime | None:
        """Return the time."""
        del dialect
        return None if value is None else from_microseconds(value)


class _Transaction(FunctionElement[int]):
    """Default of a column: the id of the running transaction, where there is one that others can wait for."""

    inherit_cache = True


@compiles(_Transaction, "postgresql")
def _on_postgresql(*_: object, **__: object) -> str:
    return "CAST(CAST(pg_current_xact_id() AS text) AS bigint)"


@compiles(_Transaction)
def _elsewhere(*_: object, **__: object) -> str:
    return "0"


class DatabaseTime(FunctionElement[datetime]):
    """The time of the database's clock, which all processes share."""

    type = UtcTime()
    inherit_cache = True


@compiles(DatabaseTime, "postgresql")
def _clock_of_postgresql(*_: object, **__: object) -> str:
    return "CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000000 AS bigint)"


@compiles(DatabaseTime)
def _clock_elsewhere(*_: object, **__: object) -> str:
    # SQLite's file has one machine, whose clock this is; days since noon of a Monday long ago.
    return "CAST((julianday('now') - 2440587.5) * 86400000000.0 AS INTEGER)"


metadata = MetaData()

clusters = Table(
    "clusters",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("created_at", UtcTime, nullable=False),
    Column("created_by", String(256), nullable=False),
    # NULL before the first join, because a unique column takes many of those and only one empty text.
    Column("uid", String(64), unique=True),
    Column("spki_sha256", String(80), nullable=False, default=""),
    Column("statement_spki", LargeBinary, nullable=False, default=b""),
    Column("generation", BigInteger, nullable=False, default=0),
    Column("serial", String(64), nullable=False, default=""),
    Column("bound_at", UtcTime),
    Column("last_seen", UtcTime),
    Column("report", JSON, nullable=False, default=dict),
    Column("previous_spki_sha256", String(80), nullable=False, default="", server_default=""),
    Column("generation_floor", BigInteger, nullable=False, default=0, server_default="0"),
    # What the invite named: environments, projects, production; empty for nothing.
    Column("invited", JSON, nullable=False, default=dict, server_default="{}"),
    Column("removed_at", UtcTime),
    Column("platform_uid", String(64), nullable=False, default="", server_default=""),
    Column("platform_ca", String(80), nullable=False, default="", server_default=""),
    Column("placed", String(80), nullable=False, default="", server_default=""),
)

locks = Table(
    "locks",
    metadata,
    Column("kind", String(16), nullable=False),
    Column("subject", String(80), nullable=False),
    Column("reason", String(1024), nullable=False),
    Column("created_at", UtcTime, nullable=False),
    Column("created_by", String(256), nullable=False),
    PrimaryKeyConstraint("kind", "subject"),
)

join_tokens = Table(
    "join_tokens",
    metadata,
    Column("token_hash", String(80), primary_key=True),
    Column("cluster", String(64), nullable=False),
    Column("expires_at", UtcTime, nullable=False),
    Column("spent_by", String(80), nullable=False, default=""),
    Column("spent_at", UtcTime),
)

documents = Table(
    "documents",
    metadata,
    Column("id", _SERIAL, primary_key=True, autoincrement=True),
    Column("digest", String(80), nullable=False, unique=True),
    Column("kind", String(32), nullable=False),
    Column("envelope", LargeBinary, nullable=False),
    Column("project", String(64), nullable=False),
    Column("cell", String(64), nullable=False),
    Column("environments", JSON, nullable=False),
    Column("sequence", BigInteger, nullable=False),
    Column("meta", JSON, nullable=False),
    Column("received_at", UtcTime, nullable=False),
    Column("standing", String(16), nullable=False, default="unverified", server_default="unverified"),
    Column("judgement", JSON, nullable=False, default=dict, server_default="{}"),
    # Of ``meta`` and ``judgement``, for what is looked up by them.
    Column("subject", String(80), nullable=False, default="", server_default=""),
    Column("once", Boolean, nullable=False, default=False, server_default=false()),
    Index("documents_by_cell", "project", "cell", "kind", "id"),
    Index("documents_by_kind", "kind", "id"),
    Index("documents_by_standing", "project", "standing", "once", "id"),
    Index("documents_by_subject", "subject", "kind"),
)

# A row for each environment of a Deployment or tombstone. ``selector`` is the digest of how it chooses clusters;
# ``ready`` says that it is verified, and its release too.
document_keys = Table(
    "document_keys",
    metadata,
    Column("digest", String(80), nullable=False),
    Column("project", String(64), nullable=False),
    Column("cell", String(64), nullable=False),
    Column("environment", String(64), nullable=False),
    Column("selector", String(80), nullable=False),
    Column("sequence", BigInteger, nullable=False),
    Column("subject", String(80), nullable=False),
    Column("fallback", String(80), nullable=False),
    Column("ready", Boolean, nullable=False),
    PrimaryKeyConstraint("digest", "environment"),
    Index("document_keys_by_sequence", "project", "cell", "environment", "sequence"),
    Index("document_keys_by_selector", "project", "cell", "environment", "selector", "ready", "sequence"),
    Index("document_keys_by_subject", "subject"),
    Index("document_keys_by_fallback", "fallback"),
)

# The newest that is ready, of each cell, environment and selector: what placement reads instead of all history.
current_documents = Table(
    "current_documents",
    metadata,
    Column("project", String(64), nullable=False),
    Column("cell", String(64), nullable=False),
    Column("environment", String(64), nullable=False),
    Column("selector", String(80), nullable=False),
    Column("digest", String(80), nullable=False),
    Column("sequence", BigInteger, nullable=False),
    Column("subject", String(80), nullable=False),
    Column("fallback", String(80), nullable=False),
    PrimaryKeyConstraint("project", "cell", "environment", "selector"),
    Index("current_documents_by_digest", "digest"),
    Index("current_documents_by_subject", "subject"),
    Index("current_documents_by_fallback", "fallback"),
)

# What each project has, so that nobody counts it for every upload.
document_totals = Table(
    "document_totals",
    metadata,
    Column("project", String(64), primary_key=True),
    Column("verified", BigInteger, nullable=False, default=0),
    Column("verified_bytes", BigInteger, nullable=False, default=0),
    Column("loose", BigInteger, nullable=False, default=0),
    Column("loose_bytes", BigInteger, nullable=False, default=0),
)

# One row for each kind of row of which somebody has to know whether it has changed since he read it.
revisions = Table(
    "revisions",
    metadata,
    Column("name", String(32), primary_key=True),
    Column("revision", BigInteger, nullable=False),
)

# What was changed, for other processes: added by the transaction that changes it, pruned when everybody has seen it.
changes = Table(
    "changes",
    metadata,
    Column("number", _SERIAL, primary_key=True, autoincrement=True),
    # PostgreSQL's 64-bit id of the transaction; its order, not that of the numbers, is that of the commits.
    Column("transaction", BigInteger, nullable=False, server_default=_Transaction()),
    Column("origin", String(32), nullable=False),
    Column("topic", String(128), nullable=False),
    Index("changes_by_transaction", "transaction"),
    sqlite_autoincrement=True,
)

# What only one process does at a time, and which one.
leases = Table(
    "leases",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("holder", String(128), nullable=False),
    Column("token", BigInteger, nullable=False),
    Column("expires", UtcTime, nullable=False),
)

# The stream of each cluster; it counts while the lease of its process runs.
presence = Table(
    "presence",
    metadata,
    Column("cluster", String(64), primary_key=True),
    Column("replica", String(64), nullable=False),
    Column("stream", String(64), nullable=False),
    Column("boot", String(64), nullable=False),
    Column("since", UtcTime, nullable=False),
)

# Commands to agents, whoever put them, and what became of them.
commands = Table(
    "commands",
    metadata,
    Column("id", String(128), primary_key=True),
    Column("cluster", String(64), nullable=False),
    Column("kind", String(16), nullable=False),
    Column("subject", String(256), nullable=False),
    Column("boot", String(64), nullable=False),
    Column("created_at", UtcTime, nullable=False),
    Column("created_by", String(256), nullable=False),
    Column("expires_at", UtcTime, nullable=False),
    Column("state", String(16), nullable=False),
    Column("result", JSON, nullable=False),
    Index("commands_by_cluster", "cluster", "created_at"),
)

desired = Table(
    "desired",
    metadata,
    Column("cluster", String(64), ForeignKey("clusters.name"), nullable=False),
    Column("project", String(64), nullable=False),
    Column("cell", String(64), nullable=False),
    Column("environment", String(64), nullable=False),
    Column("revision", BigInteger, nullable=False),
    Column("deployment_digest", String(80), nullable=False),
    Column("evidence", JSON, nullable=False),
    Column("hub_state", String(16), nullable=False),
    Column("hub_state_role", String(16), nullable=False, default="", server_default=""),
    Column("changed_at", UtcTime, nullable=False),
    PrimaryKeyConstraint("project", "cell", "environment", "cluster"),
    UniqueConstraint("cluster", "revision", name="desired_by_revision"),
)

desired_revisions = Table(
    "desired_revisions",
    metadata,
    Column("cluster", String(64), ForeignKey("clusters.name"), primary_key=True),
    Column("revision", BigInteger, nullable=False),
)

receipts = Table(
    "receipts",
    metadata,
    Column("cluster", String(64), ForeignKey("clusters.name"), nullable=False),
    Column("project", String(64), nullable=False),
    Column("cell", String(64), nullable=False),
    Column("environment", String(64), nullable=False),
    Column("revision", BigInteger, nullable=False),
    Column("deployment_digest", String(80), nullable=False),
    Column("accepted", Boolean, nullable=False),
    Column("body", JSON, nullable=False),
    Column("statement", LargeBinary, nullable=False),
    Column("received_at", UtcTime, nullable=False),
    PrimaryKeyConstraint("project", "cell", "environment", "cluster"),
)

statuses = Table(
    "statuses",
    metadata,
    Column("cluster", String(64), ForeignKey("clusters.name"), nullable=False),
    Column("project", String(64), nullable=False),
    Column("cell", String(64), nullable=False),
    Column("environment", String(64), nullable=False),
    Column("body", JSON, nullable=False),
    Column("reported_at", UtcTime, nullable=False),
    PrimaryKeyConstraint("project", "cell", "environment", "cluster"),
)

tuf_metadata = Table(
    "tuf_metadata",
    metadata,
    Column("role", String(64), nullable=False),
    Column("version", BigInteger, nullable=False),
    Column("data", LargeBinary, nullable=False),
    PrimaryKeyConstraint("role", "version"),
)

tuf_targets = Table(
    "tuf_targets",
    metadata,
    Column("digest", String(80), primary_key=True),
    Column("data", LargeBinary, nullable=False),
)

# One row: the size of the log is the fence every append passes.
audit_log = Table(
    "audit_log",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("size", BigInteger, nullable=False),
    # Of the tree of that size: what the tiles and the records are compared with. NULL until the next append.
    Column("root", LargeBinary),
    # Index of the first record that is kept: those before it were exported and pruned, their hashes stay.
    Column("pruned", BigInteger, nullable=False, default=0, server_default="0"),
)

# Where pruned records stood, so that an agent that sends one again gets an answer: runs of one writer, side by side.
audit_runs = Table(
    "audit_runs",
    metadata,
    Column("origin", String(128), nullable=False),
    Column("epoch", BigInteger, nullable=False),
    Column("seq", BigInteger, nullable=False),
    Column("idx", BigInteger, nullable=False),
    Column("count", BigInteger, nullable=False),
    PrimaryKeyConstraint("origin", "epoch", "seq"),
)

audit_records = Table(
    "audit_records",
    metadata,
    Column("idx", _SERIAL, primary_key=True, autoincrement=False),
    Column("record", LargeBinary, nullable=False),
    Column("origin", String(128), nullable=False),
    Column("epoch", BigInteger, nullable=False),
    Column("seq", BigInteger, nullable=False),
    # Microseconds, plain: rows of this table are written by the thousand, past the type above.
    Column("time", BigInteger, nullable=False),
    Column("cluster", String(64), nullable=False),
    Column("action", String(64), nullable=False),
    Column("decision", String(16), nullable=False),
    Column("project", String(64), nullable=False),
    Column("cell", String(64), nullable=False),
    UniqueConstraint("origin", "epoch", "seq", name="audit_records_by_chain"),
)

# What the hub did and is not in the log yet; written in the transaction that does it.
audit_events = Table(
    "audit_events",
    metadata,
    Column("number", _SERIAL, primary_key=True, autoincrement=True),
    Column("at", UtcTime, nullable=False),
    Column("event", JSON, nullable=False),
    sqlite_autoincrement=True,
)

audit_chains = Table(
    "audit_chains",
    metadata,
    Column("origin", String(128), nullable=False),
    Column("epoch", BigInteger, nullable=False),
    Column("seq", BigInteger, nullable=False),
    Column("head", String(80), nullable=False),
    Column("uid", String(64), nullable=False),
    Column("cluster", String(64), nullable=False),
    Column("statement_spki", LargeBinary, nullable=False),
    Column("checkpoint", LargeBinary, nullable=False),
    Column("checkpoint_seq", BigInteger, nullable=False),
    Column("forked", Boolean, nullable=False),
    PrimaryKeyConstraint("origin", "epoch"),
)

audit_tiles = Table(
    "audit_tiles",
    metadata,
    Column("level", Integer, nullable=False),
    Column("idx", BigInteger, nullable=False),
    Column("hashes", LargeBinary, nullable=False),
    PrimaryKeyConstraint("level", "idx"),
)

api_tokens = Table(
    "api_tokens",
    metadata,
    Column("token_hash", String(80), primary_key=True),
    Column("subject", String(256), nullable=False),
    Column("role", String(64), nullable=False),
    Column("expires_at", UtcTime),
    Column("created_at", UtcTime),
    Column("created_by", String(256), nullable=False, default="", server_default=""),
    Column("projects", JSON, nullable=False, default=lambda: ["*"], server_default='["*"]'),
    Column("environments", JSON, nullable=False, default=lambda: ["*"], server_default='["*"]'),
    Index("api_tokens_by_subject", "subject", unique=True),
)

meta = Table(
    "meta",
    metadata,
    Column("key", String(128), primary_key=True),
    Column("value", LargeBinary, nullable=False),
)
