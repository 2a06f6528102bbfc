"""The start gate: a first init container that lets nothing of a pod start before its forbidden edges are closed; pure.

Network engines take hold of a new pod late: it has no address before it is placed, so only something inside can see
that it is closed. What it tries is what nobody of the cell may reach and somebody is known to answer: the API server,
the agent, the kubelet of its own node. All of it comes from the cluster's own installation, never from a hub; where a
cell may talk to address ranges on such a port, it is left out, since the range may hold the very address. The pod's
name server, which every cell may ask, shows that the pod can send at all.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from cellward.cells.gated import GATE
from cellward.cells.network import Addresses, NetworkIntent, PortRange

#: How long it tries before it ends and says what is open, seconds; the node then starts it again.
BOUND_SECONDS: Final = 30
#: The Service of the chart behind which the agent answers TCP and UDP, and its port.
ANSWERS: Final = "cellward-agent-answers"
ANSWERS_PORT: Final = 7445
#: Where the prober is in its image.
PROGRAM: Final = "/opt/cellward/bin/prober"
_KUBELET_PORT: Final = 10250
#: On which API servers listen behind their Service.
_API_PORTS: Final = (443, 6443)


@dataclass(frozen=True, slots=True)
class StartGate:
    """What a cluster's installation says of the gate.

    Attributes:
        image: of the prober, by digest.
        api: host and port of the API server as pods know it.
        agent_namespace: where the agent runs.
    """

    image: str
    api: tuple[str, int]
    agent_namespace: str = "cellward-system"

    def container(self, network: NetworkIntent, component: str) -> dict[str, Any] | None:
        """Return the container for pods of a component; None when there is nothing that is closed to them for sure."""
        forbidden = self._forbidden(network, component)
        if not forbidden:
            return None
        aims = [{"to": to, "how": how, "closed": True} for to, how in forbidden]
        aims.append({"to": "RESOLVER:53", "how": "dns", "closed": False})
        plan = json.dumps({"settle_ms": BOUND_SECONDS * 1000, "targets": aims}, separators=(",", ":"))
        return {
            "name": GATE,
            "image": self.image,
            "imagePullPolicy": "IfNotPresent",
            "command": [PROGRAM],
            "args": ["gate"],
            "env": [
                {"name": "NODE_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.hostIP"}}},
                {"name": "PROBE_PLAN", "value": plan},
            ],
            "resources": {"requests": {"cpu": "10m", "memory": "16Mi"}, "limits": {"cpu": "100m", "memory": "32Mi"}},
            # Everything is said here: a raw manifest may say otherwise of its pod.
            "securityContext": {
                "privileged": False,
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "runAsNonRoot": True,
                "runAsUser": 65532,
                "runAsGroup": 65532,
                "capabilities": {"drop": ["ALL"]},
                "seccompProfile": {"type": "RuntimeDefault"},
            },
        }

    def _forbidden(self, network: NetworkIntent, component: str) -> list[tuple[str, str]]:
        host, port = self.api
        answers = f"{ANSWERS}.{self.agent_namespace}.svc:{ANSWERS_PORT}"
        found = []
        if not _may_reach(network, component, [PortRange(one, "TCP") for one in sorted({port, *_API_PORTS})]):
            found.append((f"[{host}]:{port}" if ":" in host else f"{host}:{port}", "tcp"))
        if not _may_reach(network, component, [PortRange(ANSWERS_PORT, "TCP")]):
            found.append((answers, "tcp"))
        if not _may_reach(network, component, [PortRange(ANSWERS_PORT, "UDP")]):
            found.append((answers, "udp"))
        if not _may_reach(network, component, [PortRange(_KUBELET_PORT, "TCP")]):
            found.append((f"NODE:{_KUBELET_PORT}", "tcp"))
        return found


def _may_reach(network: NetworkIntent, component: str, ports: Sequence[PortRange]) -> bool:
    """Whether the component may talk to any address range on one of the ports."""
    return any(
        edge.direction == "egress"
        and (not edge.components or component in edge.components)
        and (not edge.ports or not set(ports).isdisjoint(edge.ports))
        and any(isinstance(peer, Addresses) for peer in edge.peers)
        for edge in network.edges
    )
