"""Documents on their way into the store: read, judged by the keyring served, bounded, kept.

Invariants: a signature that does not count is not kept; a document with none is refused whole, with the upload it came
in; what waits for signatures moves nothing and makes way for what verifies. What an upload costs does not grow with
what was kept before.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

import structlog

from cellward.documents import dsse
from cellward.documents.numbers import check_number
from hub.documents import rows
from hub.documents.bounds import Bounds, Kept, make_room
from hub.documents.errors import (
    BAD_DOCUMENT,
    DOCUMENT_TOO_LARGE,
    FOREIGN_REALM,
    NO_KEYRING,
    SEQUENCE_TAKEN,
    UNVERIFIED_DOCUMENT,
)
from hub.documents.index import MAX_ENVELOPE, index_payload
from hub.documents.judge import Trusted, Verdict, check_times, judge
from hub.placement.model import IndexEntry
from hub.store.documents import DocumentRow
from hub.store.errors import MOVED

if TYPE_CHECKING:
    from datetime import datetime

    from cellward.runtime.clock import Clock
    from hub.documents.realm import RealmService
    from hub.store.interfaces import Store, Tables

#: Rows read at a time.
_PAGE = 500
#: Documents that are read or judged at a time.
_AT_ONCE = 2
_log = structlog.get_logger()


class KeyringPort(Protocol):
    """The keyring this hub serves."""

    async def current(self) -> Trusted | None:
        """The keyring and the signed settings, None before the first publication."""
        ...

    async def still(self, tables: Tables, trusted: Trusted) -> bool:
        """Whether a transaction sees that this is what is served; when it does not, ``current`` reads again."""
        ...


@dataclass(frozen=True, slots=True)
class Examined:
    """An upload that may be kept.

    Attributes:
        fresh: index entries by digest, as they will be kept.
        rows: what is to be kept; ``seen`` are the envelopes kept until now, by digest.
        grown: verified documents whose signatures change, so that agents are sent it again.
        gone: documents kept until now that make way.
    """

    fresh: Mapping[str, IndexEntry]
    rows: tuple[DocumentRow, ...]
    seen: Mapping[str, bytes]
    grown: frozenset[str]
    gone: tuple[IndexEntry, ...] = ()


def anybody(_: IndexEntry) -> None:
    """Let every document pass: who asks is not bound to projects."""


@dataclass(frozen=True, slots=True)
class Basis:
    """What is kept of the documents of an upload, and about them.

    Attributes:
        before: rows of those that are kept already, by digest.
        named: releases that Deployments name which are kept.
    """

    before: Mapping[str, DocumentRow]
    named: frozenset[str]

    def same(self, other: Basis) -> bool:
        """Whether judging by the other one comes to the same."""
        ours, theirs = (
            {digest: (row.envelope, row.standing) for digest, row in one.before.items()} for one in (self, other)
        )
        return self.named == other.named and ours == theirs


@dataclass(frozen=True, slots=True)
class Prepared:
    """An upload that was read, and judged by what was in force then; by digest."""

    given: Mapping[str, dsse.Envelope]
    indexed: Mapping[str, IndexEntry]
    trusted: Trusted
    basis: Basis
    judged: Mapping[str, Verdict]


class Intake:
    """What the fleet keeps of signed documents.

    What costs time, ``read`` and ``prepare``, is done before the transaction and in a thread, a few documents at a
    time; ``examine`` then finds in the transaction whether what it was judged by still holds.
    """

    def __init__(
        self, store: Store, realm: RealmService, clock: Clock, keyring: KeyringPort, bounds: Bounds | None = None
    ) -> None:
        self._store = store
        self._realm = realm
        self._clock = clock
        self._keyring = keyring
        self._bounds = bounds or Bounds()
        self._working = asyncio.Semaphore(_AT_ONCE)

    async def read(
        self, envelopes: Sequence[bytes], *, permit: Callable[[IndexEntry], None] = anybody
    ) -> tuple[Mapping[str, dsse.Envelope], Mapping[str, IndexEntry]]:
        """Read an upload: envelopes and their index entries, by digest; the first that nobody may have ends it.

        ``permit`` raises for what its sender may not upload.
        """
        realm = (await self._realm.require()).realm
        given: dict[str, dsse.Envelope] = {}
        indexed: dict[str, IndexEntry] = {}
        for data in envelopes:
            # One document has its turn after the other: a large upload is in nobody's way.
            async with self._working:
                envelope, entry = await asyncio.to_thread(_read, data)
            if entry.realm != realm:
                raise FOREIGN_REALM(f"document {entry.digest} belongs to {entry.realm}", document=entry.digest)
            check_number(entry.sequence, self._clock.now())
            permit(entry)
            given[entry.digest] = _together(given.get(entry.digest), envelope)
            indexed[entry.digest] = entry
        return given, indexed

    async def prepare(
        self, given: Mapping[str, dsse.Envelope], indexed: Mapping[str, IndexEntry], *, dry_run: bool
    ) -> Prepared:
        """Judge an upload by what is in force now; nothing is written. Raises fleet/no-keyring.

        With ``dry_run`` a payload that nobody signed is judged as if everybody had who must: it shows what would
        happen, and no key is used for it.
        """
        trusted = await self._keyring.current()
        if trusted is None:
            raise NO_KEYRING("no policy was published here yet")
        basis = await _basis(self._store, indexed)
        now, named = self._clock.now(), basis.named
        judged: dict[str, Verdict] = {}
        # Deployments first: they name the releases of the same upload.
        for digest in sorted(given, key=lambda digest: indexed[digest].kind == "release"):
            async with self._working:
                verdict = judged[digest] = await asyncio.to_thread(
                    _judge_one,
                    given[digest],
                    basis.before.get(digest),
                    trusted,
                    now,
                    named=digest in named,
                    dry_run=dry_run,
                )
            named |= named_by([replace(indexed[digest], owners=verdict.owners)])
        return Prepared(given, indexed, trusted, basis, judged)

    async def examine(self, tables: Tables, prepared: Prepared) -> Examined:
        """Say in the transaction what is to be kept of an upload; raises store/moved for what is to be judged again."""
        given, indexed, judged = prepared.given, prepared.indexed, prepared.judged
        # The keyring too: an upload judged by an older one must not come after everything was judged by a newer one.
        if not await self._keyring.still(tables, prepared.trusted):
            raise MOVED("a policy was published meanwhile")
        basis = await _basis(tables, indexed)
        if not prepared.basis.same(basis):
            raise MOVED("documents of the upload were kept, judged or dropped meanwhile")
        before = basis.before
        kept = {digest: rows.entry_of(row) for digest, row in before.items()}
        subjects = {entry.subject for entry in indexed.values() if entry.kind == "approval"}
        about = {digest: rows.entry_of(row) for digest, row in (await tables.documents.entries(subjects)).items()}
        known = {**about, **indexed}
        fresh = {
            digest: _judged(_with_subject(indexed[digest], known), judged[digest], before.get(digest))
            for digest in given
        }
        await _check_sequences(tables, fresh)
        made = tuple(
            rows.document_row(entry, dsse.dump_envelope(replace(given[digest], signatures=judged[digest].signatures)))
            for digest, entry in fresh.items()
        )
        fresh = {row.digest: replace(fresh[row.digest], size=len(row.envelope)) for row in made}
        grown = {row.digest for row in made if row.digest in before and row.envelope != before[row.digest].envelope}
        seen = {digest: row.envelope for digest, row in before.items()}
        return Examined(fresh, made, seen, frozenset(grown), await self._room(tables, fresh, kept))

    async def keep(self, tables: Tables, examined: Examined) -> tuple[IndexEntry, ...]:
        """Keep an upload, all or none, and return what made way for it; raises store/moved for what changed since."""
        await tables.documents.put_many(examined.rows, examined.seen)
        dropped = await tables.documents.drop([entry.digest for entry in examined.gone])
        return tuple(entry for entry in examined.gone if entry.digest in dropped)

    async def _room(
        self, tables: Tables, fresh: Mapping[str, IndexEntry], kept: Mapping[str, IndexEntry]
    ) -> tuple[IndexEntry, ...]:
        """Return what makes way for an upload; ``kept`` are those of it that are kept."""
        grown = {
            entry.project
            for digest, entry in fresh.items()
            if digest not in kept or (entry.verified and not kept[digest].verified)
        }
        gone: list[IndexEntry] = []
        for project in sorted(grown):
            given = [entry for entry in fresh.values() if entry.project == project]
            mine = [entry for entry in kept.values() if entry.project == project]
            has = await _kept(tables, self._bounds, project, given, mine)
            now = self._clock.now()
            more = make_room(self._bounds, project, given, has, now)
            if more:  # once more, with what it costs to know which of them agents were given
                more = make_room(self._bounds, project, given, has, now, await _placed(tables, project))
            gone += more
        return tuple(gone)


async def _basis(tables: Tables, indexed: Mapping[str, IndexEntry]) -> Basis:
    before = await tables.documents.get_many(indexed.keys())
    releases = [digest for digest, entry in indexed.items() if entry.kind == "release"]
    return Basis(before, await tables.documents.named(releases))


async def _kept(
    tables: Tables, bounds: Bounds, project: str, given: Sequence[IndexEntry], again: Sequence[IndexEntry]
) -> Kept:
    """What a project has besides ``again``, what it has of the upload already."""
    usage = await tables.documents.usage(project)
    size = {verified: sum(entry.size for entry in again if entry.verified is verified) for verified in (True, False)}
    number = {verified: sum(entry.verified is verified for entry in again) for verified in (True, False)}
    documents, taken = usage.verified - number[True], usage.verified_bytes - size[True]
    whole = documents + usage.loose - number[False] + len(given) <= bounds.documents + bounds.pending
    whole &= taken + usage.loose_bytes - size[False] + sum(entry.size for entry in given) <= bounds.bytes
    # All that was verified before is read only where some of it has to go.
    loose = await tables.documents.loose(project, once=not whole) if usage.loose else ()
    ours = {entry.digest for entry in again}
    placing = [entry for entry in given if entry.verified and entry.kind in _PLACING]
    pairs = {(entry.cell, environment) for entry in placing for environment in entry.environments}
    return Kept(
        documents,
        taken,
        await tables.documents.places(project, pairs) if pairs else 0,
        tuple(rows.entry_of(row) for row in loose if row.digest not in ours),
    )


async def _placed(tables: Tables, project: str) -> frozenset[str]:
    """Digests of all documents that clusters were given, of a project."""
    found: set[str] = set()
    cursor = ""
    while True:
        page = await tables.desired.statuses("", project, "", cursor, _PAGE)
        found.update(digest for row in page.items for digest in (row.desired.deployment_digest, *row.desired.evidence))
        cursor = page.cursor
        if not cursor:
            return frozenset(found)


def _read(data: bytes) -> tuple[dsse.Envelope, IndexEntry]:
    if len(data) > MAX_ENVELOPE:
        raise DOCUMENT_TOO_LARGE(f"the envelope has {len(data)} bytes; at most {MAX_ENVELOPE} are carried")
    envelope = dsse.parse_envelope(data)
    return envelope, index_payload(envelope)


def _together(before: dsse.Envelope | None, more: dsse.Envelope) -> dsse.Envelope:
    """Return the signatures of both; one payload may come in two envelopes, each with its own."""
    if before is None:
        return more
    if (before.payload_type, before.payload) != (more.payload_type, more.payload):
        raise BAD_DOCUMENT("two envelopes over one payload name different types", document=more.digest)
    return replace(before, signatures=tuple(dict.fromkeys((*before.signatures, *more.signatures))))


def _judge_one(
    envelope: dsse.Envelope, row: DocumentRow | None, trusted: Trusted, now: datetime, *, named: bool, dry_run: bool
) -> Verdict:
    standing = row.standing if row is not None else ""
    if row is None:
        check_times(envelope, now)
    if dry_run and not envelope.signatures:
        return Verdict("verified")
    own = judge(envelope, trusted, now, before=standing, named=named)
    if own.standing == "unverified":
        why = "; ".join(own.reasons)[:600] or "it carries none"
        raise UNVERIFIED_DOCUMENT(f"no signature of document {envelope.digest} counts: {why}", document=envelope.digest)
    if row is None:
        return own
    together = _together(dsse.parse_envelope(row.envelope), envelope)
    return judge(together, trusted, now, before=standing, named=named)


def named_by(entries: Iterable[IndexEntry]) -> frozenset[str]:
    """Digests of the releases that Deployments name on which a signature counts."""
    return frozenset(
        digest
        for entry in entries
        if entry.kind == "deployment" and entry.owners
        for digest in (entry.subject, entry.fallback)
        if digest
    )


def _judged(entry: IndexEntry, verdict: Verdict, before: DocumentRow | None) -> IndexEntry:
    once = (
        before is not None and verdict.standing != "verified" and (before.standing == "verified" or rows.once(before))
    )
    return replace(entry, standing=verdict.standing, owners=verdict.owners, needed=verdict.needed, once=once)


def _with_subject(entry: IndexEntry, known: Mapping[str, IndexEntry]) -> IndexEntry:
    """Give an approval the cell of the Deployment it names, so that it is found there."""
    if entry.kind != "approval":
        return entry
    about = known.get(entry.subject)
    if about is None or about.kind not in {"deployment", "tombstone"}:
        raise BAD_DOCUMENT(
            f"approval {entry.digest} names {entry.subject}, which is not a Deployment kept here",
            hint="Upload the Deployment first, or both together.",
        )
    if about.project != entry.project:
        raise BAD_DOCUMENT(f"approval {entry.digest} is of project {entry.project}, what it names of {about.project}")
    return replace(entry, cell=about.cell)


async def _check_sequences(tables: Tables, fresh: Mapping[str, IndexEntry]) -> None:
    """Tell an author early what agents would refuse: one sequence, two documents. Binds nobody.

    Only what is verified takes a sequence: what waits for signatures may wait for ever.
    """
    numbers = [(key, entry.sequence) for entry in fresh.values() if entry.sequence for key in entry.keys]
    taken = dict(await tables.documents.taken(numbers))
    for entry in fresh.values():
        for key in entry.keys if entry.sequence else ():
            other = taken.setdefault((key, entry.sequence), entry.digest)
            if other != entry.digest:
                raise SEQUENCE_TAKEN(
                    f"sequence {entry.sequence} of {'/'.join(key)} is that of {other}", document=entry.digest
                )


_PLACING = frozenset({"deployment", "tombstone"})
