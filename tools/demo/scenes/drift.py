"""Somebody tampers with what runs; the agent takes back exactly the released state, additions too."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from tools.demo.kubectl import Kubectl
from tools.demo.narrate import Narrator, StepFailedError, wait_for

NAMESPACE = "boutique--cart--development"
DEPLOYMENT = "cartservice"
SERVICE = "redis-cart"
DENY = "default-deny"
_ALLOW_ALL = [{"op": "add", "path": "/spec/ingress", "value": [{}]}]


@dataclass(frozen=True)
class Tampering:
    """One way to tamper, and how to see that it is undone.

    Attributes:
        name: key in the summary.
        kind: kind of the object tampered with.
        target: name of the object tampered with.
        tamper: does it.
    """

    name: str
    kind: str
    target: str
    tamper: Callable[[Kubectl], None]


def _image(kube: Kubectl) -> None:
    path = "/spec/template/spec/containers/0/image"
    kube.patch("deployment", NAMESPACE, DEPLOYMENT, [{"op": "replace", "path": path, "value": "evil.example/miner:1"}])


def _sidecar(kube: Kubectl) -> None:
    extra = {"name": "sidecar", "image": "evil.example/listener:1"}
    kube.patch(
        "deployment", NAMESPACE, DEPLOYMENT, [{"op": "add", "path": "/spec/template/spec/containers/-", "value": extra}]
    )


TAMPERINGS = (
    Tampering("image changed", "deployment", DEPLOYMENT, _image),
    Tampering("sidecar added", "deployment", DEPLOYMENT, _sidecar),
    Tampering("Service deleted", "service", SERVICE, lambda kube: kube.delete("service", NAMESPACE, SERVICE)),
    Tampering(
        "allow-all rule added to a NetworkPolicy",
        "networkpolicy",
        DENY,
        lambda kube: kube.patch("networkpolicy", NAMESPACE, DENY, _ALLOW_ALL, as_agent=True),
    ),
    Tampering(
        "NetworkPolicy deleted",
        "networkpolicy",
        DENY,
        lambda kube: kube.delete("networkpolicy", NAMESPACE, DENY, as_agent=True),
    ),
)


def released_state(found: Mapping[str, Any] | None) -> object:
    """What the author decides of an object: its spec, without what the API server assigns."""
    if found is None or "deletionTimestamp" in found["metadata"]:
        return None
    assigned = {"clusterIP", "clusterIPs"}
    return {key: value for key, value in found.get("spec", {}).items() if key not in assigned}


def repaired_after(kube: Kubectl, tampering: Tampering) -> int:
    """Tamper and measure until the object is again what was released.

    Returns:
        Milliseconds from before the tampering call to the first look that shows the released state. The call and
        the looks are programs that take their time, so this is never less than what the repair really took.

    Raises:
        StepFailedError: the object was not there before, the tampering had no effect, or it was not undone in 15 s.
    """
    before = kube.get(tampering.kind, NAMESPACE, tampering.target)
    if before is None:
        raise StepFailedError(f"{tampering.kind} {tampering.target} is not there")
    begun = time.monotonic()
    tampering.tamper(kube)

    def undone() -> bool:
        now = kube.get(tampering.kind, NAMESPACE, tampering.target)
        if now is None or released_state(now) != released_state(before):
            return False
        touched = now["metadata"]["resourceVersion"] != before["metadata"]["resourceVersion"]
        return bool(touched or now["metadata"]["uid"] != before["metadata"]["uid"])

    wait_for(f"{tampering.name} to be undone", lambda: undone() or None, 15)
    return max(1, round((time.monotonic() - begun) * 1000))


def tamper_with_everything(kube: Kubectl, narrator: Narrator) -> dict[str, int]:
    """Try every tampering in turn and tell how long each took to be undone."""
    measured: dict[str, int] = {}
    for tampering in TAMPERINGS:
        with narrator.guarded(tampering.name):
            measured[tampering.name] = repaired_after(kube, tampering)
            narrator.good(f"{tampering.name}: undone after {measured[tampering.name]} ms")
    return measured
