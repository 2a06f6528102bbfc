"""Leases: which of several hub processes does what only one of them may do, and how a former one is kept from it.

A lease has a **fencing token**, which is greater each time another holder begins. Whoever works under a lease names its
token in the transaction of each write; one that was paused, and has been followed by another without knowing, is
refused there. So a lease that two believe they hold does no harm: time decides who may begin, the token who may write.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Protocol

from hub.store.errors import LEASE_MOVED


@dataclass(frozen=True, slots=True)
class Lease:
    """A lease as it is kept.

    Attributes:
        name: of what only one may do.
        holder: which process.
        token: greater with each holder.
        expires: by the clock of the database.
    """

    name: str
    holder: str
    token: int
    expires: datetime

    def taken_by(self, holder: str, now: datetime, life: timedelta) -> Lease | None:
        """Return what it is once ``holder`` has renewed or taken it; None while another one has it.

        One that had run out begins again, also for who held it: what it did before may have been undone meanwhile.
        """
        if self.expires > now:
            return replace(self, expires=now + life) if self.holder == holder else None
        return Lease(self.name, holder, self.token + 1, now + life)

    def check(self, kept: Lease | None) -> None:
        """Raise store/lease-moved unless the lease that is kept now is still this one."""
        if kept is None or kept.token != self.token:
            now = "nobody" if kept is None else f"{kept.holder} (token {kept.token})"
            raise LEASE_MOVED(f"lease {self.name} with token {self.token} has moved to {now}", lease=self.name)


def first(name: str, holder: str, now: datetime, life: timedelta) -> Lease:
    """Return a lease nobody has had before."""
    return Lease(name, holder, 1, now + life)


class LeaseStore(Protocol):
    """Leases at rest; time is the database's."""

    async def take(self, name: str, holder: str, life: timedelta) -> Lease | None:
        """Renew or take a lease; None while another one has it."""
        ...

    async def get(self, name: str) -> Lease | None:
        """Return a lease, run out or not."""
        ...

    async def check(self, lease: Lease) -> None:
        """Raise store/lease-moved when another holder has begun; in a transaction none can until its end."""
        ...

    async def release(self, holder: str) -> None:
        """Let every lease of a holder run out."""
        ...
