"""The command lines of each part, in one place, each unusual flag with its reason."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tools.parts.locate import path_of
from tools.stack.credentials import Credentials

_STAGES = Path(__file__).with_name("kwok")
_SERVICE_RANGE = "10.96.0.0/16"


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


def apiserver(ports: Ports, credentials: Credentials) -> Sequence[str]:
    """Return the command of kube-apiserver, with RBAC and the default admission plug-ins."""
    certificate, key = credentials.pair("serving")
    etcd_certificate, etcd_key = credentials.pair("etcd-client")
    return [
        str(path_of("kube-apiserver")),
        f"--etcd-servers=https://127.0.0.1:{ports.etcd}",
        f"--etcd-cafile={credentials.ca}",
        f"--etcd-certfile={etcd_certificate}",
        f"--etcd-keyfile={etcd_key}",
        "--bind-address=127.0.0.1",
        f"--secure-port={ports.apiserver}",
        "--advertise-address=127.0.0.1",
        # A loopback address is not a valid endpoint of the service `kubernetes`; nothing here needs that endpoint.
        "--endpoint-reconciler-type=none",
        f"--service-cluster-ip-range={_SERVICE_RANGE}",
        f"--tls-cert-file={certificate}",
        f"--tls-private-key-file={key}",
        f"--client-ca-file={credentials.ca}",
        "--service-account-issuer=https://kubernetes.default.svc",
        f"--service-account-key-file={credentials.service_account_key}",
        f"--service-account-signing-key-file={credentials.service_account_key}",
        "--authorization-mode=RBAC",
        "--allow-privileged=true",
        "--profiling=false",
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
