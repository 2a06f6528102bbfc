"""Why what a cell runs does not run: from pods, events and workloads to conditions of the cell; pure.

Of a pod or an event no more is kept than is said of it: texts of other programs are cut, and their number is bounded
by whoever keeps them (``agent.cells.pods``).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from agent.kube.interfaces import ObjectRef
from agent.objects.errors import (
    CONTAINER_CRASHES,
    CONTAINER_NOT_STARTED,
    IMAGE_NOT_PULLED,
    OUT_OF_MEMORY,
    POD_NOT_ADMITTED,
    POD_NOT_SCHEDULED,
    START_GATE_SHUT,
    VOLUME_NOT_MOUNTED,
)
from agent.objects.health import health_of, is_done
from cellward.cells.conditions import CellCondition
from cellward.cells.gate import BOUND_SECONDS
from cellward.cells.gated import GATE

#: Most conditions of one cell, and most characters of what another program said.
MOST: Final = 16
_MOST_TEXT: Final = 400
#: Of a termination message, as the kubelet bounds it.
_MOST_RESULT: Final = 4096
#: For how long a container that runs again is said to have crashed.
_RECENT: Final = timedelta(minutes=10)
_IMAGE: Final = frozenset(
    {
        "ErrImagePull",
        "ImagePullBackOff",
        "InvalidImageName",
        "ErrImageNeverPull",
        "RegistryUnavailable",
        "ImageInspectError",
        "SignatureValidationFailed",
    }
)
#: What a container that waits for nothing special says.
_WAITING: Final = frozenset({"", "ContainerCreating", "PodInitializing"})
_CRASH_LOOP: Final = "CrashLoopBackOff"
_OOM: Final = "OOMKilled"
#: Events that say why a pod does not get as far as its containers.
_POD_EVENTS: Final = {
    "FailedMount": VOLUME_NOT_MOUNTED.code,
    "FailedAttachVolume": VOLUME_NOT_MOUNTED.code,
    "FailedMapVolume": VOLUME_NOT_MOUNTED.code,
    "FailedCreatePodSandBox": CONTAINER_NOT_STARTED.code,
    "NetworkNotReady": CONTAINER_NOT_STARTED.code,
}
#: What a controller says that may make no pod; a Deployment says it in its status.
_REFUSED: Final = "FailedCreate"
_MAKERS: Final = frozenset({"StatefulSet", "DaemonSet", "Job", "CronJob"})
#: Kinds of a cell that run pods.
WORKLOADS: Final = frozenset({"Deployment", *_MAKERS})
_OF_CRON_JOB: Final = re.compile(r"(.+)-[0-9]+\Z")
#: What is another one with each retry: the pod that was refused, and ids of sandboxes and containers.
_EACH_TRY: Final = (
    (re.compile(r'pods "[^"]*" is forbidden'), "pods are forbidden"),
    (re.compile(r"[0-9a-f]{64}"), "…"),
)
_BEGINNING: Final = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong with a pod; ``at`` is when it happened, for what is over by itself after a while."""

    code: str
    message: str
    at: datetime | None = None


@dataclass(frozen=True, slots=True)
class PodFacts:
    """What is kept of a pod.

    Attributes:
        uid: its uid.
        owner: kind and name of what made it.
        created: when it was made, to the second.
        failed: whether it is over, and failed.
        begins: whether a node has it, and its containers were not started yet.
        problems: what it says itself.
        open_seconds: how long it reached at first what is forbidden to it, as its start gate found; None without one.
    """

    uid: str
    owner: tuple[str, str]
    created: datetime
    failed: bool
    begins: bool
    problems: tuple[Problem, ...]
    open_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class EventFacts:
    """What is kept of an event: what it is about, and what it says of it."""

    kind: str
    name: str
    uid: str
    reason: str
    message: str
    at: datetime


def trouble_of(live: Mapping[str, Any]) -> str | None:
    """Return None when nobody has to look at the pods of a workload; else why it may make none, mostly empty."""
    kind = live.get("kind")
    if kind not in WORKLOADS:
        return None
    if kind == "CronJob":
        return "" if (live.get("status") or {}).get("active") else None
    if kind == "Job" and is_done(live):
        return None
    if health_of(live).state == "ready":
        return None
    return next((_text(one) for one in _conditions(live, "ReplicaFailure", "True")), "")


