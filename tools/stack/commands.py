"""The command lines of each part, in one place, each unusual flag with its reason."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tools.parts.locate import path_of
from tools.stack.credentials import Credentials
from tools.stack.node.ground import SERVICES, Ground

_STAGES = Path(__file__).with_name("kwok")


@dataclass(frozen=True, slots=True)
class Ports:
    """Ports on 127.0.0.1 of one control plane."""

    etcd: int
    etcd_peer: int
    apiserver: int


def etcd(directory: Path, ports: Ports, credentials: Credentials) -> Sequence[str]:
    """Return the command of etcd; only the API server's certificate may talk to it."""
    certificate, key = credentials.pair("serving")
    client, peer = f"https://127.0.0.1:{ports.etcd}", f"http://127.0.0.1:{ports.etcd_peer}"
    return [
        str(path_of("etcd")),
        f"--data-dir={directory / 'etcd'}",
        f"--listen-client-urls={client}",
        f"--advertise-client-urls={client}",
        f"--listen-peer-urls={peer}",
        f"--initial-advertise-peer-urls={peer}",
        f"--initial-cluster=default={peer}",
        f"--cert-file={certificate}",
        f"--key-file={key}",
        "--client-cert-auth",
        f"--trusted-ca-file={credentials.ca}",
        # What is stored here is thrown away with the directory; waiting for the disk would only slow everything.
        "--unsafe-no-fsync",
        "--log-level=warn",
    ]


def apiserver(ports: Ports, credentials: Credentials, ground: Ground | None = None) -> Sequence[str]:
    """Return the command of kube-apiserver, with RBAC and the default admission plug-ins.

    Without ``ground`` it is on loopback and has simulated nodes at most.
    """
    certificate, key = credentials.pair("serving")
    etcd_certificate, etcd_key = credentials.pair("etcd-client")
    return [
        str(path_of("kube-apiserver")),
        f"--etcd-servers=https://127.0.0.1:{ports.etcd}",
        f"--etcd-cafile={credentials.ca}",
        f"--etcd-certfile={etcd_certificate}",
        f"--etcd-keyfile={etcd_key}",
        f"--secure-port={ports.apiserver}",
        *(_on_loopback() if ground is None else _on_ground(ground, credentials)),
        f"--service-cluster-ip-range={SERVICES}",
        f"--tls-cert-file={certificate}",
        f"--tls-private-key-file={key}",
        f"--client-ca-file={credentials.ca}",
        "--service-account-issuer=https://kubernetes.default.svc",
        f"--service-account-key-file={credentials.service_account_key}",
        f"--service-account-signing-key-file={credentials.service_account_key}",
        "--allow-privileged=true",
        "--profiling=false",
    ]


def _on_loopback() -> Sequence[str]:
    return [
        "--bind-address=127.0.0.1",
        "--advertise-address=127.0.0.1",
        # A loopback address is not a valid endpoint of the service `kubernetes`; nothing here needs that endpoint.
        "--endpoint-reconciler-type=none",
        "--authorization-mode=RBAC",
    ]


def _on_ground(ground: Ground, credentials: Credentials) -> Sequence[str]:
    certificate, key = credentials.pair("kubelet-client")
    return [
        # Everywhere in the laboratory, and nowhere else.
        "--bind-address=0.0.0.0",
        f"--advertise-address={ground.address}",
        "--authorization-mode=Node,RBAC",
        "--enable-admission-plugins=NodeRestriction",
        f"--kubelet-client-certificate={certificate}",
        f"--kubelet-client-key={key}",
        f"--kubelet-certificate-authority={credentials.ca}",
        "--kubelet-preferred-address-types=InternalIP",
    ]


def controller_manager(kubeconfig: Path, credentials: Credentials) -> Sequence[str]:
    """Return the command of kube-controller-manager; one instance, so no election, and no port of its own."""
    return [
        str(path_of("kube-controller-manager")),
        f"--kubeconfig={kubeconfig}",
        "--leader-elect=false",
        "--secure-port=0",
        # Each controller with its own account, as everywhere else: the shared one has almost no rights.
        "--use-service-account-credentials=true",
        f"--service-account-private-key-file={credentials.service_account_key}",
        f"--root-ca-file={credentials.ca}",
        # The default of 20 requests/s makes several cells at once take ten times longer than they need.
        "--kube-api-qps=200",
        "--kube-api-burst=400",
    ]


def scheduler(kubeconfig: Path) -> Sequence[str]:
    """Return the command of kube-scheduler."""
    return [str(path_of("kube-scheduler")), f"--kubeconfig={kubeconfig}", "--leader-elect=false", "--secure-port=0"]


def kwok(kubeconfig: Path) -> Sequence[str]:
    """Return the command of kwok with our own stages; it takes one file per ``--config``."""
    stages = [f"--config={stage}" for stage in sorted(_STAGES.glob("*.yaml"))]
    return [
        str(path_of("kwok")),
        f"--kubeconfig={kubeconfig}",
        "--manage-all-nodes=true",
        # Leases keep the node-lifecycle controller from declaring the nodes lost after 40 s.
        "--node-lease-duration-seconds=40",
        "--node-ip=127.0.0.1",
        *stages,
    ]
