"""The floors in the state file, and their copy outside of it; what they promise is in ``agent.spool.interfaces``.

Invariant: a floor never falls, neither by a write nor by what is found at a start: the higher of state and copy wins.
What is on record of a cell below its floor is not what ran last, so that it is forgotten.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from agent.spool.errors import FLOOR_WOULD_FALL, FLOORS_DIFFER, FLOORS_LOWER, STATE_OLDER
from agent.spool.interfaces import Finding, FloorsCopy
from agent.spool.writer import Writer
from cellward.documents import canonical
from cellward.documents.floors import Floor
from cellward.documents.names import CellKey
from cellward.policy.floors import PolicyFloors

_OF_KEY = "FROM floors WHERE project=? AND cell=? AND environment=?"
#: Keys in the meta table: the floors of the accepted policy, and those of them known to be in the copy.
_POLICY_FLOORS, _POLICY_COPIED = "policy-floors", "policy-floors-copied"


class SqliteFloors:
    """Sequence floors."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer

    async def get(self, project: str, cell: str, environment: str) -> Floor | None:
        """Return the floor, or None."""

        def job(connection: sqlite3.Connection) -> Floor | None:
            return _floor(connection, CellKey(project, cell, environment))

        return await self._writer.run(job)

    async def fallback(self, project: str, cell: str, environment: str) -> str:
        """Return the release that was set with the floor."""

        def job(connection: sqlite3.Connection) -> str:
            row = connection.execute(f"SELECT fallback {_OF_KEY}", (project, cell, environment)).fetchone()
            return "" if row is None else str(row[0])

        return await self._writer.run(job)

    async def set(self, project: str, cell: str, environment: str, floor: Floor, fallback: str = "") -> None:
        """Raise the floor."""
        key = CellKey(project, cell, environment)

        def job(connection: sqlite3.Connection) -> None:
            old = _floor(connection, key)
            if old == floor:
                return
            if old is not None and floor.sequence <= old.sequence:
                raise FLOOR_WOULD_FALL(
                    f"{'/'.join(key)}: floor is {old.sequence} ({old.digest}), asked for {floor.sequence}",
                    object="/".join(key),
                )
            _raise(connection, key, floor, fallback)

        await self._writer.run(job)

    async def all(self) -> Mapping[CellKey, Floor]:
        """Return every floor."""
        return await self._writer.run(_floors)

    async def digest(self) -> str:
        """Return the digest over all floors."""
        return await self._writer.run(floors_digest)


def floors_digest(connection: sqlite3.Connection) -> str:
    """Digest over the canonical list of all sequence floors, in key order, and the policy's floors if there are any."""
    floors = sorted(_floors(connection).items())
    rows: list[Any] = [[*key, one.sequence, one.digest, time_text(one.issued_at)] for key, one in floors]
    # Row by row: a document has a bound, the number of floors has not, and floors never go away.
    data = b"[" + b",".join(canonical.encode(row) for row in rows) + b"]"
    policy = connection.execute("SELECT value FROM meta WHERE key=?", (_POLICY_FLOORS,)).fetchone()
    return canonical.digest(data if policy is None else data + str(policy[0]).encode())