def pod_facts(pod: Mapping[str, Any]) -> PodFacts:
    """Return what is kept of a pod."""
    metadata, spec, status = pod["metadata"], pod.get("spec") or {}, pod.get("status") or {}
    owners = [one for one in metadata.get("ownerReferences") or () if one.get("controller")]
    owner = (str(owners[0].get("kind")), str(owners[0].get("name"))) if owners else ("", "")
    failed = status.get("phase") == "Failed"
    containers = [*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())]
    images = {str(one.get("name")): str(one.get("image", "")) for one in _containers(spec)}
    problems = [found for one in containers for found in _of_container(one, images)]
    if failed and not containers and status.get("reason"):
        # A node that has the pod, and does not want it.
        problems.append(Problem(POD_NOT_ADMITTED.code, f"the node refuses it: {_text(status)}"))
    if not spec.get("nodeName"):
        unscheduled = _conditions(pod, "PodScheduled", "False")
        problems += [Problem(POD_NOT_SCHEDULED.code, _text(one)) for one in unscheduled]
    begins = (
        bool(spec.get("nodeName")) and status.get("phase", "Pending") == "Pending" and all(map(_begins, containers))
    )
    created = _time(metadata.get("creationTimestamp"))
    gate: Mapping[str, Any] = next(
        (one for one in status.get("initContainerStatuses") or () if one.get("name") == GATE), {}
    )
    return PodFacts(str(metadata.get("uid", "")), owner, created, failed, begins, tuple(problems), _open_seconds(gate))


def event_facts(event: Mapping[str, Any]) -> EventFacts | None:
    """Return what is kept of an event; None for one that says nothing of this."""
    about, reason = event.get("involvedObject") or {}, str(event.get("reason", ""))
    kind = str(about.get("kind", ""))
    if not (kind == "Pod" and reason in _POD_EVENTS) and not (kind in _MAKERS and reason == _REFUSED):
        return None
    times = (event.get("lastTimestamp"), (event.get("series") or {}).get("lastObservedTime"), event.get("eventTime"))
    at = max(_time(one) for one in times)
    return EventFacts(kind, str(about.get("name", "")), str(about.get("uid", "")), reason, _text(event), at)


def conditions_of_pods(
    troubled: Mapping[ObjectRef, str], pods: Iterable[PodFacts], events: Iterable[EventFacts], now: datetime
) -> tuple[CellCondition, ...]:
    """Return the conditions of workloads that are in trouble: each with code, workload, and what is wrong.

    Args:
        troubled: the workloads to look at, each with what ``trouble_of`` said.
        pods: pods of the cell, also those of other workloads.
        events: events of the cell.
        now: UTC.
    """
    names = {(ref.kind, ref.name): ref for ref in troubled}
    made: dict[ObjectRef, list[PodFacts]] = {ref: [] for ref in troubled}
    for pod in pods:
        ref = _workload(names, *pod.owner)
        if ref is not None:
            made[ref].append(pod)
    told: dict[tuple[ObjectRef, str, str], int] = {}
    for ref, why in troubled.items():
        if why:
            told[(ref, POD_NOT_ADMITTED.code, f"its pods are refused: {why}")] = 0
    said = list(events)
    for ref, message in _refused(names, made, said):
        told[(ref, POD_NOT_ADMITTED.code, f"its pods are refused: {message}")] = 0
    for ref, found in made.items():
        for pod in _telling(found):
            for problem in (*_still(pod, now), *_events_of(pod, said, now)):
                key = (ref, problem.code, problem.message)
                told[key] = told.get(key, 0) + 1
    return tuple(
        CellCondition(code, str(ref), message if count < 2 else f"{message} ({count} pods)")
        for (ref, code, message), count in sorted(told.items())[:MOST]
    )


# -- pods --------------------------------------------------------------------------------------------------------------


