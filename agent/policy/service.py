"""PolicyService: holds the last verified set and the engine that decides on it.

Order of a refresh: verify in a staged copy, compile, start new engines, canary, make the set durable, switch, stop
the old engines after their queries ended. Whatever fails before the switch leaves the old set deciding (V8, V16).
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING

import structlog

from agent.policy import gate
from agent.policy.bridge import SourceFetch
from agent.policy.engine import CONDITION, Engine
from agent.policy.engines import Engines
from agent.policy.gate import BoundBundle
from agent.policy.store import PolicyStore
from cellward.documents.errors import CLOCK_AHEAD
from cellward.errors import CellwardError, Unavailable
from cellward.policy.bundle import read_bundle
from cellward.policy.capabilities import digest
from cellward.policy.compile import Compiler
from cellward.policy.errors import (
    DOES_NOT_COMPILE,
    ENGINE_NOT_STARTABLE,
    FOREIGN_REALM,
    NO_VERIFIED_SET,
    STATE_CORRUPT,
)
from cellward.policy.floors import PolicyFloors
from cellward.policy.model import Binding, Decision, DecisionInput, Evaluator, Staleness, VerifiedSet, staleness_of

if TYPE_CHECKING:
    from pathlib import Path

    from agent.policy.interfaces import ContentSource, FloorKeeper, TimeKeeper
    from cellward.documents.facts import ClusterFacts
    from cellward.policy.client import Candidate
    from cellward.runtime.clock import Clock
    from cellward.runtime.health import HealthRegistry

#: Condition: there is a verified set and the last refresh was not refused.
SET_CONDITION = "policy-set"
#: Conditions of the engines that only warn or watch; green where a set needs none.
ADVISORY_CONDITIONS = tuple(f"{CONDITION}-advisory-{number + 1}" for number in range(gate.MAX_ADVISORY))
_NICE = 10
#: Condition: the clock has not jumped ahead.
CLOCK_CONDITION = "clock"
_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class EngineFacts:
    """What Hello says of the engine."""

    version: str
    capabilities_digest: str


@dataclass(frozen=True, slots=True)
class _Active:
    verified: VerifiedSet
    engines: Engines
    shape: tuple[object, ...]


class _SwitchingEvaluator:
    """Asks whatever is active at the moment of the call; one attribute read, so a switch is atomic."""

    def __init__(self, service: PolicyService) -> None:
        self._service = service

    async def decide(self, request: DecisionInput) -> Decision:
        active = self._service.active
        if active is None:
            raise self._service.missing
        if request.realm != active.verified.realm:
            raise FOREIGN_REALM(f"the request belongs to realm {request.realm}")
        request = replace(request, time=self._service.not_before(request.time))
        return gate.refusal_without_bindings(request) or await active.engines.decide(request)


class PolicyService:
    """Accepts policy, switches engines, answers decisions.

    Attributes:
        findings: what was wrong with the state at start; for the audit record.
        lost: whether the set on disk was damaged, older or gone; a new epoch then (V1).
        on_switch: called with the new set after each switch; awaited one by one, must not raise.
    """

    def __init__(  # noqa: PLR0913 - one composition, by keyword
        self,
        *,
        state_dir: Path,
        root: bytes,
        realm: str,
        facts: ClusterFacts,
        opa_binary: Path,
        clock: Clock,
        health: HealthRegistry,
        floors: FloorKeeper | None = None,
        time_floor: TimeKeeper | None = None,
    ) -> None:
        self._store = PolicyStore(state_dir / "policy", root=root, realm=realm)
        self._realm = realm
        self._facts = facts
        self._binary = opa_binary
        self._clock = clock
        self._health = health
        self._kept_floors = floors
        self._time_floor = time_floor
        self._compiler = Compiler(opa_binary)
        self._lock = asyncio.Lock()
        self.active: _Active | None = None
        self._missing = NO_VERIFIED_SET("no policy set was ever verified on this cluster")
        #: Why no engine can be started, while there is none.
        self._not_startable: CellwardError | None = None
        self._evaluator = _SwitchingEvaluator(self)
        self.findings: tuple[CellwardError, ...] = ()
        self.lost = False
        self.on_switch: list[Callable[[VerifiedSet], Awaitable[None]]] = []

    @property
    def current(self) -> VerifiedSet | None:
        """The last verified set."""
        return None if self.active is None else self.active.verified

    @property
    def missing(self) -> CellwardError:
        """Why there is no active set, while there is none: no engine that could decide comes first."""
        return self._not_startable or self._missing

    @property
    def evaluator(self) -> Evaluator:
        """Decides on the current set; valid over switches."""
        return self._evaluator

    @property
    def engine_pid(self) -> int | None:
        """Process id of the deciding engine, for diagnosis."""
        return None if self.active is None else self.active.engines.deciding.pid

    def staleness(self, now: datetime) -> Staleness | None:
        """How stale the current set is; None without a set. A clock that stepped back makes nothing fresher."""
        return None if self.current is None else staleness_of(self.current, self._facts, self.not_before(now))

    def not_before(self, now: datetime) -> datetime:
        """Return a time, or the floor of the clock when that is later."""
        floor = None if self._time_floor is None else self._time_floor.latest
        return now if floor is None else max(now, floor)

    async def _moment(self) -> datetime:
        """Return the time to accept by; raises document/clock-stepped-back.

        A full disk does not keep policy back: then the floor is the one from before (V13).
        """
        now = self._clock.now()
        if self._time_floor is None:
            return now
        try:
            moment = await self._time_floor.advance(now)
        except CellwardError as error:
            if not error.code.startswith("spool/"):
                raise
            moment = self.not_before(now)
        doubted = self._time_floor.doubted
        self._health.set(
            CLOCK_CONDITION, not doubted, CLOCK_AHEAD.code if doubted else "", CLOCK_AHEAD.title if doubted else ""
        )
        return moment

    async def engine_facts(self) -> EngineFacts:
        """Return version and capabilities digest of the engine; raises policy/engine-not-startable without one."""
        return EngineFacts(await self._compiler.version(), digest(await self._compiler.capabilities()))

    async def start(self) -> None:
        """Load the accepted set from disk, offline, and start the engine on it.

        Never raises for what is on disk or for a missing engine: findings and conditions say so, and nothing is
        allowed until a set verifies; an engine that does not start is tried again.
        """
        try:
            await self._start()
        except Exception as error:  # noqa: BLE001 - whatever is on disk, the agent starts, and allows nothing
            _log.exception("policy-start-failed")
            self._without(STATE_CORRUPT(f"the accepted policy cannot be used: {type(error).__name__}"))
        await self._try_engine()

    async def _try_engine(self) -> None:
        """See whether there is an engine at all while no set needs one, so that it is known before."""
        if self.active is not None:
            return
        try:
            await self._compiler.version()
        except CellwardError as error:
            self._no_engine(error)
        else:
            if self._not_startable is not None:
                self._not_startable = None
                self._health.set(CONDITION, True)  # noqa: FBT003

    def _no_engine(self, error: CellwardError) -> None:
        """Say that no engine can be started. One that decides on the set before still does, and says so itself."""
        if self.active is None:
            self._not_startable = error
            self._health.set(CONDITION, False, error.code, error.message)  # noqa: FBT003

    async def _start(self) -> None:
        with contextlib.suppress(CellwardError):
            await self._moment()  # reads the floor, for the decisions before the first refresh
        loaded = await asyncio.to_thread(self._store.load, self._wanted, await self._floors_elsewhere())
        await self._keep_floors()
        if loaded.verified is None:
            self.lost = loaded.finding is not None
            self._without(loaded.finding)
            return
        try:
            bound = self._bind(loaded.verified)
            engines = self._engines(loaded.verified, bound, checked=False)
        except CellwardError as error:
            self._without(error)
            return
        failure = await engines.start_what_starts()
        if failure is not None and failure.code == DOES_NOT_COMPILE.code:
            # It was accepted by an agent or an engine that allowed more; it does not decide here (V8).
            await engines.stop()
            self._without(failure)
            return
        self._switch(_Active(loaded.verified, engines, _shape(bound)))
        self._health.set(SET_CONDITION, True)  # noqa: FBT003

    def _without(self, finding: CellwardError | None) -> None:
        """Go on without a set: nothing is allowed until one verifies."""
        if finding is not None:
            _log.error("policy-state-finding", code=finding.code, reason=finding.message)
            self.findings = (*self.findings, finding)
            if finding.code == DOES_NOT_COMPILE.code:
                self._missing = finding
        said = self.findings[-1] if self.findings else NO_VERIFIED_SET("no policy set was verified yet")
        self._health.set(SET_CONDITION, False, said.code, said.message)  # noqa: FBT003 - the condition's value

    async def _floors_elsewhere(self) -> PolicyFloors | None:
        try:
            kept = None if self._kept_floors is None else await self._kept_floors.get()
            return None if kept is None else PolicyFloors.from_json(kept)
        except (CellwardError, ValueError) as error:
            _log.error("policy-floors-not-read", reason=str(error))  # those beside the set still hold
            return None

    async def _keep_floors(self) -> None:
        """Keep a copy of the floors elsewhere; without room for it the set is accepted all the same (V13)."""
        if self._kept_floors is None or not self._store.floors.roles:
            return
        try:
            await self._kept_floors.set(self._store.floors.to_json())
        except CellwardError as error:
            _log.error("policy-floors-not-kept", code=error.code, reason=error.message)

    def _switch(self, new: _Active) -> None:
        """Let a set decide; one assignment. Its engines tell the conditions, those before it no more."""
        old, self.active, self._not_startable = self.active, new, None
        if old is not None and old.engines is not new.engines:
            old.engines.mute()
        for condition in ADVISORY_CONDITIONS[len(new.engines.advisory) :]:
            self._health.set(condition, True)  # noqa: FBT003
        new.engines.speak()

    async def refresh(self, source: ContentSource) -> VerifiedSet | None:
        """Accept newer policy; return the new set, or None when nothing but the timestamp changed.

        Raises policy/*: the set accepted before still decides then, and its files and floors are untouched.
        """
        async with self._lock:
            try:
                return await self._refresh(source)
            except CellwardError as error:
                _log.warning("policy-refused", code=error.code, reason=error.message)
                if error.code == ENGINE_NOT_STARTABLE.code:
                    self._no_engine(error)
                    waits = f"newer policy is verified and waits for an engine: {error.message}"
                    self._health.set(SET_CONDITION, False, error.code, waits)  # noqa: FBT003
                if not isinstance(error, Unavailable):
                    self._health.set(SET_CONDITION, False, error.code, error.message)  # noqa: FBT003
                raise

    async def _refresh(self, source: ContentSource) -> VerifiedSet | None:
        await self._try_engine()
        now = await self._moment()
        candidate = await self._fetch(source, now)
        old, new = self.active, candidate.verified
        if old is not None and not self._store.changed(candidate):
            self._health.set(SET_CONDITION, True)  # noqa: FBT003
            return None
        bound = self._bind(new)
        shape = _shape(bound)
        if old is not None and old.shape == shape:
            await asyncio.to_thread(self._store.commit, candidate, now)
            await self._keep_floors()
            self._switch(_Active(new, old.engines, shape))
        else:
            engines = await self._activate(new, bound)
            try:
                allowed = digest(await self._compiler.capabilities())
                await asyncio.to_thread(self._store.commit, candidate, now, allowed)
            except BaseException:
                await engines.stop()
                raise
            await self._keep_floors()
            self._switch(_Active(new, engines, shape))
            if old is not None:
                await old.engines.stop()
        self._health.set(SET_CONDITION, True)  # noqa: FBT003
        _log.info("policy-accepted", snapshot=new.snapshot_version, targets=new.targets_version)
        if old is not None and _same_content(old.verified, new):
            return None
        for callback in tuple(self.on_switch):
            await callback(new)
        return new

    async def _fetch(self, source: ContentSource, now: datetime) -> Candidate:
        fetch = SourceFetch(source, 0 if self.current is None else self.current.snapshot_version)
        try:
            return await asyncio.to_thread(self._store.fetch, fetch, self._wanted, now)
        except asyncio.CancelledError:
            fetch.cancel()
            raise

    async def _activate(self, verified: VerifiedSet, bound: tuple[BoundBundle, ...]) -> Engines:
        engines = self._engines(verified, bound, checked=True)
        for engine in (engines.deciding, *engines.advisory):
            await self._check(engine.bound)
        await engines.start()
        return engines

    async def _check(self, group: Sequence[BoundBundle]) -> None:
        await self._compiler.check(gate.distinct(group), gate=gate.gate_module(group))

    async def _check_again(self, group: Sequence[BoundBundle]) -> None:
        """Compile what was accepted before, unless it was accepted under the very same capabilities."""
        if digest(await self._compiler.capabilities()) != self._store.capabilities_digest:
            await self._check(group)

    def _engines(self, verified: VerifiedSet, bound: tuple[BoundBundle, ...], *, checked: bool) -> Engines:
        """Return the engines of a set, not started; raises policy/roots-overlap."""
        canary = self._canary(verified)
        deciding, *advisory = [
            Engine(
                self._binary,
                group,
                canary,
                self._health,
                condition=condition,
                check=_nothing if checked else functools.partial(self._check_again, group),
                nice=0 if condition == CONDITION else _NICE,
            )
            for condition, group in zip((CONDITION, *ADVISORY_CONDITIONS), gate.divide(bound), strict=False)
        ]
        return Engines(deciding, advisory)

    def _wanted(self, binding: Binding) -> bool:
        return binding.selects(self._facts)

    def _bind(self, verified: VerifiedSet) -> tuple[BoundBundle, ...]:
        bundles = {path: read_bundle(data) for path, data in verified.bundles.items()}
        return tuple(
            BoundBundle(binding, bundles[binding.bundle]) for binding in verified.bindings if self._wanted(binding)
        )

    def _canary(self, verified: VerifiedSet) -> DecisionInput:
        return DecisionInput(
            time=self.not_before(self._clock.now()),
            realm=verified.realm,
            facts=self._facts,
            environment=self._facts.environments[0] if self._facts.environments else "canary",
            project="canary",
            cell="canary",
            release={"digest": "sha256:" + "0" * 64, "version": "0", "owner": "cellward"},
            deployment={"digest": "sha256:" + "0" * 64, "sequence": 1, "environments": list(self._facts.environments)},
            signers=(),
            isolation="unknown",
            objects=({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "canary", "namespace": "canary"}},),
        )

    async def close(self) -> None:
        """Stop the engine; nothing is decided afterwards."""
        active, self.active = self.active, None
        if active is not None:
            with contextlib.suppress(CellwardError):
                await active.engines.stop()


async def _nothing() -> None:
    return


def _shape(bound: tuple[BoundBundle, ...]) -> tuple[object, ...]:
    """Return what an engine was made for; while it is equal, a new set needs no new engine."""
    return tuple((entry.binding, entry.bundle.digest) for entry in bound)


def _same_content(old: VerifiedSet, new: VerifiedSet) -> bool:
    same_versions = (old.root_version, old.snapshot_version) == (new.root_version, new.snapshot_version)
    return same_versions and old.digests == new.digests
