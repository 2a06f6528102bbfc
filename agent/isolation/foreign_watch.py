"""Watches policies of network plugins beside our own, and says of which cells they make the isolation unknown.

Most clusters have one plugin and few of these kinds: one that is not there is asked for again now and then. One that
cannot be read counts as selecting every cell, and so does one that discovery has in another version than we know.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

import structlog

from agent.audit.interfaces import Entry, RecorderPort
from agent.isolation.errors import FOREIGN_POLICY
from agent.isolation.foreign import FOREIGN, ForeignKind, Place, selecting
from agent.kube.errors import KUBE_NOT_FOUND, KUBE_THROTTLED, KUBE_UNAVAILABLE
from agent.kube.interfaces import JSONObject, KubeApi, WatchEvent, WatchType
from cellward.cells.conditions import CellCondition
from cellward.errors import CellwardError
from cellward.runtime.clock import Timer
from cellward.runtime.health import HealthRegistry

_log = structlog.get_logger()

#: Condition of the agent.
CONDITION: Final = "foreign-isolation"
#: How often a kind that is not there is asked for again, seconds.
ABSENT_SECONDS: Final = 30.0
_SHOWN: Final = 3
_NO_ANSWER: Final = (KUBE_UNAVAILABLE.code, KUBE_THROTTLED.code)
_NOT_YET: Final = "they were not looked at yet"


class ForeignPolicies:
    """What is known of them.

    Args:
        kube: the cluster.
        recorder: records every policy that begins to select a cell.
        health: gets the condition ``foreign-isolation``.
        timer: waits for kinds that are not there.
        places: returns the namespaces of all cells, as they are.
        on_change: called when something of it changed.
        absent_seconds: how often a kind that is not there is asked for.
    """

    def __init__(
        self,
        kube: KubeApi,
        recorder: RecorderPort,
        health: HealthRegistry,
        timer: Timer,
        places: Callable[[], tuple[Place, ...]],
        on_change: Callable[[], None],
        absent_seconds: float = ABSENT_SECONDS,
    ) -> None:
        self._kube, self._recorder, self._health, self._timer = kube, recorder, health, timer
        self._places, self._on_change, self._absent_seconds = places, on_change, absent_seconds
        self._seen: dict[ForeignKind, dict[tuple[str, str], JSONObject]] = {}
        #: What is being listed again, by kind; until that is whole, what was seen before still counts.
        self._listed: dict[ForeignKind, dict[tuple[str, str], JSONObject]] = {}
        #: Kinds that nobody looked at yet, or that cannot be read, and why.
        self._unread = dict.fromkeys(FOREIGN, _NOT_YET)
        self._told: set[str] = set()

    @property
    def synced(self) -> bool:
        """Whether every kind was looked at once."""
        return _NOT_YET not in self._unread.values()

    def selecting(self, place: Place) -> tuple[CellCondition, ...]:
        """Return what makes the isolation of a cell unknown."""
        if not self.synced:
            return (CellCondition(FOREIGN_POLICY.code, "policies of network plugins", _NOT_YET),)
        found = [
            CellCondition(FOREIGN_POLICY.code, f"{kind.api_version} {kind.kind}", f"it cannot be read: {why}")
            for kind, why in self._unread.items()
        ]
        for kind, policies in self._seen.items():
            for (namespace, name), policy in sorted(policies.items()):
                if selecting(kind, policy, place):
                    subject = f"{kind.kind}/{namespace}/{name}" if namespace else f"{kind.kind}/{name}"
                    text = f"{kind.api_version}: it may be about pods of this cell, so its isolation is unknown"
                    found.append(CellCondition(FOREIGN_POLICY.code, subject, text))
        return tuple(found)

    async def run(self) -> None:
        """Watch every kind until cancelled."""
        async with asyncio.TaskGroup() as group:
            for kind in FOREIGN:
                group.create_task(self._watch(kind), name=f"foreign-{kind.kind}")

    async def _watch(self, kind: ForeignKind) -> None:
        while True:
            await self._while_there(kind)
            await self._timer.sleep(self._absent_seconds)

    async def _while_there(self, kind: ForeignKind) -> None:
        """Follow a kind until it turns out not to be there."""
        events = self._kube.watch(kind.api_version, kind.kind)
        try:
            async for event in events:
                gone = event.type is WatchType.INTERRUPTED and event.code == KUBE_NOT_FOUND.code
                if gone:
                    await self._gone(kind)
                elif not self._take(kind, event):
                    continue
                await self._changed()
                if gone:
                    return
        finally:
            close = getattr(events, "aclose", None)
            if close is not None:
                await close()

    async def _gone(self, kind: ForeignKind) -> None:
        """Take it that a kind is not there; one that is there in another version alone cannot be read."""
        try:
            versions = await self._kube.served_versions(kind.api_version, kind.kind)
        except CellwardError as error:
            # Nobody said what is there: what was known of it still counts, but where we are refused.
            if error.code not in _NO_ANSWER:
                self._unread[kind] = error.message
            return
        self._seen.pop(kind, None)
        self._listed.pop(kind, None)
        self._unread.pop(kind, None)
        if versions:
            self._unread[kind] = f"the cluster serves it as {', '.join(versions)}"

    def _take(self, kind: ForeignKind, event: WatchEvent) -> bool:
        """Take an event; return whether it changed anything."""
        if event.type is WatchType.INTERRUPTED:
            # An API server that is away says nothing about what is there; one that refuses us hides it.
            if event.code == KUBE_UNAVAILABLE.code or self._unread.get(kind) == event.reason:
                return False
            self._unread[kind] = event.reason
        elif event.type is WatchType.RESTARTED:
            self._listed[kind] = {}
            return False
        elif event.type is WatchType.RESUMED:
            return self._unread.pop(kind, None) is not None
        elif event.type is WatchType.SYNCED:
            self._seen[kind] = self._listed.pop(kind, {})
            self._unread.pop(kind, None)
        else:
            metadata = event.object["metadata"]
            key = (str(metadata.get("namespace", "")), str(metadata["name"]))
            known = self._listed[kind] if kind in self._listed else self._seen.setdefault(kind, {})
            if event.type is WatchType.DELETED:
                known.pop(key, None)
            else:
                known[key] = event.object
            return kind not in self._listed and kind not in self._unread
        return True

    async def _changed(self) -> None:
        await self.judge()
        self._on_change()

    async def judge(self) -> None:
        """Set the condition, and record what is new; call it too when cells have come or gone."""
        if not self.synced:
            return
        by_policy: dict[str, list[str]] = {}
        for place in self._places():
            for one in self.selecting(place):
                by_policy.setdefault(one.subject, []).append(place.name)
        told = [f"{policy} may be about {cells[0]}" for policy, cells in sorted(by_policy.items())[:_SHOWN]]
        code = FOREIGN_POLICY.code if by_policy else ""
        self._health.set(CONDITION, ok=not by_policy, code=code, message="; ".join(told))
        for policy in sorted(set(by_policy) - self._told):
            reason = f"it may be about {', '.join(by_policy[policy][:_SHOWN])}"
            _log.error("foreign-policy", policy=policy, reason=reason)
            entry = Entry("fence.finding", policy, "finding", code=FOREIGN_POLICY.code, reason=reason)
            await self._recorder.record_or_count(entry)
        self._told = set(by_policy)
