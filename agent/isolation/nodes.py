"""Notices nodes that are new: a node enforces by itself, so what was measured before says nothing of it.

A node is new when it is ready and was not seen to be since what enforces there changed: it booted, its kernel, runtime
or kube-proxy is another, or its network was away and is back. One that is only unready for a while is not: it comes
back as it was, and cells would be measured without end.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import structlog

from agent.kube.conditions import condition_of, is_ready
from agent.kube.interfaces import KubeApi, WatchEvent, WatchType

_log = structlog.get_logger()

#: What a node says of itself that its enforcement rests on.
_PARTS = ("bootID", "kernelVersion", "containerRuntimeVersion", "kubeProxyVersion")
#: Taints by which Kubernetes and network engines say that a node's network is away.
_AWAY = frozenset({"node.kubernetes.io/network-unavailable", "node.cilium.io/agent-not-ready"})


def enforcement_of(node: Mapping[str, Any]) -> tuple[str, ...] | None:
    """What a Node's enforcement rests on, to be compared; None while its network is away."""
    if condition_of(node, "NetworkUnavailable").get("status") == "True":
        return None
    if any(each.get("key") in _AWAY for each in (node.get("spec") or {}).get("taints") or ()):
        return None
    info = (node.get("status") or {}).get("nodeInfo") or {}
    return tuple(str(info.get(part) or "") for part in _PARTS)


class NodeWatch:
    """Watches the nodes of the cluster.

    Args:
        kube: the cluster.
        on_new: called when a node is new; not for those that are there at first.
    """

    def __init__(self, kube: KubeApi, on_new: Callable[[], object]) -> None:
        self._kube, self._on_new = kube, on_new
        #: What each node that was ready enforced with, by the node's uid.
        self._known: dict[str, tuple[str, ...]] = {}
        self._listed: set[str] | None = None
        self._synced = False

    async def run(self) -> None:
        """Watch until cancelled."""
        async for event in self._kube.watch("v1", "Node"):
            try:
                self._take(event)
            except (AttributeError, KeyError, TypeError):
                # V16: a kubelet writes most of what is in a node.
                _log.warning("node-not-understood", name=str(event.object.get("metadata", {}).get("name"))[:100])

    def _take(self, event: WatchEvent) -> None:
        if event.type is WatchType.RESTARTED:
            self._listed = set()
        elif event.type is WatchType.SYNCED:
            for uid in set(self._known) - (self._listed or set()):
                del self._known[uid]
            self._listed, self._synced = None, True
        elif event.type is WatchType.DELETED:
            self._known.pop(str(event.object["metadata"]["uid"]), None)
        elif event.type in {WatchType.ADDED, WatchType.MODIFIED}:
            self._node(event.object)

    def _node(self, node: Mapping[str, Any]) -> None:
        uid = str(node["metadata"]["uid"])
        if self._listed is not None:
            self._listed.add(uid)
        enforcement = enforcement_of(node)
        if enforcement is None:
            self._known.pop(uid, None)
            return
        if not is_ready(node) or self._known.get(uid) == enforcement:
            return
        self._known[uid] = enforcement
        if self._synced:
            _log.info("node-is-new", node=str(node["metadata"]["name"])[:100])
            self._on_new()
