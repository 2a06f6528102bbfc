"""What becomes of the agent's identity, as a pure machine: ``step(state, event)`` gives the next state and the effects.

Join, renewal, recovery, and how long is waited between tries. No clock, no files, no hub: each event says what time it
is and which join token lies there, what is done is an effect, and what became of it is the next event.
``agent.link.enrolment`` carries the effects out.

Invariants: there is no channel with a certificate that has expired, nor to a hub that this agent was taken away from
(V4); an identity is replaced by one that is durable, for the same name (V5); a token that the hub will never take is
not shown again (V6); what only a person can change is asked for rarely, and at once when there is a new token; with an
identity on disk nothing waits for a hub (V1). The table of transitions is docs/reference/identity.md.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from datetime import datetime
from enum import Enum

from agent.link.errors import CERTIFICATE_EXPIRED, NO_TOKEN, OTHER_HUB
from agent.link.identity import LinkIdentity


class Call(Enum):
    """What a hub is asked for."""

    JOIN = "join"
    RENEW = "renew"
    RECOVER = "recover"


class Failure(Enum):
    """What can be done about a failure: the hub is away, it passes by itself, or a person has to act."""

    AWAY = "away"
    PASSES = "passes"
    PERSON = "person"


class Until(Enum):
    """How long is waited: half of the certificate's life, a back-off, or minutes and no longer than for a new token."""

    HALF_LIFE = "half-life"
    SOON = "soon"
    LONG = "long"


@dataclass(frozen=True, slots=True)
class State:
    """What the agent knows of its identity.

    Attributes:
        named: key ids of the hub authorities in the settings.
        loaded: whether the store was read.
        identity: the identity held, durable; none before the first join.
        tried: digest of the token that was shown last.
        spent: whether the hub will never take that one.
        refused: what the hub said of a recovery, until the join that follows it is over.
    """

    named: frozenset[str] = frozenset()
    loaded: bool = False
    identity: LinkIdentity | None = None
    tried: str = ""
    spent: bool = False
    refused: str = ""


@dataclass(frozen=True, slots=True)
class Moment:
    """When something happens, and the digest of the join token that lies there; empty for none."""

    now: datetime
    token: str = ""


# -- events ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Due:
    """The agent has started, or a wait is over."""

    at: Moment


@dataclass(frozen=True, slots=True)
class Loaded:
    """What the store holds; none for nothing, or for an identity of another realm."""

    at: Moment
    identity: LinkIdentity | None


@dataclass(frozen=True, slots=True)
class Got:
    """The hub issued an identity, and it is durable."""

    at: Moment
    identity: LinkIdentity


@dataclass(frozen=True, slots=True)
class Failed:
    """A call failed, or what it brought could not be kept; ``spent``: the hub will never take the token shown."""

    at: Moment
    call: Call
    failure: Failure
    code: str
    reason: str
    spent: bool = False


@dataclass(frozen=True, slots=True)
class Unreadable:
    """The store cannot be read."""

    at: Moment
    failure: Failure
    code: str
    reason: str


Event = Due | Loaded | Got | Failed | Unreadable

# -- effects -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Load:
    """Read the store: ``Loaded`` or ``Unreadable``."""


@dataclass(frozen=True, slots=True)
class Ask:
    """Call the hub, check what it issues and make it durable: ``Got`` or ``Failed``.

    The key of the request is durable before it is sent. ``name`` is the name held so far, which no hub may change.
    """

    call: Call
    name: str | None


@dataclass(frozen=True, slots=True)
class Install:
    """Open a channel with an identity, in place of the one before."""

    identity: LinkIdentity


@dataclass(frozen=True, slots=True)
class Suspend:
    """Have no channel."""

    identity: LinkIdentity


@dataclass(frozen=True, slots=True)
class Tell:
    """Set the condition; no code is well."""

    code: str = ""
    reason: str = ""


@dataclass(frozen=True, slots=True)
class ForgetFailures:
    """Begin with short waits again."""


@dataclass(frozen=True, slots=True)
class Wait:
    """Say ``Due`` after a while; the last effect, and there is always one."""

    until: Until


Effect = Load | Ask | Install | Suspend | Tell | ForgetFailures | Wait
Result = tuple[State, tuple[Effect, ...]]

# -- rules -------------------------------------------------------------------------------------------------------------


def is_foreign(identity: LinkIdentity, named: frozenset[str]) -> bool:
    """Whether whoever installs this agent has taken it away from the hub that issued this identity.

    That is said out of band, by another authority in the settings: no hub can bring it about. Keys are compared, so
    that an authority that was renewed, or one that is added for a while, changes nothing. The authorities that the
    hub sent say nothing here: it could have its agents leave, with nowhere to go.
    """
    known = frozenset(identity.authorities.split())
    return bool(named and known) and known.isdisjoint(named)


