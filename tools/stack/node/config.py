"""Configuration files of a node's parts, from values; each unusual setting with its reason."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from tools.stack.node.ground import DNS_SERVICE

#: Image of the container that holds the namespaces of a pod.
PAUSE = "cellward.test/pause:1"


def containerd(directory: Path, packages: Path) -> str:
    """Return config.toml of containerd 1.6 and later."""
    return f"""\
version = 2
root = "{directory / "containerd"}"
state = "/run/containerd-state"
oom_score = 0

[grpc]
  address = "{socket(directory)}"

[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE}"
  # Not everybody who is root may make a process less likely to be killed than its parent.
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".containerd]
    default_runtime_name = "runc"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        SystemdCgroup = false
        BinaryName = "{packages / "usr/sbin/runc"}"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{packages / "usr/lib/cni"}"
    conf_dir = "{directory / "cni"}"
"""


def socket(directory: Path) -> Path:
    """Return where containerd listens; a path of at most 107 bytes."""
    return directory / "c.sock"


def cni(directory: Path, pods: str) -> str:
    """Return the one network of pods: a routed link for each, so that no bridge hides packets from the engine."""
    ranges = {"type": "host-local", "dataDir": str(directory / "ipam"), "ranges": [[{"subnet": pods}]]}
    link = {"type": "ptp", "ipMasq": False, "ipam": ranges | {"routes": [{"dst": "0.0.0.0/0"}]}}
    return json.dumps({"cniVersion": "0.4.0", "name": "pods", "plugins": [link]})


def kubelet(directory: Path, *, ca: Path, serving: tuple[Path, Path], cgroup: str) -> str:
    """Return KubeletConfiguration, kubelet.config.k8s.io/v1beta1."""
    certificate, key = serving
    return _yaml(
        {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "authentication": {
                "anonymous": {"enabled": False},
                "x509": {"clientCAFile": str(ca)},
                "webhook": {"enabled": True},
            },
            "authorization": {"mode": "Webhook"},
            "tlsCertFile": str(certificate),
            "tlsPrivateKeyFile": str(key),
            "containerRuntimeEndpoint": f"unix://{socket(directory)}",
            "clusterDNS": [DNS_SERVICE],
            "clusterDomain": "cluster.local",
            # The machine's own may name a resolver on its loopback, which no pod reaches.
            "resolvConf": "/dev/null",
            # Machines of CI have old cgroups, swap, and a root file system that cAdvisor does not know.
            "failCgroupV1": False,
            "failSwapOn": False,
            "localStorageCapacityIsolation": False,
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": cgroup,
            "enforceNodeAllocatable": [],
            "evictionHard": {
                "memory.available": "100Mi",
                "nodefs.available": "1%",
                "nodefs.inodesFree": "1%",
                "imagefs.available": "1%",
            },
            # Images were imported from files and cannot be pulled again.
            "imageGCHighThresholdPercent": 100,
            "podLogsDir": str(directory / "pod-logs"),
            # A pod that ends within the seconds of a test is seen at once.
            "syncFrequency": "10s",
        }
    )


def kube_proxy(kubeconfig: Path, *, pods: str, node: str) -> str:
    """Return KubeProxyConfiguration, kubeproxy.config.k8s.io/v1alpha1."""
    return _yaml(
        {
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
            "kind": "KubeProxyConfiguration",
            "mode": "nftables",
            "clientConnection": {"kubeconfig": str(kubeconfig)},
            "clusterCIDR": pods,
            "hostnameOverride": node,
            # The machine's limits are the machine's.
            "conntrack": {
                "maxPerCore": 0,
                "min": 0,
                "tcpCloseWaitTimeout": "0s",
                "tcpEstablishedTimeout": "0s",
            },
        }
    )


def _yaml(document: dict[str, Any]) -> str:
    return str(yaml.safe_dump(document, sort_keys=False))
