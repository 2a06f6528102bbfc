"""Doors in the cluster itself: labels of a namespace that stop repairs or open isolation, and a lock that cuts."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping
from typing import Any

from tools.demo.kubectl import Kubectl
from tools.demo.narrate import StepFailedError, wait_for
from tools.demo.scenes.drift import DEPLOYMENT, NAMESPACE
from tools.demo.scenes.main_job import wait_ready
from tools.demo.stage import IMPOSTOR, Stage
from tools.demo.summary import Summary

_CLUSTER = "eu-1"
_POD_SECURITY = (
    ("pod-security.kubernetes.io/enforce", "privileged"),
    ("pod-security.kubernetes.io/enforce-version", "v1.20"),
)
_EVIL_IMAGE = "evil.example/miner:1"


def repair_not_blocked(stage: Stage, summary: Summary) -> None:
    """Loosen a cell's namespace as its administrator, then swap an image: is the image repaired all the same?"""
    kube, narrator = stage.kubectl[_CLUSTER], stage.narrator
    with narrator.guarded("pod-security labels"):
        wanted = _labels(kube, NAMESPACE)
        held = all(_loosened_and_swapped(stage, kube, key, value, wanted) for key, value in _POD_SECURITY)
        summary.put("repair_not_blocked", held)
        narrator.verdict(held, "repairs go on whatever its namespace says", "a label of the namespace stopped repairs")
    wait_ready(stage)


def _loosened_and_swapped(stage: Stage, kube: Kubectl, key: str, value: str, wanted: Mapping[str, str]) -> bool:
    done = kube.run("label", "--overwrite", "namespace", NAMESPACE, f"{key}={value}", check=False)
    said = "taken" if done.returncode == 0 else "refused by the API server"
    stage.narrator.step(f"administrator sets {key}={value}: {said}")
    before = _image(kube)
    path = "/spec/template/spec/containers/0/image"
    kube.patch("deployment", NAMESPACE, DEPLOYMENT, [{"op": "replace", "path": path, "value": _EVIL_IMAGE}])
    wait_for("the image to be repaired", lambda: _image(kube) == before, 20, stage.narrator)
    wait_for("the labels to be as released", lambda: _labels(kube, NAMESPACE).get(key) == wanted.get(key), 20)
    return True


def labels_open_nothing(stage: Stage, summary: Summary) -> None:
    """A namespace that called itself a cell before the chart came: does any isolation select it, and is it named?"""
    kube, narrator = stage.kubectl[_CLUSTER], stage.narrator
    with narrator.guarded("an impostor's namespace"):
        labels = _labels(kube, IMPOSTOR)
        if labels.get("cellward.dev/project") is None:
            raise StepFailedError(f"{IMPOSTOR} is not there as the stage made it")
        open_to = sorted(_selecting(kube.list("networkpolicies"), labels))
        narrator.step(f"{IMPOSTOR} has every label of a cell; policies that let it in or out: {open_to or 'none'}")
        named = wait_for("eu-1 to name it", lambda: _named(stage), 60, narrator)
        narrator.step(f"eu-1 says: {named[:150]}")
        taken = kube.run("label", "namespace", IMPOSTOR, *[f"{key}-" for key in labels if "cellward.dev/" in key])
        held = not open_to and taken.returncode == 0
        summary.put("labels_open_nothing", held)
        narrator.verdict(held, "labels alone open nothing, and anybody may take them off", "a label opened isolation")


def _selecting(policies: Iterable[Mapping[str, Any]], labels: Mapping[str, str]) -> Iterable[str]:
    """Namespace/name of each policy of a cell with a peer whose namespaceSelector matches these labels."""
    for policy in policies:
        spec = policy["spec"]
        rules = [*(spec.get("ingress") or ()), *(spec.get("egress") or ())]
        peers = [peer for rule in rules for peer in (*rule.get("from", ()), *rule.get("to", ()))]
        if any("namespaceSelector" in peer and _matches(peer["namespaceSelector"], labels) for peer in peers):
            yield f"{policy['metadata']['namespace']}/{policy['metadata']['name']}"


def _matches(selector: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    if any(labels.get(key) != value for key, value in (selector.get("matchLabels") or {}).items()):
        return False
    return all(_holds(expression, labels) for expression in selector.get("matchExpressions") or ())


def _holds(expression: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    found, values = labels.get(expression["key"]), expression.get("values") or ()
    return {
        "In": found in values,
        "NotIn": found not in values,
        "Exists": found is not None,
        "DoesNotExist": found is None,
    }[expression["operator"]]


def _named(stage: Stage) -> str | None:
    for cluster in stage.api.get("/clusters")["items"]:
        for condition in cluster["conditions"]:
            if cluster["name"] == _CLUSTER and not condition["ok"] and IMPOSTOR in condition["message"]:
                return str(condition["message"])
    return None


def lock(stage: Stage, summary: Summary) -> None:
    """Lock eu-1: how long until its live stream has ended? It goes on enforcing, and comes back when unlocked."""
    narrator = stage.narrator
    with narrator.guarded("a lock"):
        begun = time.monotonic()
        stage.api.post("/locks", {"kind": "cluster", "subject": _CLUSTER, "reason": "demonstration"})
        wait_for("the stream of eu-1 to end", lambda: _CLUSTER not in stage.connected(), 10)
        cut = round((time.monotonic() - begun) * 1000)
        narrator.step(f"{cut} ms from asking for the lock to the end of the stream, as the hub reports it")
        kube = stage.kubectl[_CLUSTER]
        before = _image(kube)
        path = "/spec/template/spec/containers/0/image"
        kube.patch("deployment", NAMESPACE, DEPLOYMENT, [{"op": "replace", "path": path, "value": _EVIL_IMAGE}])
        wait_for("the locked agent to repair", lambda: _image(kube) == before, 20, narrator)
        stage.cli.run("unlock", f"cluster/{_CLUSTER}")
        stage.wait_connected(_CLUSTER)
        summary.put("lock_cuts_ms", cut)
        narrator.good(f"lock: cut after {cut} ms, the agent went on repairing, and is back")


def _image(kube: Kubectl) -> str:
    found = kube.get("deployment", NAMESPACE, DEPLOYMENT)
    if found is None:
        raise StepFailedError(f"deployment {DEPLOYMENT} is not there")
    return str(found["spec"]["template"]["spec"]["containers"][0]["image"])


def _labels(kube: Kubectl, namespace: str) -> dict[str, str]:
    found = json.loads(kube.run("get", "namespace", namespace, "-o", "json").stdout)
    return dict(found["metadata"].get("labels") or {})
