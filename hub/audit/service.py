"""The audit log: durable before it acknowledges (V13), one Merkle log over all chains, signed heads, proofs.

Invariants: what is acknowledged is on disk and in the tree that the returned checkpoint signs; requests that wait while
a transaction runs share the next one; nothing in memory is the truth: the store refuses an append to a log that has
moved, and then everything here is read again. Lock order: none; one worker task commits, callers only wait for it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import structlog
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from cellward.audit.checkpoint import Checkpoint, log_origin, sign_checkpoint, verify_checkpoint
from cellward.errors import CellwardError
from cellward.identity.keys import spki_of
from cellward.runtime.clock import Clock
from hub.audit.batch import Batch, check_batch
from hub.audit.damage import verify_log
from hub.audit.errors import NO_REALM
from hub.audit.export import write_export
from hub.audit.model import AuditAckOut, AuditBatchIn, IndexedRecord, SignedHead
from hub.audit.plan import Chains, Placed, Plan, Refusal
from hub.audit.tree import Edge, LogTree
from hub.store.changes import EVENTS, ChangeBus
from hub.store.errors import DAMAGED, LEASE_MOVED, MOVED, UNAVAILABLE
from hub.store.leases import Lease
from hub.store.log import AuditAppend, AuditEvent, AuditFilter, AuditStore, TileKey
from hub.store.shared import Pace

_log = structlog.get_logger()

#: Records of one transaction, as far as requests allow.
GROUP_RECORDS: Final = 4096
#: How often a group is planned again because another process wrote first.
TRIES: Final = 20
#: Seconds after which what waits is looked for although nobody announced it.
SETTLE_SECONDS: Final = 5.0
#: Least seconds between two transactions that hold nothing but batches of agents: a fleet that speaks for a second
#: shares ten of them. What the hub itself does never waits.
BATCHES_APART: Final = 0.1
#: Most records of one page of ``tail``.
MAX_PAGE: Final = 1000


@dataclass(frozen=True, slots=True)
class _Head:
    """The tree at one size: edge, root, and the signed note (empty before a realm was adopted)."""

    edge: Edge
    root: bytes
    note: bytes


@dataclass(frozen=True, slots=True, eq=False)
class _Waiting:
    """What the hub did and kept in the store: it is given its place; under a lease, or for a reader."""

    lease: Lease | None = None


@dataclass(frozen=True, slots=True, eq=False)
class _Request:
    work: Batch | AuditEvent | _Waiting
    done: asyncio.Future[tuple[Placed, _Head]]


class AuditLog:
    """The log of one installation.

    Args:
        store: where it lives.
        tree_head_signer: key that signs tree heads and nothing else.
        realm: asked each time; empty before a root was adopted. The log's origin follows from it.
        clock: time of the hub's own records.
    """

    def __init__(
        self, store: AuditStore, tree_head_signer: Ed25519PrivateKey, realm: Callable[[], str], clock: Clock
    ) -> None:
        self._store = store
        self._signer = tree_head_signer
        self._realm = realm
        self._clock = clock
        self._tree = LogTree(store)
        self._chains = Chains(store)
        self._head: _Head | None = None
        self._pending: list[_Request] = []
        self._worker: asyncio.Task[None] | None = None
        self._pace = Pace(BATCHES_APART)
        #: Set while something waits that is not a batch of an agent.
        self._hurry = asyncio.Event()
        # Last place reported per writer and code: an agent that repeats itself must not fill the log with findings.
        self._told: dict[tuple[str, str], tuple[int, int]] = {}
        #: Counters since the start, for metrics: records taken, batches refused by code, transactions.
        self.records_taken = 0
        self.refused: dict[str, int] = {}
        self.commits = 0

    @property
    def origin(self) -> str:
        """Origin line of the log, empty before a realm was adopted."""
        realm = self._realm()
        return log_origin(realm) if realm else ""

    async def ingest(self, cluster_name: str, uid: str, statement_spki: bytes, batch: AuditBatchIn) -> AuditAckOut:
        """Take a batch of the agent whose certificate says ``cluster_name``; its binding gave uid and statement key.

        A batch that cannot be taken is answered with ``refused_code`` and the sequence number that is expected next.
        Raises store/full, store/unavailable, audit/no-realm: then nothing is known to be durable and the agent repeats.
        """
        realm = self._realm()
        if not realm:
            raise NO_REALM("no agent can have records of a realm this hub has not adopted")
        try:
            checked = await check_batch(cluster_name, uid, realm, statement_spki, batch)
            placed, head = await self._submit(checked)
        except Refusal as refusal:
            return self._refuse(cluster_name, batch, refusal.cause, refusal.expected, refusal.epoch)
        except CellwardError as error:
            if not error.code.startswith("audit/"):
                raise
            chain = await self._store.origin_state(f"agent:{uid}")
            return self._refuse(cluster_name, batch, error, chain.seq + 1 if chain is not None else 1)
        return AuditAckOut(
            epoch=placed.epoch,
            seq=placed.seq,
            checkpoint=head.note,
            leaf_index=placed.index or 0,
            consistency=await self._tree.consistency(batch.known_tree_size, head.edge),
            proved=placed.count if placed.index is not None else 0,
            range_proof=await self._range(placed, head.edge),
        )

    async def _range(self, placed: Placed, edge: Edge) -> tuple[bytes, ...]:
        if placed.index is None:
            return ()
        return await self._tree.range(placed.index - placed.count + 1, placed.index, edge)

    async def append(self, event: AuditEvent) -> int:
        """Add a record to the hub's own chain; return its index in the log once it is durable.

        Raises store/full, store/unavailable: then the action must not be done.
        """
        return (await self._submit(event))[0].index or 0

    async def begin_epoch(self, actor: str, reason: str, details: Mapping[str, str] | None = None) -> None:
        """Begin a new epoch of the hub's own chain, as a finding that names the old head; after a restore."""
        event = AuditEvent(actor, "hub.restore", "Hub", "finding", reason=reason, details=details or {}, new_epoch=True)
        await self._submit(event)

    async def denied(self, note: bytes) -> Checkpoint | None:
        """Return the tree head of a note that this log's key signed and this log does not have; None for any other."""
        origin = self.origin
        try:
            head = verify_checkpoint(note, origin, spki_of(self._signer)) if origin else None
        except CellwardError:
            return None
        if head is None or not head.size:
            return None
        edge = self._head.edge if self._head is not None and self._head.edge.size >= head.size else await self._load()
        if edge.size >= head.size and (await self._tree.edge_at(head.size, edge)).root() == head.root:
            return None
        return head

    async def export(self, write: Callable[[bytes], Awaitable[None]]) -> None:
        """Write the whole log as NDJSON, in pieces; raises audit/no-realm."""
        await self.settle()
        snapshot = await self._store.snapshot()
        edge = await self._tree.load_edge(snapshot.size)
        note = self._sign(snapshot.size, _expected(edge, snapshot.root))
        if not note:
            raise NO_REALM("a log without a realm has no name")
        await write_export(self._store, snapshot, self._realm(), self._signer.public_key(), note, write)

    async def tail(self, cursor: int, limit: int, filters: AuditFilter | None = None) -> tuple[IndexedRecord, ...]:
        """Return matching records from index ``cursor`` on, oldest first; last index + 1 is the next cursor."""
        await self.settle()
        rows = await self._store.records(max(0, cursor), max(1, min(limit, MAX_PAGE)), filters)
        return tuple(IndexedRecord(row.index, row.record, row.cluster) for row in rows)

    async def size(self) -> int:
        """Return how many records the log has."""
        await self.settle()
        return await self._store.size()

    async def head(self) -> SignedHead:
        """Return the newest signed tree head; raises audit/no-realm."""
        await self.settle()
        size, head = await self._store.size(), self._head
        if head is None or head.edge.size != size or not head.note:
            edge = await self._load()
            size, root = edge.size, edge.root()
            head = _Head(edge, root, self._sign(size, root))
        if not head.note:
            raise NO_REALM("a log without a realm has no name")
        return SignedHead(size, "sha256:" + head.root.hex(), head.note)

    async def verify(self, last: int | None = None) -> None:
        """Compare the log with its own hashes, from the ``last`` records on where that is given.

        Raises store/damaged, naming the first thing that does not fit.
        """
        await verify_log(self._store, self._realm(), last)

    async def close(self) -> None:
        """Finish what was submitted."""
        while self._worker is not None and not self._worker.done():
            await asyncio.wait([self._worker])

    async def settle(self, lease: Lease | None = None) -> None:
        """Give everything that waits its place in the log; raises store/full, store/unavailable, and then it waits.

        Under a lease that another process has by now it raises store/lease-moved, and that process does it.
        """
        while True:
            waiting = await self._store.waiting(1)
            if not waiting:
                return
            await self._submit(_Waiting(lease))

    async def follow(self, changes: ChangeBus, lease: Callable[[], Lease | None]) -> None:
        """Give what waits its place whenever something does, while this process has the lease.

        Runs until cancelled; a failure is tried again.
        """
        async with changes.subscribe(EVENTS) as woken:
            while True:
                try:
                    if (held := lease()) is not None:
                        await self.settle(held)
                except CellwardError as error:
                    _log.warning("audit-events-wait", code=error.code, reason=error.message)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(SETTLE_SECONDS):
                        await woken.wait()

    async def _submit(self, work: Batch | AuditEvent | _Waiting) -> tuple[Placed, _Head]:
        request = _Request(work, asyncio.get_running_loop().create_future())
        # A caller that goes away must not leave an error nobody looks at.
        request.done.add_done_callback(lambda future: None if future.cancelled() else future.exception())
        self._pending.append(request)
        if not isinstance(work, Batch):
            self._hurry.set()
        if self._worker is None or self._worker.done():
            self._worker = asyncio.create_task(self._work(), name="audit-log")
            self._worker.add_done_callback(self._ended)
        # The worker is a task of its own: a stream that ends takes its answer away, not the group's transaction.
        return await request.done

    async def _work(self) -> None:
        while self._pending:
            await self._pace.turn(self._hurry)
            group = self._take()
            try:
                await self._commit(group)
            except Exception as error:  # noqa: BLE001 - it costs this group alone: the next one gets its turn (V16)
                if not isinstance(error, CellwardError):
                    _log.exception("audit-commit-failed")
                self._forget()
                _settle(group, error)
            except BaseException:
                self._forget()
                _settle(group, UNAVAILABLE("the audit log is closing"))
                raise

    def _ended(self, worker: asyncio.Task[None]) -> None:
        """Answer those who waited for a worker that was cancelled, unless another one has taken over."""
        if worker is self._worker and worker.cancelled():
            _settle(self._pending, UNAVAILABLE("the audit log is closing"))
            self._pending = []

    def _take(self) -> list[_Request]:
        """Take the next group: in order, at most one batch of each writer."""
        group: list[_Request] = []
        later: list[_Request] = []
        writers: set[str] = set()
        records = 0
        for request in self._pending:
            work = request.work
            writer = work.origin if isinstance(work, Batch) else ""
            if records >= GROUP_RECORDS or (writer and writer in writers):
                later.append(request)
                continue
            writers.add(writer)
            records += len(work.leaves) if isinstance(work, Batch) else 1
            group.append(request)
        self._pending = later
        if all(isinstance(request.work, Batch) for request in later):
            self._hurry.clear()
        return group

    async def _commit(self, group: list[_Request]) -> None:
        for _ in range(TRIES):
            edge = self._head.edge if self._head is not None else await self._load()
            plan = Plan(
                self._store, self._chains, size=edge.size, realm=self._realm(), now=self._clock.now()
            )  # fmt: skip
            told: dict[tuple[str, str], tuple[int, int]] = {}
            outcomes = [await self._plan(plan, request.work, told) for request in group]
            grown, tiles = edge.grow(plan.hashes)
            try:
                if plan.entries or plan.chains:
                    chains, lease = tuple(plan.chains.values()), _lease_of(group)
                    batch = AuditAppend(edge.size, plan.entries, chains, tiles, plan.placed, grown.root(), lease)
                    await self._store.append(batch)
                elif await self._store.size() != edge.size:
                    # Nothing to write, so no append has noticed that all of this was decided on an older log.
                    raise MOVED("another process has written")
            except CellwardError as error:
                if error.code == LEASE_MOVED.code:
                    # Only what was done under it is another one's by now.
                    group = _without_lease(group, error)
                elif error.code != MOVED.code:
                    raise
                self._forget()
                continue
            head = self._committed(plan, grown, tiles)
            self._told |= told
            for request, outcome in zip(group, outcomes, strict=True):
                if request.done.done():
                    continue
                if isinstance(outcome, Placed):
                    request.done.set_result((outcome, head))
                else:
                    request.done.set_exception(outcome)
            return
        raise MOVED("another process writes to the audit log all the time")

    async def _plan(
        self, plan: Plan, work: Batch | AuditEvent | _Waiting, told: dict[tuple[str, str], tuple[int, int]]
    ) -> Placed | BaseException:
        try:
            if isinstance(work, _Waiting):
                # Of two that ask at once the first has it all.
                return await plan.add_waiting(() if plan.placed else await self._store.waiting(GROUP_RECORDS))
            if isinstance(work, AuditEvent):
                return await plan.add_event(work)
            return await plan.add_batch(work)
        except Refusal as refusal:
            what = (work.origin, refusal.cause.code) if isinstance(work, Batch) else ("", "")
            place = (work.epoch, refusal.expected) if isinstance(work, Batch) else (0, 0)
            if isinstance(work, Batch) and refusal.finding and self._told.get(what) != place:
                await plan.add_finding(work, refusal)
                # Reported once it is durable: a finding whose transaction fails is reported with the next try.
                told[what] = place
            return refusal
        except CellwardError as error:
            if error.code.startswith("audit/"):
                # A record of the hub that cannot be written is its own fault and must not stop the others'.
                return error
            raise

    def _committed(self, plan: Plan, grown: Edge, tiles: Mapping[TileKey, bytes]) -> _Head:
        self._tree.remember(tiles)
        self._chains.remember(plan.chains)
        self.records_taken += len(plan.entries)
        self.commits += 1
        head = self._head
        if head is None or head.edge.size != grown.size or not head.note:
            root = grown.root()
            head = _Head(grown, root, self._sign(grown.size, root))
            self._head = head
        return head

    async def _load(self) -> Edge:
        tip = await self._store.tip()
        edge = await self._tree.load_edge(tip.size)
        _expected(edge, tip.root)
        return edge

    def _forget(self) -> None:
        self._head = None
        self._chains.forget()

    def _sign(self, size: int, root: bytes) -> bytes:
        origin = self.origin
        return sign_checkpoint(Checkpoint(origin, size, root), self._signer) if origin else b""

    def _refuse(
        self, cluster: str, batch: AuditBatchIn, cause: CellwardError, expected: int, epoch: int = 0
    ) -> AuditAckOut:
        self.refused[cause.code] = self.refused.get(cause.code, 0) + 1
        _log.warning("audit-batch-refused", cluster=cluster, code=cause.code, reason=cause.message, expected=expected)
        return AuditAckOut(epoch=epoch or batch.epoch, seq=0, refused_code=cause.code, expected_seq=expected)


def _expected(edge: Edge, kept: bytes) -> bytes:
    """Return the root at an edge. Raises store/damaged: a head that contradicts an earlier one must not be signed."""
    root = edge.root()
    if kept and root != kept:
        raise DAMAGED(f"the tree of the audit log at {edge.size} records is not the one that was kept with it")
    return root


def _lease_of(group: Sequence[_Request]) -> Lease | None:
    works = [request.work for request in group]
    return next((work.lease for work in works if isinstance(work, _Waiting) and work.lease is not None), None)


def _without_lease(group: list[_Request], error: CellwardError) -> list[_Request]:
    """Answer those of a group that are done under a lease, and return the others."""
    fenced = [one for one in group if isinstance(one.work, _Waiting) and one.work.lease is not None]
    _settle(fenced, error)
    return [one for one in group if one not in fenced]


def _settle(group: list[_Request], error: BaseException) -> None:
    for request in group:
        if not request.done.done():
            request.done.set_exception(error)
