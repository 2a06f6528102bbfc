"""Documents on their way into the store: read, judged by the keyring served, bounded, kept; and judged again later.

Invariants: a signature that does not count is not kept; a document with none is refused whole, with the upload it came
in; what waits for signatures moves nothing and makes way for what verifies; when the keyring changes, everything kept
is judged again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

import structlog

from cellward.documents import dsse
from cellward.documents.names import CellKey
from cellward.documents.numbers import check_number, faulty_numbers
from cellward.errors import CellwardError
from hub.fleet import rows
from hub.fleet.bounds import Bounds, make_room
from hub.fleet.errors import (
    BAD_DOCUMENT,
    DOCUMENT_TOO_LARGE,
    FOREIGN_REALM,
    NO_KEYRING,
    SEQUENCE_TAKEN,
    UNVERIFIED_DOCUMENT,
)
from hub.fleet.index import MAX_ENVELOPE, index_payload, is_key
from hub.fleet.judge import Trusted, Verdict, check_times, judge
from hub.fleet.model import IndexEntry
from hub.store.interfaces import DocumentRow, Judged

if TYPE_CHECKING:
    from datetime import datetime

    from cellward.runtime.clock import Clock
    from hub.fleet.realm import RealmService
    from hub.store.interfaces import Store, Tables

#: Rows read at a time.
_PAGE = 500
#: Documents that are read or judged at a time.
_AT_ONCE = 2
#: Seconds after which what was left out of the index is looked at again: its number may have been ahead of the clock.
_AHEAD_SECONDS = 10.0
#: Which keyring and settings everything kept was judged by.
_JUDGED_KEY = "documents/judged-by"
_log = structlog.get_logger()


class KeyringPort(Protocol):
    """The keyring this hub serves."""

    async def current(self) -> Trusted | None:
        """The keyring and the signed settings, None before the first publication."""
        ...


@dataclass(frozen=True, slots=True)
class Examined:
    """An upload that may be kept.

    Attributes:
        fresh: index entries by digest, as they will be kept.
        rows: what is to be kept; ``seen`` are the envelopes kept until now, by digest.
        grown: verified documents whose signatures change, so that agents are told again.
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
    """What an upload is judged by: the keyring, and what is kept of the same documents and about them.

    Attributes:
        before: rows of those that are kept already, by digest.
        named: those that Deployments name which are kept.
    """

    trusted: Trusted
    before: Mapping[str, DocumentRow]
    named: frozenset[str]

    def same(self, other: Basis) -> bool:
        """Whether judging by the other one comes to the same."""
        if self.trusted.mark != other.trusted.mark or self.named != other.named:
            return False
        ours, theirs = (
            {digest: (row.envelope, row.standing) for digest, row in one.before.items()} for one in (self, other)
        )
        return ours == theirs


@dataclass(frozen=True, slots=True)
class Prepared:
    """An upload that was read, and judged by what was in force then; by digest."""

    given: Mapping[str, dsse.Envelope]
    indexed: Mapping[str, IndexEntry]
    dry_run: bool
    basis: Basis
    judged: Mapping[str, Verdict]


@dataclass(frozen=True, slots=True)
class Index:
    """Everything kept, in the order it came, as it was at one revision of the documents."""

    revision: int
    entries: tuple[IndexEntry, ...]


