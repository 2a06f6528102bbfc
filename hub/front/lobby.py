"""Who may come in, who has to go for it, and who has waited too long. Counts only; no socket is seen here.

A connection is *silent* until its first byte, then *opening* until its peer has proven something, then *known*.
Invariants: there are never more connections, nor strangers, in all or of one address, than the limits say; a known peer
is never displaced by a stranger; a newcomer displaces the stranger that has been silent longest, or opening longest, of
its own address where that is what is full. So whoever comes to speak gets in, however many sit there silently.
"""

from __future__ import annotations

from collections import Counter, OrderedDict, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from cellward.runtime.clock import Clock
from hub.front.limits import FrontLimits

State = Literal["silent", "opening", "known"]
_STRANGE: tuple[State, ...] = ("silent", "opening")


@dataclass(eq=False, slots=True)
class Guest:
    """A connection of a peer, named as gRPC names peers."""

    number: int
    address: str
    since: float
    state: State = "silent"
    closed: bool = False
    peer: str = ""


class Lobby:
    """Counts the connections of one listener."""

    def __init__(self, limits: FrontLimits, clock: Clock) -> None:
        self.limits = limits
        self._clock = clock
        self._guests: dict[int, Guest] = {}
        self._number = 0
        self._strangers: dict[State, OrderedDict[Guest, None]] = {state: OrderedDict() for state in _STRANGE}
        self._of_address: defaultdict[tuple[str, State], OrderedDict[Guest, None]] = defaultdict(OrderedDict)
        self._addresses: Counter[str] = Counter()
        #: Connections that were ended from here, by reason, since the start.
        self.dropped: Counter[str] = Counter()

    def admit(self, address: str) -> tuple[Guest | None, tuple[Guest, ...]]:
        """Let a newcomer in: the guest, or None for no room; and whoever is to be cut for it."""
        cut: list[Guest] = []
        full = self._addresses[address] >= self.limits.per_address
        if full or self._strange(address) >= self.limits.strangers_per_address:
            cut += self._displace(address)
        elif self.count_strangers() >= self.limits.strangers or len(self._guests) >= self.limits.connections:
            cut += self._displace(None)
        if len(self._guests) >= self.limits.connections or self._addresses[address] >= self.limits.per_address:
            self.dropped["full"] += 1
            return None, tuple(cut)
        self._number += 1
        guest = self._guests[self._number] = Guest(self._number, address, self._clock.monotonic())
        self._addresses[address] += 1
        self._enter(guest)
        return guest, tuple(cut)

    def spoke(self, guest: Guest) -> None:
        """The first byte came."""
        if guest.state == "silent" and not guest.closed:
            self._leave_strangers(guest)
            guest.state, guest.since = "opening", self._clock.monotonic()
            self._enter(guest)

    def known(self, number: int) -> None:
        """The peer has proven who it is."""
        guest = self._guests.get(number)
        if guest is not None and guest.state != "known":
            self._leave_strangers(guest)
            guest.state = "known"

    def left(self, guest: Guest) -> None:
        """The connection is gone."""
        if guest.closed:
            return
        guest.closed = True
        self._leave_strangers(guest)
        del self._guests[guest.number]
        self._addresses[guest.address] -= 1
        if not self._addresses[guest.address]:
            del self._addresses[guest.address]

    def overdue(self) -> tuple[Guest, ...]:
        """Take out whoever had to have spoken, or proven something, by now."""
        now = self._clock.monotonic()
        late = [
            guest
            for state, seconds in (("silent", self.limits.silence), ("opening", self.limits.opening))
            for guest in _older(self._strangers[state], now - seconds)  # type: ignore[index]
        ]
        for guest in late:
            self.dropped[f"{guest.state}-too-long"] += 1
            self.left(guest)
        return tuple(late)

    def counts(self) -> dict[State, int]:
        """How many connections there are in each state."""
        silent, opening = (len(self._strangers[state]) for state in _STRANGE)
        return {"silent": silent, "opening": opening, "known": len(self._guests) - silent - opening}

    def count_strangers(self) -> int:
        """How many have proven nothing yet."""
        return sum(len(found) for found in self._strangers.values())

    def _strange(self, address: str) -> int:
        return sum(len(self._of_address[address, state]) for state in _STRANGE if (address, state) in self._of_address)

    def _displace(self, address: str | None) -> list[Guest]:
        """Take out the stranger that waits longest, of an address or of all; none where there is none."""
        for state in _STRANGE:
            found = self._strangers[state] if address is None else self._of_address.get((address, state))
            if found:
                guest = next(iter(found))
                self.dropped[f"{state}-displaced"] += 1
                self.left(guest)
                return [guest]
        return []

    def _enter(self, guest: Guest) -> None:
        self._strangers[guest.state][guest] = None
        self._of_address[guest.address, guest.state][guest] = None

    def _leave_strangers(self, guest: Guest) -> None:
        if guest.state == "known":
            return
        self._strangers[guest.state].pop(guest, None)
        mine = self._of_address.get((guest.address, guest.state))
        if mine is not None:
            mine.pop(guest, None)
            if not mine:
                del self._of_address[guest.address, guest.state]


def _older(guests: OrderedDict[Guest, None], than: float) -> Iterator[Guest]:
    for guest in guests:
        if guest.since > than:
            return
        yield guest
