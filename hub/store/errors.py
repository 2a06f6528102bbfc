"""Error codes of the store."""

from __future__ import annotations

from cellward.errors import (
    Conflict,
    Denied,
    Exhausted,
    Internal,
    InvalidInput,
    NotFound,
    Refused,
    TooNew,
    Unavailable,
    define,
)

CLUSTER_EXISTS = define(
    "store/cluster-exists",
    Conflict,
    "There is a cluster of this name already.",
    hint="Names of clusters are never reused; choose another one.",
)
UNKNOWN_CLUSTER = define(
    "store/unknown-cluster",
    NotFound,
    "There is no cluster of this name.",
    hint="List the clusters with `cellward clusters list`.",
)
UID_TAKEN = define(
    "store/uid-taken",
    Conflict,
    "The cluster uid is bound to another cluster name.",
    hint="A uid is made once per installation and never copied; start the agent with an empty state directory.",
)
UNKNOWN_TOKEN = define(
    "store/unknown-token",
    Denied,
    "The join token is unknown.",
    hint="Ask for a new join line: cellward clusters invite <name>.",
)
TOKEN_EXPIRED = define(
    "store/token-expired",
    Denied,
    "The join token has expired.",
    hint="Ask for a new join line: cellward clusters invite <name>.",
)
TOKEN_SPENT = define(
    "store/token-spent",
    Denied,
    "The join token was spent by another key.",
    hint="Find out who joined with it, then ask for a new join line: cellward clusters invite <name>.",
)
SUBJECT_HAS_TOKEN = define(
    "store/subject-has-token",
    Conflict,
    "There is an API token of this name already.",
    hint="Revoke it with `cellward tokens revoke NAME`, or choose another name.",
)
IMMUTABLE = define(
    "store/immutable",
    Conflict,
    "Something else is stored under this name and version already.",
    hint="Publish under a new version; what was published never changes.",
)
MOVED = define(
    "store/moved",
    Conflict,
    "Conflict: changed on the hub since it was read.",
    hint="Read it again and decide again.",
)
BAD_CURSOR = define(
    "store/bad-cursor",
    InvalidInput,
    "The cursor of a page is malformed.",
    hint="Use the cursor of the page before, or none.",
)
FULL = define(
    "store/full",
    Exhausted,
    "The hub's database has no room left, so nothing of this change was kept.",
    hint="Free space on the volume of the hub's data directory.",
)
UNAVAILABLE = define(
    "store/unavailable",
    Unavailable,
    "The hub's database does not answer.",
    hint="SQLite: check that the volume is mounted, writable, and used by this hub alone. PostgreSQL: check that the "
    "server of database_url is up and can be reached from the hub.",
)
NOT_VERIFIED = define(
    "store/server-not-verified",
    Refused,
    "The database server did not prove who it is, so nothing was sent to it.",
    hint="Set sslrootcert to the CA of the server's certificate, and name the host in database_url as it does.",
)
UNSUPPORTED = define(
    "store/unsupported",
    InvalidInput,
    "The hub does not support this database.",
    hint="Leave database_url empty for SQLite, or set postgresql://USER@HOST/NAME?sslrootcert=FILE (PostgreSQL 15 on).",
)
OUT_OF_RANGE = define(
    "store/out-of-range",
    InvalidInput,
    "A number is larger than the database can hold.",
    hint="Whoever sent it is damaged or hostile; nothing of this change was kept.",
)
DAMAGED = define(
    "store/damaged",
    Internal,
    "The hub's database is damaged or not a database of the hub.",
    hint="Restore it from a backup; nothing was changed.",
)
NEWER_SCHEMA = define(
    "store/newer-schema",
    TooNew,
    "The hub's database was written by a newer version.",
    hint="Start the version that wrote it, or a later one.",
)
LEASE_MOVED = define(
    "store/lease-moved",
    Conflict,
    "Another hub process does this now, so this one's write was refused.",
    hint="Nothing to do: this process was slow or paused, and the other one has taken over.",
)
IN_USE = define(
    "store/in-use",
    Conflict,
    "Another hub uses this database.",
    hint="SQLite takes one hub: stop the other one, or set database_url to a PostgreSQL database. For a restore stop "
    "every hub; one that was killed counts for 15 seconds.",
)
BACKUP_EXISTS = define(
    "store/backup-exists",
    Conflict,
    "There is a file at the place of the backup already.",
    hint="Backups are never overwritten: name another file, or a directory.",
)
NOT_SQLITE = define(
    "store/not-sqlite",
    InvalidInput,
    "Only a SQLite database is copied by the hub itself.",
    hint="For PostgreSQL use pg_dump and pg_restore; `cellward-hub fsck` checks both kinds of database.",
)
NO_BACKUP_NAMED = define(
    "store/no-backup-named",
    InvalidInput,
    "A SQLite database is restored from the file of a backup, and none was named.",
    hint="Name it: cellward-hub restore --config hub.yaml FILE. Only for PostgreSQL it is left out, after pg_restore.",
)
NO_BACKUP_DIRECTORY = define(
    "store/no-backup-directory",
    Conflict,
    "This hub has no directory for backups.",
    hint="Set backup_dir in the hub's settings, on another volume, or run `cellward-hub backup` on its machine.",
)
OLDER_SCHEMA = define(
    "store/older-schema",
    Conflict,
    "The hub's database was written by an earlier version and not brought up to date yet.",
    hint="Start this version of the hub on it once, or use the version that wrote it.",
)