def _containers(spec: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [*(spec.get("initContainers") or ()), *(spec.get("containers") or ())]


def _begins(found: Mapping[str, Any]) -> bool:
    """Whether a container was never tried: whatever its pod waits for comes before all of them."""
    state = found.get("state") or {}
    waiting = str((state.get("waiting") or {}).get("reason") or "")
    return not found.get("lastState") and waiting in _WAITING and not state.keys() & {"running", "terminated"}


def _of_container(found: Mapping[str, Any], images: Mapping[str, str]) -> Iterator[Problem]:
    """Yield what one container's status says; its texts hold nothing that changes from one retry to the next."""
    state, name = found.get("state") or {}, str(found.get("name", ""))
    # The status has the image as the node resolved it; what was released is in the spec.
    what = f"container {name}, image {images.get(name) or found.get('image', '')}"
    waiting = state.get("waiting") or {}
    reason = str(waiting.get("reason", ""))
    if reason in _IMAGE:
        yield Problem(IMAGE_NOT_PULLED.code, f"{what}: {_text(waiting)}")
    elif reason == _CRASH_LOOP:
        yield _crash(what, (found.get("lastState") or {}).get("terminated") or {}, reason)
    elif reason not in _WAITING:
        yield Problem(CONTAINER_NOT_STARTED.code, f"{what}: {_text(waiting)}")
    else:
        # It ended a moment ago, or it runs again since then.
        running = "running" in state
        ended = state.get("terminated") or (running and (found.get("lastState") or {}).get("terminated")) or {}
        if ended.get("exitCode"):
            crash = _crash(what, ended)
            yield Problem(crash.code, crash.message, _time(ended.get("finishedAt")) if running else None)


def _open_seconds(gate: Mapping[str, Any]) -> float | None:
    """Return how long a start gate that let its pod go on found something open; a node may say anything (V16)."""
    ended = (gate.get("state") or {}).get("terminated") or {}
    try:
        lags = json.loads(str(ended.get("message") or "")[:_MOST_RESULT])["lag_ms"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    if ended.get("exitCode") != 0 or not isinstance(lags, list) or not lags:
        return None
    longest = 2 * BOUND_SECONDS * 1000
    return max(lags) / 1000 if all(type(one) is int and 0 <= one <= longest for one in lags) else None


def _crash(what: str, ended: Mapping[str, Any], reason: str = "") -> Problem:
    why = str(ended.get("reason") or reason or "Error")
    if why == _OOM:
        return Problem(OUT_OF_MEMORY.code, f"{what}: {_OOM}: it was killed for its use of memory")
    said = " ".join(str(ended.get("message") or "").split())[:_MOST_TEXT]
    if what.startswith(f"container {GATE},") and said:
        return Problem(START_GATE_SHUT.code, said)
    code = f", last with exit code {ended['exitCode']} ({why})" if "exitCode" in ended else ""
    return Problem(CONTAINER_CRASHES.code, f"{what}: {reason or why}: it ends{code}{': ' if said else ''}{said}")


def _telling(pods: list[PodFacts]) -> list[PodFacts]:
    """Leave out pods that failed before others were made in their place."""
    newest = max((pod.created for pod in pods if not pod.failed), default=_BEGINNING)
    last = max((pod.created for pod in pods if pod.failed), default=_BEGINNING)
    return [pod for pod in pods if not pod.failed or (pod.created == last and pod.created >= newest)]


def _still(pod: PodFacts, now: datetime) -> Iterator[Problem]:
    yield from (one for one in pod.problems if one.at is None or now - one.at < _RECENT)


# -- events ------------------------------------------------------------------------------------------------------------


def _events_of(pod: PodFacts, events: Iterable[EventFacts], now: datetime) -> Iterator[Problem]:
    """Yield why a pod does not begin; once it has, its events are history. What still holds is said again and again."""
    if pod.begins:
        recent = sorted((one for one in events if now - one.at < _RECENT), key=lambda one: one.at)
        newest = {one.reason: one for one in recent if (one.kind, one.uid) == ("Pod", pod.uid)}
        yield from (Problem(_POD_EVENTS[one.reason], one.message) for one in newest.values())


def _refused(
    names: Mapping[tuple[str, str], ObjectRef], made: Mapping[ObjectRef, list[PodFacts]], events: Iterable[EventFacts]
) -> Iterator[tuple[ObjectRef, str]]:
    """Yield which workloads may make no pods: what was said since the last one was made, the newest of each."""
    newest: dict[ObjectRef, EventFacts] = {}
    for event in sorted(events, key=lambda one: one.at):
        ref = _workload(names, event.kind, event.name) if event.reason == _REFUSED else None
        if ref is not None and all(pod.created <= event.at for pod in made[ref]):
            newest[ref] = event
    yield from ((ref, event.message) for ref, event in newest.items())


# -- fields ------------------------------------------------------------------------------------------------------------


def _workload(names: Mapping[tuple[str, str], ObjectRef], kind: str, name: str) -> ObjectRef | None:
    """Return the workload that owns what something made; a ReplicaSet, and a CronJob's Job, is named after it."""
    if kind == "ReplicaSet":
        return names.get(("Deployment", name.rpartition("-")[0]))
    scheduled = _OF_CRON_JOB.match(name) if kind == "Job" else None
    return names.get((kind, name)) or (names.get(("CronJob", scheduled.group(1))) if scheduled else None)


def _conditions(obj: Mapping[str, Any], name: str, status: str) -> list[Mapping[str, Any]]:
    found = (obj.get("status") or {}).get("conditions") or ()
    return [one for one in found if one.get("type") == name and one.get("status") == status]


def _text(found: Mapping[str, Any]) -> str:
    """Return reason and message on one line, cut, and the same for each retry."""
    reason, message = str(found.get("reason") or ""), " ".join(str(found.get("message") or "").split())
    for changing, instead in _EACH_TRY:
        message = changing.sub(instead, message)
    return (f"{reason}: {message}" if reason and message else reason or message)[:_MOST_TEXT]


def _time(text: object) -> datetime:
    """Return a time of the API server; one that is none is the beginning of time."""
    try:
        found = datetime.fromisoformat(str(text or ""))
    except ValueError:
        return _BEGINNING
    return found if found.tzinfo is not None else found.replace(tzinfo=UTC)
