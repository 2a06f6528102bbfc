"""Foreign policies while their kind is listed again: what was seen counts until the new list is whole (V9)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from agent.isolation.foreign import FOREIGN, Place
from agent.isolation.foreign_watch import CONDITION, ForeignPolicies
from agent.kube.errors import KUBE_FORBIDDEN, KUBE_NOT_FOUND, KUBE_UNAVAILABLE
from agent.kube.interfaces import WatchEvent, WatchType
from cellward.errors import CellwardError
from cellward.runtime.health import HealthRegistry
from tests.fakes.clock import ManualClock
from tests.fakes.recorder import ListRecorder

PLACE = Place("shop--web--dev", {"cellward.dev/cell": "web"})
WATCHED = FOREIGN[0]
ABSENT = WatchEvent(WatchType.INTERRUPTED, {}, "it is not there", KUBE_NOT_FOUND.code)


def _policy(name: str) -> dict[str, Any]:
    spec = {"subject": {"namespaces": {}}}
    return {"apiVersion": WATCHED.api_version, "kind": WATCHED.kind, "metadata": {"name": name}, "spec": spec}


class _Kube:
    """A cluster with one kind of foreign policies; each event is sent when the one before was taken."""

    def __init__(self) -> None:
        self.events: asyncio.Queue[WatchEvent] = asyncio.Queue()
        #: What discovery says of that kind when it is asked: versions, or the error raised.
        self.discovered: tuple[str, ...] | CellwardError = ()

    async def watch(self, api_version: str, kind: str, *, label_selector: str = "") -> AsyncIterator[WatchEvent]:
        del label_selector
        if (api_version, kind) != (WATCHED.api_version, WATCHED.kind):
            yield ABSENT
            return
        while True:
            event = await self.events.get()
            yield event
            self.events.task_done()

    async def served_versions(self, api_version: str, kind: str) -> tuple[str, ...]:
        if (api_version, kind) != (WATCHED.api_version, WATCHED.kind):
            return ()
        if isinstance(self.discovered, CellwardError):
            raise self.discovered
        return self.discovered

    async def send(self, *events: WatchEvent) -> None:
        for event in events:
            self.events.put_nowait(event)
        await self.events.join()


def made(kube: _Kube, clock: ManualClock, health: HealthRegistry, told: Callable[[], None]) -> ForeignPolicies:
    """What is watched of a cluster in which one cell is."""
    return ForeignPolicies(
        kube,  # type: ignore[arg-type]  # what is asked of a cluster here
        ListRecorder(),
        health,
        clock,
        lambda: (PLACE,),
        told,
    )


async def test_v9_a_policy_counts_while_its_kind_is_listed_again() -> None:
    """At no event of a new list is the isolation of a selected cell believed; one that went meanwhile is forgotten."""
    kube, health, clock = _Kube(), HealthRegistry(ManualClock()), ManualClock()
    told: list[bool] = []

    def note() -> None:
        told.append(bool(found.selecting(PLACE)))

    found = made(kube, clock, health, note)
    running = asyncio.create_task(found.run())
    begin, end = WatchEvent(WatchType.RESTARTED, {}), WatchEvent(WatchType.SYNCED, {})
    first, second = (WatchEvent(WatchType.ADDED, _policy(name)) for name in ("a", "b"))
    await kube.send(begin, first, second, end)
    assert {one.subject for one in found.selecting(PLACE)} == {f"{WATCHED.kind}/a", f"{WATCHED.kind}/b"}
    told.clear()
    for event in (begin, second, end):
        await kube.send(event)
        told.append(bool(found.selecting(PLACE)))
    assert told
    assert all(told)
    assert {one.subject for one in found.selecting(PLACE)} == {f"{WATCHED.kind}/b"}
    await kube.send(begin, end)
    assert found.selecting(PLACE) == ()
    assert [one.ok for one in health.get() if one.name == CONDITION] == [True]
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


@pytest.mark.parametrize(
    ("discovered", "said"),
    [
        ((), []),
        (("v1",), ["it cannot be read: the cluster serves it as v1"]),
        (("v1", "v1beta1"), ["it cannot be read: the cluster serves it as v1, v1beta1"]),
        (KUBE_FORBIDDEN("discovery is closed"), ["it cannot be read: discovery is closed"]),
        (KUBE_UNAVAILABLE("nobody there"), ["they were not looked at yet"]),
    ],
    ids=["no version", "another version", "other versions", "discovery refused", "discovery away"],
)
async def test_v9_a_kind_of_another_version_is_not_absent(discovered: Any, said: list[str]) -> None:
    """Only discovery says that a kind is not there: a 404 says that of one version."""
    kube, clock, told = _Kube(), ManualClock(), asyncio.Event()
    kube.discovered = discovered
    found = made(kube, clock, HealthRegistry(clock), told.set)
    running = asyncio.create_task(found.run())
    await kube.send(WatchEvent(WatchType.RESTARTED, {}))
    told.clear()
    kube.events.put_nowait(ABSENT)
    async with asyncio.timeout(30):
        await told.wait()
    assert [one.message for one in found.selecting(PLACE)] == said
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_v9_a_policy_counts_while_nobody_says_what_is_there() -> None:
    """A 404 with discovery away takes nothing back that was seen."""
    kube, clock, told = _Kube(), ManualClock(), asyncio.Event()
    found = made(kube, clock, HealthRegistry(clock), told.set)
    running = asyncio.create_task(found.run())
    begin, end = WatchEvent(WatchType.RESTARTED, {}), WatchEvent(WatchType.SYNCED, {})
    await kube.send(begin, WatchEvent(WatchType.ADDED, _policy("a")), end)
    kube.discovered = KUBE_UNAVAILABLE("nobody there")
    told.clear()
    kube.events.put_nowait(ABSENT)
    async with asyncio.timeout(30):
        await told.wait()
    assert [one.subject for one in found.selecting(PLACE)] == [f"{WATCHED.kind}/a"]
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
