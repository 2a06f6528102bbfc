"""A cell's machine with everything around it simulated: disk, cluster, policy and hub, each of which may fail.

What is carried out for an effect is in halves, as in the real hands: what is durable first, then the cluster, then what
is durable of that. An agent may be killed between any two of them, and a newer item may come there. After each half the
invariants are checked (``_check``), and ``comes_to_rest`` says what has to be true once events stop.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

from agent.audit.interfaces import RefusalText
from agent.cells.machine import effects as do
from agent.cells.machine import events as on
from agent.cells.machine import rules
from agent.cells.machine.state import Hold, Kept, Life, Purpose
from cellward.wire.codec import DesiredItem, HubState

KEY = ("shop", "front", "dev")
#: Seconds a rollout may take.
DEADLINE = 100
#: Steps without an end are more than so many.
_LIMIT = 400


class KilledError(Exception):
    """The agent is killed here."""


@dataclass(frozen=True)
class Document:
    """A signed document: what the policy and the cluster make of it."""

    digest: str
    sequence: int
    kind: str = "release"
    allowed: bool = True
    needs_proof: bool = False
    healthy: bool = True
    fallback: str = ""
    breaks: bool = False
    sticky: bool = False
    prunes: bool = False
    greedy: bool = False
    job: bool = False

    @property
    def release(self) -> str:
        """Digest of what it runs."""
        return f"{self.digest}-release"


#: What authors have signed. ``bad`` is forged, ``old`` is below every other, ``half`` breaks in the middle, ``small``
#: prunes more than the limit until something of it is gone, ``greedy`` needs more of a quota than is free, ``job``
#: has a job that completes.
DOCUMENTS = {
    one.digest: one
    for one in (
        Document("old", 1),
        Document("one", 2),
        Document("two", 3, needs_proof=True),
        Document("denied", 4, allowed=False),
        Document("bad", 5, kind="forged"),
        Document("half", 6, breaks=True),
        Document("ill", 7, healthy=False),
        Document("back", 8, healthy=False, fallback="one-release"),
        Document("unproved", 9, allowed=False, needs_proof=True),
        Document("end", 10, kind="end", sticky=True),
        Document("small", 11, prunes=True),
        Document("greedy", 12, greedy=True),
        Document("job", 13, job=True),
        Document("new", 14),
    )
}


@dataclass
class Disk:
    """What survives a kill."""

    kept: Kept = field(default_factory=lambda: Kept(KEY, deadline=DEADLINE))
    accepted: DesiredItem | None = None
    floor: str = ""


@dataclass
class Cluster:
    """What runs."""

    runs: str = ""
    whole: bool = True
    isolated: bool = False
    closed: bool = False
    going: int = 0


class Simulated:
    """One agent with one cell; ``kill_in`` counts the halves until it is killed, ``comes_in`` until an item comes."""

    def __init__(self) -> None:
        self.disk, self.cluster = Disk(), Cluster()
        self.full = self.down = self.hubless = self.broken = False
        self.policy: int | None = 1
        self.signed = ""
        self.at, self.viewed = 1000.0, 0.0
        self.crowded = self.used_up = self.callee_away = self.edge_closed = False
        self.remembered = ""
        self.receipts: list[tuple[str, bool]] = []
        self.kill_in = self.comes_in = 0
        self.coming: DesiredItem | None = None
        self.newest: DesiredItem | None = None
        self.revision = 0
        self._tokens = 0
        self._trace: list[str] = []
        self._decided_on: int | None = None
        self._end_verified = False
        self._forget()

    # -- what happens -------------------------------------------------------------------------------------------------

    def item(self, digest: str, state: HubState = "run") -> DesiredItem:
        """Return what the hub would list."""
        self.revision += 1
        return DesiredItem(self.revision, *KEY, digest, (), state)

    def comes(self, item: DesiredItem) -> None:
        """Hand an item over."""
        self.newest = item
        self._tell(on.ItemCame(self._sight(), item))

    def reconsider(self) -> None:
        """Policy, guards or the view changed."""
        self._tell(on.Reconsider(self._sight()))

    def passes(self, seconds: float) -> None:
        """Let time pass."""
        self.at += seconds
        if not self.down:
            self.viewed += seconds

    def gone(self) -> None:
        """Let everything that was deleted go."""
        self.cluster.going = False
        self._keep(going=False, durable=not self.full)

    def turn(self) -> None:
        """Do what the machine asks for until it asks for nothing; a killed agent starts again."""
        for _ in range(_LIMIT):
            try:
                effects = self._tell(self._look())
                if not effects:
                    due = rules.due_at(self.life)
                    assert due is None or due > self.at, "it wakes again and again for nothing"
                    return
                while effects:
                    effects = self._carry_out(effects)
            except KilledError:
                self._forget()
        raise AssertionError("it does not come to rest")

    def _forget(self) -> None:
        self.kept = self.disk.kept
        self.life = Life(self.kept)
        self._tell(on.Loaded(self._sight(), self.disk.accepted))
        if self.newest is not None:
            # What the hub listed is durable before anybody acts on it.
            self._tell(on.ItemCame(self._sight(), self.newest))

    # -- the driver ---------------------------------------------------------------------------------------------------

    def _tell(self, event: on.Event) -> tuple[do.Effect, ...]:
        self.life, effects = rules.step(self.life, event)
        if self.life.work is None:
            self._trace, self._end_verified = [], False
        return effects

    def _sight(self) -> on.Sight:
        self._tokens += 1
        why = self.signed
        if self.policy is None:
            why = "no policy" if self.kept.quarantined else ""
        return on.Sight(
            self.at, 1.0, str(self._tokens), self.kept, None if self.down else self.viewed, why,
            (self.cluster.runs, self.cluster.whole, self.crowded), self.used_up,
        )  # fmt: skip

    def _look(self) -> on.Look:
        document = next((one for one in DOCUMENTS.values() if one.release == self.kept.release), None)
        ill = document is not None and (not document.healthy or not self.cluster.whole)
        unhealthy = ("Deployment/x: not ready",) if ill else ()
        return on.Look(
            self._sight(),
            on.Outlook(unhealthy=unhealthy, jobs_done=self._job_is_new(), edges_differ=self._edge_differs()),
        )

    def _edge_differs(self) -> bool:
        """A caller may be there before what it calls: its edge is closed for as long as nobody offers it."""
        return bool(self.cluster.runs) and self.edge_closed != self.callee_away

    def _job_is_new(self) -> bool:
        done = any(one.job and one.release == self.cluster.runs for one in DOCUMENTS.values()) and self.cluster.whole
        return done and self.remembered != self.cluster.runs

    def _carry_out(self, effects: tuple[do.Effect, ...]) -> tuple[do.Effect, ...]:
        following: tuple[do.Effect, ...] = ()
        for effect in effects:
            if not isinstance(effect, do.Report):
                following = self._tell(self._outcome(effect))
        return following

    def _outcome(self, effect: do.Effect) -> on.Event:
        steps = getattr(self, "_" + type(effect).__name__.lower())(effect)
        while True:
            try:
                next(steps)
            except StopIteration as end:
                self._check()
                made: Callable[[on.Sight], on.Event] = end.value
                return made(self._sight())
            self._check()
            self._half()
            if rules.must_stop(self.life):
                return on.Superseded(self._sight())

    def _half(self) -> None:
        self.kill_in -= 1
        if self.kill_in == 0:
            raise KilledError
        self.comes_in -= 1
        if self.comes_in == 0 and self.coming is not None:
            item, self.coming = self.coming, None
            self.comes(item)

    # -- effects: each yields between its halves, and returns how its outcome is made ----------------------------------

    def _narrow(self, effect: do.Narrow) -> Iterator[None]:
        if effect.work.item.hub_state == "hold":
            return (yield from self._opened(on.Narrowed))
        if self.cluster.isolated and not (self.kept.quarantined and self.cluster.closed):
            self._keep(quarantined=True, durable=not self.full)
            yield
            if self.down:
                return _failed("kube/unavailable")
            self.cluster.closed = True
            yield
            self._keep()
        return on.Narrowed

    def _lift(self, effect: do.Lift) -> Iterator[None]:
        in_force = self.disk.floor in {"", effect.work.item.deployment_digest}
        return (yield from self._opened(lambda seen: on.Lifted(seen, in_force)))

    def _opened(self, made: Callable[[on.Sight], on.Event]) -> Iterator[None]:
        if self.kept.quarantined:
            if self.full:
                return _failed("spool/full")
            if self.down:
                return _failed("kube/unavailable")
            self.cluster.closed = False
            yield
            self._keep(quarantined=False)
        return made

    def _verify(self, effect: do.Verify) -> Iterator[None]:
        digest = effect.work.item.deployment_digest
        document, known = DOCUMENTS[digest], self.disk.floor == digest
        yield
        if self.policy is None:
            return _failed("policy/no-verified-set")
        if self.hubless and not known:
            return _failed("cell/document-missing")
        if document.kind == "forged":
            return _failed("document/no-valid-signature", passing=False)
        if self.disk.floor and document.sequence < DOCUMENTS[self.disk.floor].sequence:
            return _failed("document/older-sequence", passing=False)
        self._end_verified = document.kind == "end"
        return on.VerifiedEnd if self._end_verified else on.VerifiedRelease

    def _recall(self, effect: do.Recall) -> Iterator[None]:
        yield
        if self.policy is None or self.down:
            return _failed("policy/no-verified-set")
        named = DOCUMENTS[effect.work.item.deployment_digest].fallback
        return on.VerifiedRelease if named else on.NoFallback

    def _recordfailure(self, effect: do.RecordFailure) -> Iterator[None]:
        yield
        return on.FailureRecorded

    def _taketurn(self, effect: do.TakeTurn) -> Iterator[None]:
        yield
        return on.TurnTaken

    def _decide(self, effect: do.Decide) -> Iterator[None]:
        document, again = DOCUMENTS[effect.work.item.deployment_digest], "prove" in self._trace
        yield
        if self.down or self.policy is None or (self.full and not _back(effect)):
            return _failed("kube/unavailable" if self.down else "spool/full")
        if document.needs_proof and not again:
            return lambda seen: on.Allowed(seen, if_proved=True)
        if not document.allowed and not _back(effect):
            return lambda seen: on.Denied(seen, (RefusalText("policy/denied", "no"),))
        if document.prunes and self.crowded and not _back(effect):
            return lambda seen: on.Denied(seen, (RefusalText("apply/prune-needs-confirmation", "too many"),))
        self._trace.append("decide")
        self._decided_on = self.policy
        return on.Allowed

    def _isolate(self, effect: do.Isolate) -> Iterator[None]:
        if self.down or (self.full and not _back(effect)):
            return _failed("kube/unavailable")
        yield
        self.cluster.isolated = True
        self._trace.append("isolate")
        return on.Isolated

    def _prove(self, effect: do.Prove) -> Iterator[None]:
        yield
        if self.down or (self.full and not _back(effect)):
            return _failed("kube/unavailable")
        self._trace.append("prove")
        return lambda seen: on.Proved(seen, changed=False)

    def _tryout(self, effect: do.TryOut) -> Iterator[None]:
        yield
        if DOCUMENTS[effect.work.item.deployment_digest].greedy and self.used_up and not _back(effect):
            return _failed("kube/quota", passing=False)
        return _failed("kube/unavailable") if self.down else on.DryRun

    def _apply(self, effect: do.Apply) -> Iterator[None]:
        work, back = effect.work, _back(effect)
        document = DOCUMENTS[work.item.deployment_digest]
        self._check_apply(document, back=back)
        if self._decided_on != self.policy:
            return _failed("apply/policy-changed")
        if not back:
            if self.full:
                return _failed("spool/full")
            assert _sequence(self.disk.floor) <= document.sequence, "V1: a floor would fall"
            self.disk.floor = document.digest
            yield
            self.disk.accepted = work.item
            self._tell(on.Accepted(self._sight(), work.item))
            yield
        release = document.fallback if back else document.release
        if (self.kept.deployment, self.kept.release, self.kept.applied) != (document.digest, release, False):
            self._keep(
                deployment=document.digest, release=release, applied=False, ending="", fallback=back,
                rollout_started=str(self.at), durable=not self.full,
            )  # fmt: skip
        if self.full and not back:
            return _failed("spool/full")
        yield
        if self.down:
            return _failed("kube/unavailable")
        self.cluster.runs, self.cluster.whole = release, False
        yield
        if self.broken and document.breaks and not back:
            return _failed("kube/quota", passing=False)
        assert self.life.fresh is None or self.life.fresh.hub_state == "run", "V13: narrowing waits for a release"
        self.cluster.whole = True
        yield
        if self.full and not back:
            return _failed("spool/full")
        # What is finished after its rollout was given up has its time to become healthy too.
        self._keep(applied=True, rollout_started=self.kept.rollout_started or str(self.at))
        return on.Applied

    def _remove(self, effect: do.Remove) -> Iterator[None]:
        document = DOCUMENTS[effect.work.item.deployment_digest]
        assert self._end_verified, "V14: something ends without a tombstone"
        if self.down or self.policy is None or self.full:
            return _failed("spool/full")
        if self.kept.deployment != document.digest:
            self.disk.floor, self.disk.accepted = document.digest, effect.work.item
            self._tell(on.Accepted(self._sight(), effect.work.item))
            yield
            self._keep(deployment=document.digest, release="", settled_release="", applied=False, ending="cell",
                       rollout_started="", fallback=False)  # fmt: skip
            yield
            self.cluster.going = document.sticky and bool(self.cluster.runs)
            self.cluster.runs, self.cluster.whole = "", True
            self._keep(going=self.cluster.going)
        yield
        if self.kept.going:
            return lambda seen: on.EndWaits(seen, (RefusalText("apply/deletion-pending", "not gone"),))
        self._keep(applied=True)
        return on.Ended

    def _send(self, effect: do.Send) -> Iterator[None]:
        if self.full and effect.answer.refusals:
            return _failed("spool/full")
        yield
        answer = effect.answer
        self.receipts.append((answer.item.deployment_digest, not answer.refusals))
        return lambda seen: on.Answered(seen, answer)

    def _closerollout(self, effect: do.CloseRollout) -> Iterator[None]:
        yield
        settled = self.kept.release if effect.outcome == "done" else self.kept.settled_release
        self._keep(rollout_started="", settled_release=settled)
        yield
        return on.Noted

    def _rememberjobs(self, effect: do.RememberJobs) -> Iterator[None]:
        yield
        if self.full:
            return _failed("spool/full")
        self.remembered = self.cluster.runs
        return on.Noted

    def _judgeedges(self, effect: do.JudgeEdges) -> Iterator[None]:
        yield
        if self.full or self.down:
            return _failed("spool/full" if self.full else "kube/unavailable")
        self.edge_closed = self.callee_away
        yield
        return on.Noted

    def _dropdocuments(self, effect: do.DropDocuments) -> Iterator[None]:
        yield
        return on.Noted

    def _keep(self, *, durable: bool = True, **changes: object) -> None:
        self.kept = replace(self.kept, **changes)  # type: ignore[arg-type]
        if durable:
            self.disk.kept = self.kept

    # -- what has to hold ---------------------------------------------------------------------------------------------

    def _check(self) -> None:
        """V9 and V10 in every moment: nothing runs without isolation."""
        assert self.cluster.isolated or not self.cluster.runs, "V9: something runs that is not isolated"

    def _check_apply(self, document: Document, *, back: bool) -> None:
        trace = self._trace
        assert "decide" in trace, "V8: nobody decided on it"
        assert document.kind == "release", "V14: an end is applied"
        assert document.allowed or back, "V8: it is not allowed"
        assert {"isolate", "prove"} <= set(trace), "V9: nobody isolated or proved it"
        assert trace.index("isolate") < trace.index("prove"), "V9: it was proved before it was isolated"
        decided = len(trace) - 1 - trace[::-1].index("decide")
        assert decided > trace.index("prove") or not document.needs_proof, "V9: nobody decided on the proof"
        # A hub that holds a newer deployment stops that one. If it also kept what runs from going back to the fallback
        # that its author signed, a hub could keep a failed release running by listing another (V11, V13).
        item, held = self.life.item, self.life.hold
        newer_held = held is Hold.HOLD and item is not None and item.deployment_digest != document.digest
        assert held is Hold.RUN or (back and newer_held), "what is withheld is written"

    def comes_to_rest(self) -> None:
        """Stop all faults, let time pass, and say what has to be true then."""
        told = self.down or self.policy is None  # that either is back is an event, that a disk has room is none
        self.full = self.down = self.hubless = self.broken = self.crowded = self.used_up = False
        self.kill_in = self.comes_in = 0
        if self.coming is not None:
            self.comes(self.coming)
            self.coming = None
        self.policy = self.policy or 1
        if told:
            self.reconsider()
        for _ in range(60):
            self.turn()
            if self.cluster.going:
                self.gone()
                continue
            due = rules.due_at(self.life)
            if due is None:
                break
            self.passes(max(0.0, due - self.at))
        else:
            raise AssertionError(f"it never comes to rest: {self.life}")
        self._check_rest()

    def _check_rest(self) -> None:
        life, kept, newest = self.life, self.kept, self.newest
        assert life.work is None
        assert not life.owed.answers, "V13: a receipt is owed"
        assert not self._edge_differs(), "V11: an edge is closed to who is there, or open to nobody"
        assert not self._job_is_new(), "V11: a job that completed would run again after a restart"
        assert kept == self.disk.kept, "V13: what is in force is not on disk"
        withheld = bool(self.signed) or (newest is not None and newest.hub_state != "run")
        assert self.cluster.whole or withheld, "V11: half a release is left"
        assert not (self.signed and self.cluster.isolated) or self.cluster.closed, "V8: signed quarantine is not kept"
        if newest is None:
            assert kept.deployment == "", "V14: something came of nothing"
        elif not withheld:
            self._check_newest(newest, DOCUMENTS[newest.deployment_digest])
        elif newest.hub_state == "quarantine" and self.cluster.isolated:
            assert self.cluster.closed, "V13: quarantine is not in force"

    def _check_newest(self, item: DesiredItem, document: Document) -> None:
        kept, runs = self.kept, self.cluster.runs
        refused = self.life.obstacle is not None and not self.life.obstacle.waiting
        told = [accepted for digest, accepted in self.receipts if digest == item.deployment_digest]
        assert told, "V13: nobody was told"
        assert not self.cluster.closed, "what is not withheld is closed"
        if refused:
            wrong = document.kind == "forged" or not document.allowed
            assert wrong or document.sequence < _sequence(self.disk.floor), "V11: it is refused for nothing"
            assert not told[-1], "V13: the hub was told otherwise"
            return
        assert kept.deployment == item.deployment_digest, "V1: it was not accepted"
        assert kept.applied, "V1, V11: what was accepted is not finished"
        assert document.allowed, "V8: it is not allowed"
        if document.kind == "end":
            assert runs == "", "V14: an end left something"
        elif document.fallback:
            assert (runs, told[-1]) == (document.fallback, False), "V11: it does not go back to its fallback"
        else:
            assert runs == document.release, "V11: something else runs"
            assert told[-1] == document.healthy, "V13: the hub was told otherwise"
        assert max(Counter(self.receipts).values()) <= self.revision + 20, "V13: receipts are repeated"


def _sequence(digest: str) -> int:
    return DOCUMENTS[digest].sequence if digest else 0


def _back(effect: do.WorkEffect) -> bool:
    return effect.work.purpose in {Purpose.FALLBACK, Purpose.RETURN}


def _failed(code: str, *, passing: bool = True) -> Callable[[on.Sight], on.Event]:
    return lambda seen: on.Failed(seen, (RefusalText(code, "it does not come through"),), passing)
