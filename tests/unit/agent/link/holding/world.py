"""A hub that certifies, locks and goes away, a disk, a token file, a clock, and a process that may be killed anywhere.

``Violation`` says which invariant did not hold. The rules are given: a broken variant must be found.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from agent.link import holding as machine
from agent.link.identity import LinkIdentity
from tests.fakes.walks import Violation, must

Step = Callable[[machine.State, machine.Event], machine.Result]
LIFE = 3600
HUBS = ("h1", "h2")
NAME = "eu-1"
#: Waits after which an agent with a willing hub and a good token has a channel.
PATIENCE = 8
_SECONDS = {machine.Until.SOON: 10, machine.Until.LONG: 300}


class Killed(Exception):
    """The process ends here."""


class No(Exception):
    """The hub or the disk said no."""

    def __init__(self, failure: machine.Failure, *, spent: bool = False) -> None:
        super().__init__(failure.value)
        self.failure, self.spent = failure, spent


@dataclass
class Hub:
    """One hub: the generation in use, the one after it, tokens by the key that spent them."""

    name: str
    current: tuple[int, int] = (0, 0)
    following: tuple[int, int] | None = None
    tokens: dict[str, int] = field(default_factory=dict)
    away: bool = False
    locked: bool = False
    #: Nothing it issued is in force: only a new invitation helps.
    forgot: bool = False
    #: Whether the generation of the last join was shown yet; until then the one before is refused and no copy.
    shown: bool = True

    def certify(self, generation: int, key: int) -> int:
        """Renew or recover; raises Violation for what would lock a cluster as copied (V7)."""
        if self.away:
            raise No(machine.Failure.AWAY)
        if self.locked or self.forgot or (generation < self.current[0] and not self.shown):
            raise No(machine.Failure.PERSON)
        if self.following is not None and generation == self.following[0]:
            self.current, self.following = self.following, None
        if generation != self.current[0]:
            raise Violation(f"V7: generation {generation} is shown, {self.current[0]} is in use")
        if self.following is not None and self.following[1] != key:
            raise Violation("V7: two keys for one generation")
        self.shown = True
        self.following = (self.current[0] + 1, key)
        return self.following[0]

    def join(self, token: str, key: int) -> int:
        """Spend a token; the same key may ask again (V6)."""
        if self.away:
            raise No(machine.Failure.AWAY)
        if token not in self.tokens or self.tokens[token] not in {0, key}:
            raise No(machine.Failure.PERSON, spent=True)
        if self.locked:
            raise No(machine.Failure.PERSON)
        if self.tokens[token] == 0:
            self.tokens[token] = key
            newest = self.following if self.following is not None else self.current
            self.current, self.following = (newest[0] + 1, key), None
            self.forgot = self.shown = False
        return self.current[0]


@dataclass
class World:
    """See the module's text; ``stored`` and ``pending`` are what the agent has on disk."""

    step: Step = machine.step
    now: datetime = datetime(2030, 1, 1, tzinfo=UTC)
    hubs: dict[str, Hub] = field(default_factory=lambda: {name: Hub(name) for name in HUBS})
    installed: str = HUBS[0]
    token: str = ""
    stored: LinkIdentity | None = None
    pending: int = 0
    keys: int = 0
    disk_full: bool = False
    state: machine.State = field(default_factory=machine.State)
    channel: LinkIdentity | None = None
    wait: machine.Wait | None = None
    well: bool = False
    fuse: int | None = None
    #: What the oracle knows.
    spent: set[str] = field(default_factory=set)
    asked: list[machine.Call] = field(default_factory=list)
    refused: bool = False

    def __post_init__(self) -> None:
        """The process starts."""
        self.boot()

    # -- what may happen -----------------------------------------------------------------------------------------------

    def boot(self) -> None:
        """The process starts over its files."""
        self.state = machine.State(frozenset({self.installed}))
        self.channel, self.wait, self.well, self.fuse, self.refused = None, None, False, None, False
        self.spent.clear()
        had = self.stored
        if self.due() and had is not None:
            must(not self.asked, "V1: a start waits for a hub")

    def due(self) -> bool:
        """The wait is over; False when the process ended instead."""
        if self.wait is not None:
            self.pass_time(self._seconds(self.wait))
        return self.go_on()

    def go_on(self) -> bool:
        """The machine goes on at once, as with a new token."""
        self.wait, self.asked, self.refused = None, [], False
        new = bool(self.token) and self.token != self.state.tried
        try:
            self._work(machine.Due(self._at()))
        except Killed:
            self.boot()
            return False
        must(self.wait is not None, "it goes on for ever, or never")
        held = self.state.identity
        usable = held is not None and held.not_after > self.now and not self._foreign(held)
        if usable and self.refused and new:
            must(machine.Call.JOIN in self.asked, "a new token is left lying")
        if not usable and self.refused and self.wait is not None:
            must(self.wait.until is machine.Until.LONG, "V6: what a person must change is asked for all the time")
        if self.channel is not None:
            must(self.channel.not_after > self.now, "V4: a channel with an expired certificate")
        return True

    def pass_time(self, seconds: float) -> None:
        """Time passes and nobody looks."""
        self.now += timedelta(seconds=seconds)

    def invite(self, hub: str) -> None:
        """Somebody gives a new token of a hub."""
        self.token = f"token-{sum(len(one.tokens) for one in self.hubs.values()) + 1}"
        self.hubs[hub].tokens[self.token] = 0
        if self.wait is not None and self.wait.until is machine.Until.LONG:
            self.go_on()

    def restart(self, hub: str) -> None:
        """Somebody installs the agent for a hub, and it starts again."""
        self.installed = hub
        self.boot()

    # -- the process ---------------------------------------------------------------------------------------------------

    def _work(self, event: machine.Event) -> None:
        self.state, effects = self.step(self.state, event)
        for effect in effects:
            outcome = self._carry_out(effect)
            if outcome is not None:
                must(len(self.asked) < 4, "V6: a hub is asked again and again")
                self._work(outcome)

    def _carry_out(self, effect: machine.Effect) -> machine.Event | None:
        self._burn()
        match effect:
            case machine.Load():
                return machine.Loaded(self._at(), self.stored)
            case machine.Ask(call, name):
                return self._ask(call, name)
            case machine.Install(identity):
                must(identity.not_after > self.now, "V4: a channel with an expired certificate")
                must(not self._foreign(identity), "V4: a channel to a hub that was left")
                must(identity == self.stored, "V5: a channel with an identity that is not durable")
                self.channel = identity
            case machine.Suspend():
                self.channel = None
            case machine.Tell(code):
                self.well = not code
                must(not self.well or self.channel is not None, "it is said to be well and has no channel")
            case machine.Wait():
                self.wait = effect
        return None

    def _ask(self, call: machine.Call, name: str | None) -> machine.Event:
        self.asked.append(call)
        held = self.state.identity
        must(held is None or name == held.name, "V3: the hub may change the name")
        try:
            identity = self._certified(call, held)
        except No as no:
            self.refused = no.failure is machine.Failure.PERSON
            if no.spent:
                self.spent.add(self.token)
            return machine.Failed(self._at(), call, no.failure, "x/no", "no", no.spent)
        self.refused = False
        return machine.Got(self._at(), identity)

    def _certified(self, call: machine.Call, held: LinkIdentity | None) -> LinkIdentity:
        """What an answer brings: the key is durable first, then asked for, then the identity is durable."""
        hub = self.hubs[self.installed]
        if not self.pending:
            if self.disk_full:
                raise No(machine.Failure.PASSES)
            self.keys += 1
            self.pending = self.keys
        self._burn()
        if call is machine.Call.JOIN or held is None:
            must(bool(self.token), "V6: a hub is shown no token")
            must(self.token not in self.spent, "V6: a token that is no good is shown again")
            generation = hub.join(self.token, self.pending)
        else:
            must(not self._foreign(held), "V4: a hub is asked that was left")
            expired = held.not_after <= self.now
            must(expired == (call is machine.Call.RECOVER), "V4: renewed with an expired certificate")
            generation = hub.certify(held.generation, self.pending)
        self._burn()
        if self.disk_full:
            raise No(machine.Failure.PASSES)
        now = int(self.now.timestamp())
        self.stored = LinkIdentity(
            str(self.pending), "", "", "", "", NAME, generation, now, now + LIFE, authorities=self.installed
        )
        self.pending = 0
        self._burn()
        return self.stored

    def _burn(self) -> None:
        if self.fuse is not None:
            self.fuse -= 1
            if self.fuse < 0:
                raise Killed

    def _at(self) -> machine.Moment:
        return machine.Moment(self.now, self.token)

    def _foreign(self, identity: LinkIdentity) -> bool:
        return identity.authorities != self.installed

    def _seconds(self, wait: machine.Wait) -> float:
        held = self.state.identity
        if wait.until is not machine.Until.HALF_LIFE:
            return _SECONDS[wait.until]
        if held is None or self._foreign(held):
            return 0
        return max(0.0, held.received_unix + held.lifetime / 2 - self.now.timestamp())

    # -- rest ----------------------------------------------------------------------------------------------------------

    def settle(self) -> None:
        """A willing hub and a new token: there is a channel soon, and from then on nothing but renewals."""
        self.fuse, self.disk_full = None, False
        for hub in self.hubs.values():
            hub.away = hub.locked = False
        self.invite(self.installed)
        for _ in range(PATIENCE):
            self.due()
        for _ in range(3):
            self.due()
            must(self.channel is not None and self.well, "it does not come to rest")
            must(self.asked == [machine.Call.RENEW], "V5: it is not renewed at half of its life")
