"""Which documents are current, and what each project has, in SQL: kept up in the transaction that changes documents.

Invariants: a row of ``document_keys`` is *ready* where its document is verified and, of a Deployment, its release too;
``current_documents`` has, of each cell, environment and selector with any, the ready one with the highest sequence, and
of two with one sequence the smaller digest; ``document_totals`` is what counting would give.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

from sqlalchemy import ColumnElement, bindparam, delete, exists, insert, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from hub.store.documents import DocumentRow
from hub.store.sql.dialect import upsert
from hub.store.sql.tables import current_documents, document_keys, document_totals, documents

#: Names in one IN list.
CHUNK: Final = 1000
#: What places something.
MOVERS: Final = frozenset({"deployment", "tombstone"})
_GROUP = ("project", "cell", "environment", "selector")
_TOTALS = ("verified", "verified_bytes", "loose", "loose_bytes")
_HEAD = (*_GROUP, "digest", "sequence", "subject", "fallback")


class Share(NamedTuple):
    """What a document counts for its project."""

    project: str
    standing: str
    size: int


def chunks(names: Collection[str]) -> Iterator[list[str]]:
    """Cut names into lists that fit into one statement."""
    ordered = sorted(names)
    for start in range(0, len(ordered), CHUNK):
        yield ordered[start : start + CHUNK]


def key_rows(document: DocumentRow) -> list[dict[str, Any]]:
    """Return the rows of ``document_keys`` of a document, none ready."""
    if document.kind not in MOVERS:
        return []
    meta = document.meta
    return [
        {
            "digest": document.digest,
            "project": document.project,
            "cell": document.cell,
            "environment": environment,
            "selector": "" if document.kind == "tombstone" else _selector(meta.get("selector")),
            "sequence": document.sequence,
            "subject": meta.get("subject", ""),
            "fallback": meta.get("fallback", ""),
            "ready": False,
        }
        for environment in dict.fromkeys(document.environments)
    ]


async def settle(connection: AsyncConnection, changed: Collection[str]) -> None:
    """Bring up to date what is ready and current, after these documents came or were judged."""
    groups: set[tuple[str, ...]] = set()
    for chunk in chunks(changed):
        about = or_(document_keys.c.digest.in_(chunk), document_keys.c.subject.in_(chunk))
        await connection.execute(update(document_keys).where(about).values(ready=_ready()))
        query = select(*(document_keys.c[name] for name in _GROUP)).where(about).distinct()
        groups.update(tuple(row) for row in (await connection.execute(query)).all())
    if groups:
        values = [dict(zip(_GROUP, group, strict=True)) for group in sorted(groups)]
        await connection.execute(_forget(), values)
        await connection.execute(_choose(), values)


async def forget(connection: AsyncConnection, digests: Sequence[str]) -> None:
    """Forget the keys of documents that are gone; what does not verify was neither ready nor current."""
    for chunk in chunks(digests):
        await connection.execute(delete(document_keys).where(document_keys.c.digest.in_(chunk)))


async def count(connection: AsyncConnection, gone: Iterable[Share], come: Iterable[Share]) -> None:
    """Count what projects have: ``gone`` no more, ``come`` from now on."""
    changes: defaultdict[str, list[int]] = defaultdict(lambda: [0, 0, 0, 0])
    for sign, shares in ((-1, gone), (1, come)):
        for share in shares:
            place = 0 if share.standing == "verified" else 2
            changes[share.project][place] += sign
            changes[share.project][place + 1] += sign * share.size
    changed = sorted(project for project, change in changes.items() if any(change))
    if not changed:
        return
    add = upsert(connection.dialect.name, document_totals, ("project",))
    await connection.execute(add, [{"project": project, **dict.fromkeys(_TOTALS, 0)} for project in changed])
    grown = {name: document_totals.c[name] + bindparam(f"more_{name}") for name in _TOTALS}
    more = [
        {"key": project, **{f"more_{name}": value for name, value in zip(_TOTALS, changes[project], strict=True)}}
        for project in changed
    ]
    change = update(document_totals).where(document_totals.c.project == bindparam("key")).values(grown)
    await connection.execute(change, more)


def up_to(group: Mapping[str, Any], most: int) -> ColumnElement[bool]:
    """Return the condition of the ready documents of a group up to a sequence."""
    found = document_keys.c.ready & (document_keys.c.sequence <= most)
    for name in _GROUP:
        found &= document_keys.c[name] == group[name]
    return found


def _selector(value: Any) -> str:
    return "sha256:" + hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _ready() -> ColumnElement[bool]:
    own, release = documents.alias("own"), documents.alias("release")
    verified = exists().where(own.c.digest == document_keys.c.digest, own.c.standing == "verified")
    # Of a cell, and of no other: what an author names besides is not his to have delivered.
    complete = exists().where(
        release.c.digest == document_keys.c.subject,
        release.c.kind == "release",
        release.c.standing == "verified",
        release.c.project == document_keys.c.project,
        release.c.cell == document_keys.c.cell,
    )
    return verified & or_(document_keys.c.subject == "", complete)


def _forget() -> Any:
    return delete(current_documents).where(*(current_documents.c[name] == bindparam(name) for name in _GROUP))


def _choose() -> Any:
    top = (
        select(*(document_keys.c[name] for name in _HEAD))
        .where(document_keys.c.ready, *(document_keys.c[name] == bindparam(name) for name in _GROUP))
        .order_by(document_keys.c.sequence.desc(), document_keys.c.digest)
        .limit(1)
    )
    return insert(current_documents).from_select(list(_HEAD), top)