class SqlitePolicyFloors:
    """A copy of the floors of the accepted policy, part of the digest of all floors."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer

    async def get(self) -> Any:
        """Return what was set last, or None."""

        def job(connection: sqlite3.Connection) -> Any:
            return _meta(connection, _POLICY_FLOORS)

        return await self._writer.run(job)

    async def set(self, value: Mapping[str, object]) -> None:
        """Replace it."""
        text = canonical.encode(value).decode()

        def job(connection: sqlite3.Connection) -> None:
            row = connection.execute("SELECT value FROM meta WHERE key=?", (_POLICY_FLOORS,)).fetchone()
            if row is None or row[0] != text:
                connection.execute("INSERT OR REPLACE INTO meta VALUES (?,?)", (_POLICY_FLOORS, text))

        await self._writer.run(job)


def _floors(connection: sqlite3.Connection) -> dict[CellKey, Floor]:
    rows = connection.execute("SELECT project, cell, environment, sequence, digest, issued_at FROM floors")
    return {CellKey(*row[:3]): Floor(row[3], row[4], _moment(row[5])) for row in rows}


def _floor(connection: sqlite3.Connection, key: CellKey) -> Floor | None:
    row = connection.execute(f"SELECT sequence, digest, issued_at {_OF_KEY}", key).fetchone()
    return None if row is None else Floor(row[0], row[1], _moment(row[2]))


def time_text(moment: datetime | None) -> str:
    """Return a time of issue as it is stored, empty for one that is not known."""
    return "" if moment is None else moment.astimezone(UTC).isoformat()


def _moment(text: str) -> datetime | None:
    return datetime.fromisoformat(text) if text else None


@dataclass(frozen=True, slots=True)
class Reconciled:
    """What comes of comparing the floors of state and copy.

    ``raised`` are floors of the copy above those here, ``lower`` cells whose floor was in the copy and is not any more,
    ``differ`` those that have one sequence and two documents; then that of the state stays.
    """

    raised: Mapping[CellKey, Floor]
    lower: tuple[CellKey, ...]
    differ: tuple[CellKey, ...]


def reconcile(
    here: Mapping[CellKey, Floor], copied: Mapping[CellKey, int], copy: Mapping[CellKey, Floor]
) -> Reconciled:
    """Compare floors; pure. ``copied`` is which sequence of a cell is known to be in the copy, or was.

    What was raised here and not copied yet is no finding: the agent was stopped in between.
    """
    raised = {key: floor for key, floor in copy.items() if key not in here or floor.sequence > here[key].sequence}
    lower = (key for key, sequence in copied.items() if sequence > (copy[key].sequence if key in copy else 0))
    same = (key for key in here.keys() & copy.keys() if here[key].sequence == copy[key].sequence)
    return Reconciled(
        raised, tuple(sorted(lower)), tuple(sorted(key for key in same if here[key].digest != copy[key].digest))
    )


def settle_floors(connection: sqlite3.Connection, copy: FloorsCopy, *, known: bool) -> list[Finding]:
    """Raise the floors here to those of the copy, and forget what is on record of those cells; return what was found.

    ``known`` says that there was state here: where there was none, that alone is the finding.
    """
    rows = connection.execute("SELECT project, cell, environment, copied FROM floors WHERE copied>0")
    found = reconcile(_floors(connection), {CellKey(*row[:3]): int(row[3]) for row in rows}, copy.cells)
    for key, floor in found.raised.items():
        _raise(connection, key, floor, "")
        # Drift repair would make it true again, and bring older content back (V14).
        connection.execute("DELETE FROM inventory WHERE namespace=?", ("--".join(key),))
    above = tuple(sorted(found.raised)) if known else ()
    told = (
        (STATE_OLDER, "the copy of the floors is above the state for", above),
        (FLOORS_LOWER, "the copy of the floors has fallen behind what was saved for", found.lower),
        (FLOORS_DIFFER, "state and copy know two documents of one sequence for", found.differ),
    )
    findings = [_finding(code, text, keys) for code, text, keys in told if keys]
    return [*findings, *_settle_policy(connection, copy, known=known)]


def copy_of(connection: sqlite3.Connection) -> FloorsCopy:
    """Return what the copy should hold now."""
    return FloorsCopy(_floors(connection), _meta(connection, _POLICY_FLOORS))


def mark_copied(connection: sqlite3.Connection, copy: FloorsCopy, before: FloorsCopy | None) -> None:
    """Remember that the copy holds this; ``before`` is what it was known to hold already."""
    known = {} if before is None else before.cells
    rows = [(floor.sequence, *key) for key, floor in copy.cells.items() if known.get(key) != floor]
    connection.executemany("UPDATE floors SET copied=? WHERE project=? AND cell=? AND environment=?", rows)
    if copy.policy is not None and (before is None or before.policy != copy.policy):
        text = canonical.encode(copy.policy).decode()
        connection.execute("INSERT OR REPLACE INTO meta VALUES (?,?)", (_POLICY_COPIED, text))


def _finding(code: Any, text: str, keys: tuple[CellKey, ...]) -> Finding:
    named = ", ".join("/".join(key) for key in keys[:5])
    return Finding(code.code, f"{text} {len(keys)} cells: {named}", {"count": str(len(keys))})


def _settle_policy(connection: sqlite3.Connection, copy: FloorsCopy, *, known: bool) -> list[Finding]:
    here, copied = _policy(_meta(connection, _POLICY_FLOORS)), _policy(_meta(connection, _POLICY_COPIED))
    theirs = _policy(copy.policy)
    merged = here.merged(theirs)
    findings: list[Finding] = []
    if merged != here:
        text = canonical.encode(merged.to_json()).decode()
        connection.execute("INSERT OR REPLACE INTO meta VALUES (?,?)", (_POLICY_FLOORS, text))
        if known:
            findings.append(Finding(STATE_OLDER.code, "the copy of the policy's floors is above the state"))
    if theirs.merged(copied) != theirs:
        findings.append(Finding(FLOORS_LOWER.code, "the copy of the policy's floors has fallen behind"))
    return findings


def _policy(value: Any) -> PolicyFloors:
    try:
        return PolicyFloors() if value is None else PolicyFloors.from_json(value)
    except ValueError:
        return PolicyFloors()  # those beside the accepted set still hold


def _meta(connection: sqlite3.Connection, key: str) -> Any:
    row = connection.execute("SELECT value FROM meta WHERE key=?", (key,)).fetchone()
    return None if row is None else json.loads(row[0])


def _raise(connection: sqlite3.Connection, key: CellKey, floor: Floor, fallback: str) -> None:
    connection.execute(
        "INSERT INTO floors (project, cell, environment, sequence, digest, issued_at, fallback)"
        " VALUES (?,?,?,?,?,?,?) ON CONFLICT DO UPDATE SET sequence=excluded.sequence, digest=excluded.digest,"
        " issued_at=excluded.issued_at, fallback=excluded.fallback",
        (*key, floor.sequence, floor.digest, time_text(floor.issued_at), fallback),
    )
