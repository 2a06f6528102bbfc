"""Tables of the state file and its versions."""

from __future__ import annotations

import sqlite3

from agent.spool.errors import TOO_NEW

#: ``PRAGMA user_version`` of the file this code writes.
VERSION = 5

_V1 = """
CREATE TABLE agent (
  id INTEGER PRIMARY KEY CHECK (id = 1),
  uid TEXT NOT NULL, epoch INTEGER NOT NULL, seq INTEGER NOT NULL, head TEXT NOT NULL,
  anchored INTEGER NOT NULL DEFAULT 0, time_floor TEXT, lost INTEGER NOT NULL DEFAULT 0,
  audit_bytes INTEGER NOT NULL DEFAULT 0,
  log_size INTEGER NOT NULL DEFAULT 0, log_root TEXT NOT NULL DEFAULT '',
  log_key BLOB NOT NULL DEFAULT x'', log_note BLOB NOT NULL DEFAULT x''
);
CREATE TABLE floors (
  project TEXT NOT NULL, cell TEXT NOT NULL, environment TEXT NOT NULL,
  sequence INTEGER NOT NULL, digest TEXT NOT NULL, PRIMARY KEY (project, cell, environment)
) WITHOUT ROWID;
CREATE TABLE floor_digests (number INTEGER PRIMARY KEY AUTOINCREMENT, digest TEXT NOT NULL);
CREATE TABLE items (
  kind TEXT NOT NULL, project TEXT NOT NULL, cell TEXT NOT NULL, environment TEXT NOT NULL, body TEXT NOT NULL,
  PRIMARY KEY (kind, project, cell, environment)
) WITHOUT ROWID;
CREATE TABLE blobs (digest TEXT PRIMARY KEY, data BLOB NOT NULL);
CREATE TABLE inventory (namespace TEXT PRIMARY KEY, body TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE outbox (
  number INTEGER PRIMARY KEY AUTOINCREMENT,
  project TEXT NOT NULL, cell TEXT NOT NULL, environment TEXT NOT NULL, payload BLOB NOT NULL,
  UNIQUE (project, cell, environment)
);
CREATE TABLE audit (epoch INTEGER NOT NULL, seq INTEGER NOT NULL, data BLOB NOT NULL, PRIMARY KEY (epoch, seq));
CREATE TABLE findings (number INTEGER PRIMARY KEY AUTOINCREMENT, code TEXT NOT NULL, reason TEXT NOT NULL,
  details TEXT NOT NULL);
"""

#: Records owed for what was begun, and the statement key that signs this epoch.
_V2 = """
CREATE TABLE owed (key TEXT PRIMARY KEY, entry TEXT NOT NULL) WITHOUT ROWID;
ALTER TABLE agent ADD COLUMN statement_keyid TEXT NOT NULL DEFAULT '';
"""
#: The hub epoch under which the last checkpoint was accepted.
_V3 = "ALTER TABLE agent ADD COLUMN log_epoch TEXT NOT NULL DEFAULT ''"
#: When what is in force was issued, where it returns to, and which sequence is known to be in the copy of the floors.
_V4 = """
ALTER TABLE floors ADD COLUMN issued_at TEXT NOT NULL DEFAULT '';
ALTER TABLE floors ADD COLUMN fallback TEXT NOT NULL DEFAULT '';
ALTER TABLE floors ADD COLUMN copied INTEGER NOT NULL DEFAULT 0;
DROP TABLE floor_digests;
"""
#: How often the record of a cell was closed.
_V5 = "CREATE TABLE closings (namespace TEXT PRIMARY KEY, number INTEGER NOT NULL) WITHOUT ROWID"
_STEPS = (_V1, _V2, _V3, _V4, _V5)


def migrate(connection: sqlite3.Connection) -> None:
    """Bring the file to VERSION inside the caller's transaction; a newer file is ``spool/too-new``."""
    found = int(connection.execute("PRAGMA user_version").fetchone()[0])
    if found > VERSION:
        raise TOO_NEW(f"the state file has version {found}, this agent knows {VERSION}", found=found, known=VERSION)
    for step in _STEPS[found:]:
        for statement in step.split(";"):
            if statement.strip():
                connection.execute(statement)
    if found < VERSION:
        connection.execute(f"PRAGMA user_version={VERSION}")
