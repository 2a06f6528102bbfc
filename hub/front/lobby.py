"""Who may come in, who has to go for it, and who has waited too long. Counts only; no socket is seen here.

A connection is *silent* until its first byte, then *opening* until its peer has proven something, then *known*, which
is an owner's: a token's, a cluster's. Invariants: there are never more connections, nor strangers, in all or of one
address, nor known ones of one owner, than the limits say; a known peer is never displaced by a stranger; a newcomer
displaces the stranger that has been silent longest, or opening longest, of its own address where that is what is full.
So whoever comes to speak gets in, however many sit there silently. Known ones leave some places free, in all and of
each address: half of them so that somebody can come in and prove who it is, the others for owners that are kept a
place. Who has most makes way.
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
    #: Whose it is once it is known, and whether such owners are kept a place.
    owner: str = ""
    kept: bool = False


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
        #: Known connections by owner, the one used longest ago first; and their number, by address (in all) and kind.
        self._owned: dict[str, OrderedDict[Guest, None]] = {}
        self._known: Counter[tuple[str | None, bool]] = Counter()
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
            self._leave(guest)
            guest.state, guest.since = "opening", self._clock.monotonic()
            self._enter(guest)

    def known(self, number: int, owner: str, *, kept: bool = False) -> tuple[Guest, ...]:
        """The peer has proven who it is, with each call or request again: whoever is to be cut for it, perhaps itself.

        ``owner`` is whose it is, any text; ``kept`` says that such owners are kept a place (admins).
        """
        guest = self._guests.get(number)
        if guest is None:
            return ()
        if guest.state == "known" and (guest.owner, guest.kept) == (owner, kept):
            self._owned[owner].move_to_end(guest)
            return ()
        self._leave(guest)
        guest.state, guest.owner, guest.kept = "known", owner, kept
        self._enter(guest)
        return tuple(self._make_way(guest))

    def refused(self, number: int) -> tuple[Guest, ...]:
        """What the peer has proven counts no more: it is a stranger again. Returns whoever is to be cut for it."""
        guest = self._guests.get(number)
        if guest is None or guest.state != "known":
            return ()
        cut: list[Guest] = []
        if self._strange(guest.address) >= self.limits.strangers_per_address:
            cut = self._displace(guest.address)
        elif self.count_strangers() >= self.limits.strangers:
            cut = self._displace(None)
        self._leave(guest)
        guest.state, guest.since = "opening", self._clock.monotonic()
        self._enter(guest)
        return tuple(cut)

    def forget(self, owner: str, but: int = 0) -> tuple[Guest, ...]:
        """Take out everything an owner has, except the connection ``but``; for one that may do nothing any more."""
        found = [guest for guest in self._owned.get(owner, ()) if guest.number != but]
        return tuple(self._drop(guest, "owner-forgotten") for guest in found)

    def count_owned(self, owner: str) -> int:
        """How many known connections an owner has."""
        return len(self._owned.get(owner, ()))

    def left(self, guest: Guest) -> None:
        """The connection is gone."""
        if guest.closed:
            return
        guest.closed = True
        self._leave(guest)
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

    def _make_way(self, guest: Guest) -> Iterator[Guest]:
        """Take out what is too much now that a guest is known."""
        if len(self._owned[guest.owner]) > self.limits.per_owner:
            yield self._drop(next(iter(self._owned[guest.owner])), "owner-displaced")
        for address in (None, guest.address):
            if not guest.closed and self._crowded(guest, address):
                yield self._drop(self._richest(guest, address), "known-displaced")

    def _crowded(self, guest: Guest, address: str | None) -> bool:
        """Whether known connections leave too few places, in all or of an address, now that this one is known."""
        most = self.limits.connections if address is None else self.limits.per_address
        spare = self.limits.spare(most)
        ordinary, kept = self._known[address, False], self._known[address, True]
        return ordinary + kept > most - (spare + 1) // 2 or (not guest.kept and ordinary > most - spare)

    def _richest(self, newest: Guest, address: str | None) -> Guest:
        """Return what was used longest ago of the owner that has most; where none has more, of the newest one's own.

        Owners that are kept a place give none up while there are others.
        """
        ordinary = self._known[address, False] > 0
        of: defaultdict[str, list[Guest]] = defaultdict(list)
        for guests in self._owned.values():
            for guest in guests:
                if address in (None, guest.address) and not (ordinary and guest.kept):
                    of[guest.owner].append(guest)
        return max(of.items(), key=lambda item: (len(item[1]), item[0] == newest.owner))[1][0]

    def _drop(self, guest: Guest, reason: str) -> Guest:
        self.dropped[reason] += 1
        self.left(guest)
        return guest

    def _enter(self, guest: Guest) -> None:
        if guest.state == "known":
            self._owned.setdefault(guest.owner, OrderedDict())[guest] = None
            for address in (None, guest.address):
                self._known[address, guest.kept] += 1
            return
        self._strangers[guest.state][guest] = None
        self._of_address[guest.address, guest.state][guest] = None

    def _leave(self, guest: Guest) -> None:
        if guest.state == "known":
            self._disown(guest)
            return
        self._strangers[guest.state].pop(guest, None)
        mine = self._of_address.get((guest.address, guest.state))
        if mine is not None:
            mine.pop(guest, None)
            if not mine:
                del self._of_address[guest.address, guest.state]

    def _disown(self, guest: Guest) -> None:
        mine = self._owned[guest.owner]
        del mine[guest]
        if not mine:
            del self._owned[guest.owner]
        for key in ((None, guest.kept), (guest.address, guest.kept)):
            self._known[key] -= 1
            if not self._known[key]:
                del self._known[key]


def _older(guests: OrderedDict[Guest, None], than: float) -> Iterator[Guest]:
    for guest in guests:
        if guest.since > than:
            return
        yield guest