class Documents:
    """What the fleet keeps of signed documents.

    An upload is examined against an index, outside any transaction; the transaction that keeps it expects that index.
    What costs time, ``read`` and ``prepare``, is done in a thread, a few documents at a time.
    """

    def __init__(
        self, store: Store, realm: RealmService, clock: Clock, keyring: KeyringPort, bounds: Bounds | None = None
    ) -> None:
        self._store = store
        self._realm = realm
        self._clock = clock
        self._keyring = keyring
        self._bounds = bounds or Bounds()
        self._index: Index | None = None
        #: When the index has to be made again although nothing changed: a number was ahead of the clock.
        self._stale_at: float | None = None
        self._unusable: set[tuple[CellKey, str]] = set()
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

    async def basis(self, digests: Iterable[str], index: Index) -> Basis:
        """What an upload of these documents is judged by now; raises fleet/no-keyring."""
        trusted = await self._keyring.current()
        if trusted is None:
            raise NO_KEYRING("no policy was published here yet")
        wanted = frozenset(digests)
        before = {digest: row for digest in wanted if (row := await self._store.documents.get(digest)) is not None}
        return Basis(trusted, before, _named_by(index.entries) & wanted)

    async def prepare(
        self,
        given: Mapping[str, dsse.Envelope],
        indexed: Mapping[str, IndexEntry],
        basis: Basis,
        *,
        dry_run: bool,
    ) -> Prepared:
        """Judge an upload; nothing is written.

        With ``dry_run`` a payload that nobody signed is judged as if everybody had who must: it shows what would
        happen, and no key is used for it.
        """
        now, named = self._clock.now(), basis.named
        judged: dict[str, Verdict] = {}
        # Deployments first: they name the releases of the same upload.
        for digest in sorted(given, key=lambda digest: indexed[digest].kind == "release"):
            async with self._working:
                verdict = judged[digest] = await asyncio.to_thread(
                    _judge_one,
                    given[digest],
                    basis.before.get(digest),
                    basis.trusted,
                    now,
                    named=digest in named,
                    dry_run=dry_run,
                )
            named |= _named_by([replace(indexed[digest], owners=verdict.owners)])
        return Prepared(given, indexed, dry_run, basis, judged)

    async def examine(self, prepared: Prepared, index: Index) -> Examined:
        """Say what is to be kept of an upload, beside what the index has."""
        given, indexed, judged, before = prepared.given, prepared.indexed, prepared.judged, prepared.basis.before
        kept = {entry.digest: entry for entry in index.entries}
        known = {**kept, **indexed}
        fresh = {
            digest: _judged(_with_subject(indexed[digest], known), judged[digest], before.get(digest))
            for digest in given
        }
        _check_sequences(fresh.values(), kept.values())
        return await self._examined(given, fresh, judged, before, kept)

    async def _examined(
        self,
        given: Mapping[str, dsse.Envelope],
        fresh: Mapping[str, IndexEntry],
        judged: Mapping[str, Verdict],
        before: Mapping[str, DocumentRow],
        kept: Mapping[str, IndexEntry],
    ) -> Examined:
        made = tuple(
            rows.document_row(entry, dsse.dump_envelope(replace(given[digest], signatures=judged[digest].signatures)))
            for digest, entry in fresh.items()
        )
        fresh = {row.digest: replace(fresh[row.digest], size=len(row.envelope)) for row in made}
        gone = make_room(self._bounds, fresh, kept, self._clock.now())
        if gone:  # once more, with what it costs to know which of them agents were given
            placed = await self._placed({entry.project for entry in gone})
            gone = make_room(self._bounds, fresh, kept, self._clock.now(), placed)
        grown = {row.digest for row in made if row.digest in before and row.envelope != before[row.digest].envelope}
        return Examined(fresh, made, {digest: row.envelope for digest, row in before.items()}, frozenset(grown), gone)

    async def keep(self, tables: Tables, examined: Examined) -> tuple[IndexEntry, ...]:
        """Keep an upload, all or none, and return what made way for it; raises store/moved for what changed since."""
        await tables.documents.put_many(examined.rows, examined.seen)
        dropped = await tables.documents.drop([entry.digest for entry in examined.gone])
        if dropped:
            _log.info("documents-dropped", count=len(dropped))
        return tuple(entry for entry in examined.gone if entry.digest in dropped)

    async def index(self) -> Index:
        """Return the index of everything kept; names that no agent takes aside. Read again when it has changed."""
        while True:
            revision = await self._store.documents.revision()
            known, now = self._index, self._clock.monotonic()
            if known is not None and known.revision == revision and (self._stale_at is None or now < self._stale_at):
                return known
            rows = await self._all()
            if await self._store.documents.revision() != revision:
                continue
            found = [entry for row in rows if (entry := self._entry(row)) is not None]
            self._stale_at = now + _AHEAD_SECONDS if len(found) < len(rows) else None
            self._index = Index(revision, tuple(found))

    async def outdated(self) -> Trusted | None:
        """Return the keyring served now, if not everything was judged by it and by the signed settings."""
        trusted = await self._keyring.current()
        if trusted is None or await self._store.meta.get(_JUDGED_KEY) == trusted.mark.encode():
            return None
        return trusted

    async def judge_again(self, trusted: Trusted) -> None:
        """Judge everything kept by this keyring and these settings; raises store/moved when some of it has changed."""
        revision = await self._store.documents.revision()
        changed = await asyncio.to_thread(_changed, await self._all(), trusted, self._clock.now())

        async def job(tables: Tables) -> None:
            await tables.documents.expect(revision)
            await tables.documents.judge_many(changed)

        if changed:
            await self._store.transact(job)
            _log.info("documents-judged-again", changed=len(changed))

    async def judged_by(self, tables: Tables, trusted: Trusted) -> None:
        """Note that everything kept was judged by it, and placed."""
        await tables.meta.put(_JUDGED_KEY, trusted.mark.encode())

    def usable(self, key: CellKey, digest: str) -> bool:
        """Whether agents take this name at all; told once for each that they do not."""
        if is_key(key):
            return True
        if (key, digest) not in self._unusable:
            self._unusable.add((key, digest))
            _log.warning("unusable-document-kept", document=digest, key="/".join(key)[:200])
        return False

    def _entry(self, row: DocumentRow) -> IndexEntry | None:
        """Index entry of a kept document, None for one that should not have been kept, by an older hub or clock."""
        entry = rows.entry_of(row)
        if entry.sequence in faulty_numbers(self._clock.now(), (entry.sequence,)):
            return None  # agents refuse it too; what else there is must not stand behind it
        return entry if all(self.usable(key, entry.digest) for key in entry.keys) else None

    async def _placed(self, projects: Iterable[str]) -> frozenset[str]:
        """Digests of all documents that clusters were given, of these projects."""
        found: set[str] = set()
        for project in projects:
            cursor = ""
            while True:
                page = await self._store.desired.statuses("", project, "", cursor, _PAGE)
                found.update(
                    digest for row in page.items for digest in (row.desired.deployment_digest, *row.desired.evidence)
                )
                cursor = page.cursor
                if not cursor:
                    break
        return frozenset(found)

    async def _all(self) -> list[DocumentRow]:
        found: list[DocumentRow] = []
        cursor = ""
        while True:
            page = await self._store.documents.list("", "", "", cursor, _PAGE)
            found += page.items
            cursor = page.cursor
            if not cursor:
                return found


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


