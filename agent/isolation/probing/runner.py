"""Makes the pods of a probe, reads what they measured, and takes them away again."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import structlog

from agent.isolation.interfaces import Evidence, MeasuredEdge, Passage
from agent.isolation.probing import ends, pods
from agent.isolation.probing.edges import (
    NO_COMPONENT,
    Neighbour,
    Pod,
    Surroundings,
    Target,
    callers,
    entrances,
    targets,
)
from agent.isolation.probing.judge import judge, may_hold_back, unmeasured
from agent.kube.errors import KUBE_FORBIDDEN, KUBE_NOT_FOUND
from agent.kube.interfaces import JSONObject, KubeApi, ObjectRef, WatchType
from cellward.cells import labels
from cellward.cells.network import NetworkIntent
from cellward.errors import CellwardError
from cellward.runtime.clock import Timer
from cellward.runtime.tasks import to_its_end

_log = structlog.get_logger()

#: How long a forbidden edge may be open at first, seconds: engines need up to a few.
SETTLE_SECONDS: Final = 10.0
#: A whole probe, seconds: an image may have to be pulled.
PROBE_SECONDS: Final = 60.0
#: Probes at once: each is a handful of pods.
AT_ONCE: Final = 4
#: Other cells that are looked at in one probe.
MAX_NEIGHBOURS: Final = 12
#: Nodes with pods of the cell that are measured by themselves, beside those the scheduler chose.
MAX_NODES: Final = 3
_MANAGER: Final = "cellward-prober"
#: Rights that were just granted are not everywhere at once: tries, and seconds between them.
_TRIES, _AGAIN = 20, 0.25
#: An edge, whether somebody is known to answer there, and how long it was open at first.
_Found = tuple[MeasuredEdge, bool, float | None]


class NotMeasuredError(Exception):
    """A probe could not be made; the text says why."""


@dataclass
class _Probe:
    """One probe while it runs."""

    network: NetworkIntent
    user: str
    name: str = field(default_factory=lambda: secrets.token_hex(4))
    made: list[ObjectRef] = field(default_factory=list)
    seen: dict[str, JSONObject] = field(default_factory=dict)
    news: asyncio.Condition = field(default_factory=asyncio.Condition)


class PodProber:
    """Measures a cell by pods in its namespace.

    Attributes:
        neighbours: returns the other cells as they were accepted; set by whoever knows them.

    Args:
        kube: the cluster.
        timer: time and sleep.
        image: of the prober, by digest.
        user_of: the account of a cell, by its namespace.
        around: what is around every cell; asked again for each probe.
        agent_namespace: where the agent runs.
        settle_seconds: how long a forbidden edge may be open at first.
    """

    def __init__(
        self,
        kube: KubeApi,
        timer: Timer,
        *,
        image: str,
        user_of: Callable[[str], str],
        around: Callable[[], Surroundings],
        agent_namespace: str = "cellward-system",
        settle_seconds: float = SETTLE_SECONDS,
    ) -> None:
        self.neighbours: Callable[[str], Sequence[NetworkIntent]] = lambda _: ()
        self._kube = kube
        self._timer = timer
        self._image = image
        self._user_of = user_of
        self._around = around
        self._agent_namespace = agent_namespace
        self._settle = settle_seconds
        self._places = asyncio.Semaphore(AT_ONCE)

    async def probe(self, network: NetworkIntent) -> Evidence:
        """Measure; never raises for a cluster that cannot be measured, that is ``unknown``."""
        probe = _Probe(network, self._user_of(network.namespace))
        async with self._places:
            try:
                async with asyncio.timeout(PROBE_SECONDS):
                    return await self._measure(probe)
            except TimeoutError:
                return unmeasured(self._timer.now(), f"it timed out after {PROBE_SECONDS:.0f} s; {_where(probe)}")
            except (NotMeasuredError, CellwardError) as error:
                return unmeasured(self._timer.now(), str(error))
            except Exception as error:  # noqa: BLE001 - V16: an object nobody foresaw must not end the agent
                _log.exception("probe-failed", namespace=network.namespace)
                return unmeasured(self._timer.now(), f"a fault of the agent ({type(error).__name__}), see its log")
            finally:
                await to_its_end(self._clear(probe), f"probe-{probe.name}-clear")

    async def _measure(self, probe: _Probe) -> Evidence:
        namespace = probe.network.namespace
        around = await self._surroundings(namespace)
        if not around.agent:
            raise NotMeasuredError("this agent does not run in the cluster, so nothing proves what comes into a cell")
        own = await self._pods_of(namespace)
        watching = asyncio.create_task(self._watch(probe), name=f"probe-{probe.name}-watch")
        try:
            answers = await self._make(probe, pods.responder(probe.name, namespace, self._image))
            address = await self._until(probe, watching, answers, pods.address_of)
            parts, left_out = callers(probe.network)
            work = [self._caller(probe, watching, part, around, address) for part in parts]
            *called, entered = await _together(*work, self._enter(probe.network, own, address))
            # Each node enforces by itself: those that run the cell count, wherever the scheduler put the first pods.
            seen = {edge.node for group, _ in called for edge, _, _ in group}
            nodes = sorted({pod.node for pod in own} - seen - {""})
            work = [self._caller(probe, watching, NO_COMPONENT, around, address, node) for node in nodes[:MAX_NODES]]
            called += await _together(*work)
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)
        found = [*(one for group, _ in called for one in group), *entered]
        lags = [lag for _, _, lag in found if lag is not None]
        return judge(
            [edge for edge, _, _ in found],
            at=self._timer.now(),
            sure=[sure for _, sure, _ in found],
            lag_seconds=max(lags, default=None),
            left_out=left_out + around.beyond + len(nodes[MAX_NODES:]) + sum(more for _, more in called),
        )

    async def _caller(
        self,
        probe: _Probe,
        watching: asyncio.Task[None],
        component: str,
        around: Surroundings,
        responder: str,
        node: str = "",
    ) -> tuple[list[_Found], int]:
        """Measure what a pod of one component can reach; return with it how many edges were left out."""
        wanted, left_out = targets(probe.network, component, around, responder)
        number = len(probe.made)
        job = pods.caller(
            probe.name, f"from-{number}", probe.network.namespace, self._image,
            component=component, wanted=wanted, settle_seconds=self._settle, node=node,
        )  # fmt: skip
        uid = await self._make(probe, job)

        def read(pod: Mapping[str, Any]) -> pods.Outcome | None:
            return pods.outcome_of(pod, uid, len(wanted))

        said = await self._until(probe, watching, uid, read)
        edges = zip(wanted, said.open, said.lag_seconds, strict=True)
        return [_edge(component, target, passed, lag, said.node) for target, passed, lag in edges], left_out

    async def _enter(self, network: NetworkIntent, own: Sequence[Pod], responder: str) -> list[_Found]:
        """Measure whether the agent, from its own namespace, can reach what runs in the cell."""
        wanted = entrances(network, own, responder)
        closed = await asyncio.gather(
            *(ends.is_closed(one.host, one.port, one.how, self._timer, self._settle) for one in wanted)
        )
        # An agent that may not send by itself finds everything closed.
        free = not await self._is_held_back()
        return [_entrance(one, shut=shut, free=free) for one, shut in zip(wanted, closed, strict=True)]

    async def _is_held_back(self) -> bool:
        """Whether a NetworkPolicy of the agent's own namespace may hold back what the agent sends."""
        found = await self._kube.list("networking.k8s.io/v1", "NetworkPolicy", namespace=self._agent_namespace)
        return any(may_hold_back(one) for one in found)

    async def _surroundings(self, namespace: str) -> Surroundings:
        """Return what is around, with the pods of other cells that are ready now."""
        around = self._around()
        known = list(self.neighbours(namespace))
        near = known[:MAX_NEIGHBOURS]
        neighbours = [Neighbour(network, await self._pods_of(network.namespace)) for network in near]
        return replace(
            around,
            neighbours=tuple(neighbours),
            reached=await ends.reached(around.foreign),
            beyond=len(known) - len(near),
        )

    async def _pods_of(self, namespace: str) -> tuple[Pod, ...]:
        """Return the ready pods of a cell, as its account sees them; none when it may not look."""
        user = self._user_of(namespace)
        try:
            found = await self._kube.list(
                "v1", "Pod", namespace=namespace, label_selector=labels.COMPONENT, as_user=user
            )
        except CellwardError:
            return ()
        return tuple(pod for one in found if (pod := pods.ready_pod_of(one)) is not None)

    # -- pods -----------------------------------------------------------------------------------------------------

    async def _make(self, probe: _Probe, job: JSONObject) -> str:
        """Make a Job; returns its uid."""
        probe.made.append(ObjectRef("batch/v1", "Job", job["metadata"]["namespace"], job["metadata"]["name"]))
        for turn in range(1, _TRIES + 1):
            try:
                made = await self._kube.apply(job, manager=_MANAGER, as_user=probe.user)
            except CellwardError as error:
                if error.code != KUBE_FORBIDDEN.code or turn == _TRIES:
                    raise
                await self._timer.sleep(_AGAIN)
            else:
                return str(made["metadata"]["uid"])
        raise AssertionError("the last try returns or raises")

    async def _watch(self, probe: _Probe) -> None:
        """Keep the pods of a probe as they are."""
        events = self._kube.watch(
            "v1", "Pod", namespace=probe.network.namespace, label_selector=f"{pods.LABEL}={probe.name}",
            as_user=probe.user,
        )  # fmt: skip
        async for event in events:
            if event.type in {WatchType.ADDED, WatchType.MODIFIED}:
                async with probe.news:
                    probe.seen[event.object["metadata"]["name"]] = event.object
                    probe.news.notify_all()

    async def _until(
        self, probe: _Probe, watching: asyncio.Task[None], job_uid: str, read: Callable[[Mapping[str, Any]], Any]
    ) -> Any:
        """Wait until a pod of a Job says something; raises NotMeasuredError when it never will."""
        while True:
            async with probe.news:
                own = [pod for pod in probe.seen.values() if pods.is_of(pod, job_uid)]
                if len(own) > 1:
                    raise NotMeasuredError("more than one pod says that it is of one Job, so none is believed")
                for pod in own:
                    if (said := read(pod)) is not None and said != "":
                        return said
                    if why := pods.trouble_of(pod) or pods.end_of(pod):
                        raise NotMeasuredError(f"pod {pod['metadata']['name']}: {why}")
                if watching.done():
                    watching.result()
                    raise NotMeasuredError("its pods cannot be watched")
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(1.0):
                        await probe.news.wait()

    async def _clear(self, probe: _Probe) -> None:
        for ref in probe.made:
            try:
                await self._kube.delete(ref, propagation="Background", as_user=probe.user)
            except CellwardError as error:
                # It ends by itself; an agent that was killed could not do it either.
                if error.code != KUBE_NOT_FOUND.code:
                    _log.warning("probe-not-cleared", job=str(ref), code=error.code, reason=error.message)


async def _together(*work: Coroutine[Any, Any, Any]) -> list[Any]:
    """Await all of them; when one fails, the others are ended before it is raised, so that they make nothing more."""
    tasks = [asyncio.create_task(one) for one in work]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _edge(component: str, target: Target, passed: bool, lag: float, node: str) -> _Found:
    measured: Passage = "open" if passed else "closed"
    edge = MeasuredEdge("egress", component, target.peer, target.protocol, target.port, target.expected, measured, node)
    return edge, target.sure, lag if target.expected == "closed" else None


def _entrance(target: Target, *, shut: bool, free: bool) -> _Found:
    """Return what the agent found; one that may not send knows only of what is open."""
    measured: Passage = "open" if not shut else "closed" if free else "unknown"
    edge = MeasuredEdge("ingress", target.peer, "the agent", target.protocol, target.port, "closed", measured, "")
    return edge, target.sure, None


def _where(probe: _Probe) -> str:
    if not probe.seen:
        return "no pod of it was placed"
    phases = {name: (pod.get("status") or {}).get("phase") for name, pod in probe.seen.items()}
    return ", ".join(f"{name} is {phase}" for name, phase in sorted(phases.items()))
