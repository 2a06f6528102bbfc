"""What an author signs for a cell, decided from files, options and local memory. Pure but for reading memory.

Invariant: nothing that a hub lists becomes part of a plan, beyond numbers and times of documents the keyring vouches
for, and those only raise a number or a time that is bounded by this machine's clock.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal

from cellward.documents.model import Deployment, Release, Tombstone
from cellward.documents.numbers import next_issued_at, next_number
from cli.memory import Memory
from cli.signing import Draft, Key, draft

if TYPE_CHECKING:
    from cellward.documents.facts import Selector
    from cli.state.model import Record

Change = Literal["deployed", "unchanged", "delivered-again"]


@dataclass(frozen=True, slots=True)
class Target:
    """Where a cell goes."""

    environments: tuple[str, ...]
    selector: Selector
    rollout: Mapping[str, int]
    confirm_prune: int


@dataclass(frozen=True, slots=True)
class Order:
    """What verified documents of a hub add to the order: numbers and times, bounded by this machine's clock.

    ``newest`` is by environment: where it is above what is in memory, somebody else has signed since, and what memory
    has does not stand any more.
    """

    numbers: tuple[int, ...] = ()
    issued: datetime | None = None
    newest: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, documents: Sequence[Deployment | Tombstone]) -> Order:
        """Take it from verified documents."""
        issued = max((one.issued_at for one in documents), default=None)
        newest: dict[str, int] = {}
        for one in documents:
            newest.update({name: max(one.sequence, newest.get(name, 0)) for name in one.environments})
        return cls(tuple(one.sequence for one in documents), issued, newest)

    def leaves(self, record: Record | None, environments: Sequence[str]) -> Record | None:
        """Return what memory has as newest in environments, None where somebody signed something newer."""
        above = [name for name in environments if record is not None and self.newest.get(name, 0) > record.sequence]
        return None if above else record


@dataclass(frozen=True, slots=True)
class Wish:
    """What is asked for beyond the cell itself; ``keyid`` is empty where no key is opened."""

    realm: str
    life: timedelta
    fallback: str | None
    replace: bool
    keyid: str = ""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be signed, if anything, and what stands then."""

    change: Change
    deployment: Deployment
    digest: str
    drafts: tuple[Draft, ...]


def plan_cell(
    key: Key, spec: Mapping[str, Any], target: Target, wish: Wish, memory: Memory, order: Order, now: datetime
) -> Plan:
    """Decide about one cell."""
    release = Release(
        realm=wish.realm,
        project=key[0],
        cell=key[1],
        version=str(spec["version"]),
        owner=str(spec.get("owner", "")),
        spec=spec,
        issued_at=now,
        replace=wish.replace,
    )
    known = _same_release(release, memory, wish)
    deployment = Deployment(
        realm=wish.realm,
        project=key[0],
        cell=key[1],
        environments=target.environments,
        release_digest=known.digest if known else draft(release).digest,
        sequence=next_number(now, (*memory.numbers(key), *order.numbers)),
        issued_at=next_issued_at(now, _later(memory.newest_issued(key), order.issued)),
        not_after=now + wish.life,
        cluster_selector=target.selector,
        rollout=target.rollout,
        fallback=wish.fallback,
        confirm_prune=target.confirm_prune,
    )
    last = order.leaves(memory.newest(key, target.environments), target.environments)
    before = None if last is None or known is None else memory.deployment(last)
    if (
        last is not None
        and before is not None
        and _usable(last, wish)
        and _says_the_same(before, deployment, wish, now)
    ):
        drafts = (*_again(known, memory.release), *_again(last, memory.deployment))
        return Plan("delivered-again" if drafts else "unchanged", before, last.digest, drafts)
    made = draft(deployment)
    first = _again(known, memory.release) if known else (draft(release),)
    return Plan("deployed", deployment, made.digest, (*first, made))


def again(plan: Plan, memory: Memory) -> Plan:
    """Return the plan for a hub that does not have what it took: the same documents once more."""
    from cli.state.memory import required

    records = [required(memory.state, digest) for digest in (plan.deployment.release_digest, plan.digest)]
    release, deployment = memory.release(records[0]), memory.deployment(records[1])
    if release is None or deployment is None:
        return plan
    return replace(plan, change="delivered-again", drafts=(draft(release), draft(deployment)))


def plan_end(wanted: Tombstone, life: timedelta, memory: Memory, order: Order, now: datetime) -> Draft:
    """Decide about the end of a cell: number and times are filled in, or those of one that no hub took yet."""
    key = (wanted.project, wanted.cell)
    last = order.leaves(memory.newest(key, wanted.environments), wanted.environments)
    before = None if last is None or last.delivered else memory.tombstone(last)
    if before is not None and before.not_after - now >= life / 2:
        same = replace(wanted, sequence=before.sequence, issued_at=before.issued_at, not_after=before.not_after)
        if same == before:
            return draft(before)
    return draft(
        replace(
            wanted,
            sequence=next_number(now, (*memory.numbers(key), *order.numbers)),
            issued_at=next_issued_at(now, _later(memory.newest_issued(key), order.issued)),
            not_after=now + life,
        )
    )


def _same_release(wanted: Release, memory: Memory, wish: Wish) -> Record | None:
    """A release in memory whose whole payload is the wanted one but for the time, signed by the same key."""
    for record, found in memory.releases((wanted.project, wanted.cell)):
        same = draft(replace(wanted, issued_at=found.issued_at, not_after=found.not_after))
        if record.own and same.digest == record.digest and _usable(record, wish):
            return record
    return None


def _says_the_same(before: Deployment, wanted: Deployment, wish: Wish, now: datetime) -> bool:
    """Whether the whole payload is the same but for number and times, and at least half of its life is left."""
    same = replace(wanted, sequence=before.sequence, issued_at=before.issued_at, not_after=before.not_after)
    left = before.not_after - now
    return draft(same).payload == draft(before).payload and wish.life / 2 <= left <= wish.life


def _usable(record: Record, wish: Wish) -> bool:
    """Signed by the key in hand; a dry run opens none and takes it to be the same."""
    return not wish.keyid or record.keyid in {"", wish.keyid}


def _again(record: Record | None, read: Callable[[Record], Release | Deployment | None]) -> tuple[Draft, ...]:
    """A document that no hub took yet, to be handed over as it is."""
    if record is None or record.delivered:
        return ()
    document = read(record)
    return () if document is None else (draft(document),)


def _later(one: datetime | None, other: datetime | None) -> datetime | None:
    return max((moment for moment in (one, other) if moment is not None), default=None)