def _changed(kept: Iterable[DocumentRow], trusted: Trusted, now: datetime) -> list[Judged]:
    changed, named = [], frozenset[str]()
    # Deployments first: what they name is judged by whether somebody in force still says so.
    for row in sorted(kept, key=lambda row: row.kind == "release"):
        try:
            envelope = dsse.parse_envelope(row.envelope)
            verdict = judge(envelope, trusted, now, before=row.standing, named=row.digest in named)
        except CellwardError as error:
            # Kept by a version that could read it.
            verdict = Verdict("unverified", reasons=(error.message,))
        named |= _named_by([replace(rows.entry_of(row), owners=verdict.owners)])
        judgement = verdict.to_json()
        if verdict.standing != "verified" and (row.standing == "verified" or rows.once(row)):
            judgement["once"] = True
        if (verdict.standing, judgement) != (row.standing, dict(row.judgement)):
            changed.append(Judged(row.digest, verdict.standing, judgement))
    return changed


def _named_by(entries: Iterable[IndexEntry]) -> frozenset[str]:
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


def _check_sequences(fresh: Iterable[IndexEntry], kept: Iterable[IndexEntry]) -> None:
    """Tell an author early what agents would refuse: one sequence, two documents. Binds nobody.

    Only what is verified takes a sequence: what waits for signatures may wait for ever.
    """
    taken = {(key, entry.sequence): entry.digest for entry in kept if _ordered(entry) for key in entry.keys}
    for entry in fresh:
        for key in entry.keys if entry.sequence else ():
            other = taken.setdefault((key, entry.sequence), entry.digest)
            if other != entry.digest:
                raise SEQUENCE_TAKEN(
                    f"sequence {entry.sequence} of {'/'.join(key)} is that of {other}", document=entry.digest
                )


def _ordered(entry: IndexEntry) -> bool:
    return entry.verified and entry.sequence > 0