def step(state: State, event: Event) -> Result:
    """Return the next state and what is to be done, in this order; raises for no event."""
    return _rule(event, state)


@functools.singledispatch
def _rule(event: Event, state: State) -> Result:
    raise NotImplementedError(type(event).__name__)


@_rule.register
def _due(event: Due, state: State) -> Result:
    identity = state.identity
    if not state.loaded:
        return state, (Load(),)
    if identity is None or is_foreign(identity, state.named):
        return _join(state, event.at)
    if identity.not_after <= event.at.now:
        return state, (Suspend(identity), Ask(Call.RECOVER, identity.name))
    return state, (Ask(Call.RENEW, identity.name),)


@_rule.register
def _loaded(event: Loaded, state: State) -> Result:
    state = replace(state, loaded=True)
    return _join(state, event.at) if event.identity is None else _held(state, event.identity, event.at)


@_rule.register
def _got(event: Got, state: State) -> Result:
    return _held(state, event.identity, event.at)


@_rule.register
def _failed(event: Failed, state: State) -> Result:
    identity, person = state.identity, event.failure is Failure.PERSON
    if event.call is Call.RENEW and person and _is_new(state, event.at):
        # Recovery of an agent whose certificates were taken out of force while they still live.
        return _join(state, event.at)
    if event.call is Call.RECOVER and person:
        return _join(replace(state, refused=event.reason or event.code), event.at)
    if event.call is Call.JOIN:
        state = replace(state, spent=event.spent)
    return _given_up(state, event, identity)


@_rule.register
def _unreadable(event: Unreadable, state: State) -> Result:
    long = event.failure is Failure.PERSON
    return state, (Tell(event.code, event.reason), Wait(Until.LONG if long else Until.SOON))


def _join(state: State, at: Moment) -> Result:
    """Spend the token, unless there is none, or one that the hub will never take."""
    name = state.identity.name if state.identity is not None else None
    if not at.token:
        return _given_up(state, Failed(at, Call.JOIN, Failure.PERSON, NO_TOKEN.code, NO_TOKEN.title), state.identity)
    if state.spent and state.tried == at.token:
        reason = "the hub will never take the join token that lies there"
        return _given_up(state, Failed(at, Call.JOIN, Failure.PERSON, NO_TOKEN.code, reason), state.identity)
    return replace(state, tried=at.token, spent=False), (Ask(Call.JOIN, name),)


def _is_new(state: State, at: Moment) -> bool:
    return bool(at.token) and at.token != state.tried


def _held(state: State, identity: LinkIdentity, at: Moment) -> Result:
    """Hold an identity, open a channel with it if it may be used, and wait until it is to be renewed."""
    state = replace(state, identity=identity, refused="")
    wait = Wait(Until.HALF_LIFE)
    if is_foreign(identity, state.named):
        # Stolen, maybe: it would renew for ever, and name any address.
        reason = "the settings name the authority of another hub; this agent has not joined it yet"
        return state, (Suspend(identity), Tell(OTHER_HUB.code, reason), ForgetFailures(), wait)
    if identity.not_after <= at.now:
        reason = f"the certificate expired at {identity.not_after.isoformat()}"
        return state, (Suspend(identity), Tell(CERTIFICATE_EXPIRED.code, reason), ForgetFailures(), wait)
    return state, (Install(identity), Tell(), ForgetFailures(), wait)


def _given_up(state: State, event: Failed, identity: LinkIdentity | None) -> Result:
    """Say what is wrong, where it matters yet, and wait."""
    refused, state = state.refused, replace(state, refused="")
    long = Wait(Until.LONG if event.failure is Failure.PERSON else Until.SOON)
    if identity is None:
        return state, (Tell(event.code, event.reason), long)
    left = (identity.not_after - event.at.now).total_seconds()
    if left <= 0 and refused:
        ended = identity.not_after.isoformat()
        reason = f"the certificate expired at {ended}; recovery: {refused}; join: {event.reason}"
        return state, (Tell(CERTIFICATE_EXPIRED.code, reason), long)
    tell = Tell(event.code, f"the certificate cannot be renewed: {event.reason}")
    if left <= 0 or is_foreign(identity, state.named):
        return state, (Suspend(identity), tell, long)
    # A lock may be lifted while the certificate still lives: that is not missed by minutes. Half of the life is left
    # when renewal begins: an outage of minutes is no reason for alarm.
    quiet = event.failure is Failure.AWAY and left >= identity.lifetime * 0.25
    return state, (Wait(Until.SOON),) if quiet else (tell, Wait(Until.SOON))
