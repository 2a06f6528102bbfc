"""One real node from start to stop, in steps (see ``tools.stack.steps``)."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from tools.parts.locate import path_of
from tools.parts.packages import ensure_packages, environment
from tools.stack.api import ApiClient, JSONObject
from tools.stack.credentials import Credentials, write_kubeconfig
from tools.stack.errors import NO_NODE
from tools.stack.node import cgroups, config, images
from tools.stack.node.ground import SERVICES, Ground
from tools.stack.node.lab import impossible, inside
from tools.stack.process import Child, until
from tools.stack.steps import Steps

_HOLDER: Final = Path(__file__).with_name("holder.py")
_READY_SECONDS: Final = 120.0
#: Programs a real node runs; ``make parts`` does not build them.
NODE_PARTS: Final = ("kubelet", "kube-proxy", "kube-router")


class RealNode:
    """A node of a control plane.

    Args:
        name: of the Node object.
        index: among the nodes of its cluster, from 0.
        ground: addresses of the cluster.
        server: URL of the API server, as seen from the node.
        credentials: of the cluster, made for this node too.
        directory: everything it writes; short, because of a socket in it.
        engine: whether a network policy engine (kube-router) runs.
    """

    def __init__(
        self,
        name: str,
        index: int,
        *,
        ground: Ground,
        server: str,
        credentials: Credentials,
        directory: Path,
        engine: bool = True,
    ) -> None:
        self.name = name
        self.index = index
        self.directory = directory
        self._ground = ground
        self._server = server
        self._credentials = credentials
        self._engine = engine
        self._packages = Path()
        self._children: dict[str, Child] = {}
        self._cgroup = cgroups.new_name()
        self._holder = 0

    @property
    def address(self) -> str:
        """Address of the node."""
        return self._ground.node(self.index)

    def start_steps(self, admin: ApiClient, archives: Sequence[Path] = ()) -> Steps[None]:
        """Start everything and wait until the node is ready.

        Args:
            admin: makes the Node object, and sees it become ready.
            archives: OCI archives that are imported before pods can ask for them.

        Raises:
            CellwardError: stack/no-node, stack/not-ready, parts/not-there, parts/packages-missing.
        """
        reason = impossible() or ("" if inside() else "this process is not in a laboratory (tools.stack.node.lab)")
        if reason:
            raise NO_NODE(reason)
        self._packages = ensure_packages()
        self._write()
        cgroups.remove_left_behind()
        cgroups.make(self._cgroup)
        yield from self._hold()
        self._connect()
        self._start("containerd", ["containerd", "--config", str(self.directory / "containerd.toml")])
        yield from self._until("containerd", config.socket(self.directory).exists)
        for archive in archives:
            self._import(archive)
        admin.must(admin.create(self._object()), f"create node {self.name}")
        self._start_kubelet()
        # The others read the address of the node from what the kubelet says of it.
        yield from self._until("kubelet", lambda: _is_ready(admin, self.name))
        self._start("kube-proxy", [str(path_of("kube-proxy")), f"--config={self.directory / 'proxy.yaml'}"])
        if self._engine:
            self.start_engine()

    def stop_steps(self) -> Steps[None]:
        """End all of it: what the first process of its namespaces leaves to the kernel, and the control groups."""
        holder = self._children.pop("node", None)
        if holder is not None:
            yield from holder.stop(kill=True)
        for child in self._children.values():
            yield from child.stop(kill=True)
        self._children.clear()
        cgroups.remove(self._cgroup)

    def kill_now(self) -> None:
        """End all of it without waiting politely."""
        for child in self._children.values():
            child.kill_now()
        cgroups.remove(self._cgroup)

    # -- what tests do to a node -----------------------------------------------------------------------------------

    def start_engine(self) -> None:
        """Start the engine that enforces NetworkPolicies."""
        kubeconfig = self._kubeconfig("policy-engine")
        self._start(
            "kube-router",
            [
                str(path_of("kube-router")),
                f"--kubeconfig={kubeconfig}",
                f"--hostname-override={self.name}",
                f"--service-cluster-ip-range={SERVICES}",
                "--run-firewall=true",
                "--run-router=false",
                "--run-service-proxy=false",
                "--run-loadbalancer=false",
                "--enable-cni=false",
                "--metrics-port=0",
                "--health-port=20244",
            ],
            {"NODE_NAME": self.name},
        )

    def stop_engine_steps(self) -> Steps[None]:
        """End the engine; its rules stay, as they do on any node."""
        yield from self._children["kube-router"].stop(kill=True)

    def restart_kubelet_steps(self) -> Steps[None]:
        """Kill the kubelet and start it again; its pods live on."""
        yield from self._children["kubelet"].stop(kill=True)
        self._children["kubelet"].start()

    def kill_pod(self, uid: str) -> int:
        """Kill every process of a pod at once, as a lack of memory would; return how many there were."""
        found = cgroups.processes(self._cgroup, f"pod{uid}")
        for number in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)
        return len(found)

    def memory_of_pod(self, uid: str) -> int:
        """Return the working set of a pod, bytes: what it uses without pages of files that could go."""
        return cgroups.working_set(self._cgroup, f"pod{uid}")

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run one command in the node's namespaces to its end, with the programs of its packages."""
        return subprocess.run(
            [*self._enter(), *command],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
            env=self._environment(),
        )

    # -- inner -----------------------------------------------------------------------------------------------------

    def _write(self) -> None:
        for name in ("cni", "logs", "pod-logs"):
            (self.directory / name).mkdir(parents=True, exist_ok=True)
        files = {
            "containerd.toml": config.containerd(self.directory, self._packages),
            "cni/10-pods.conflist": config.cni(self.directory, self._ground.pods_of(self.index)),
            "kubelet.yaml": config.kubelet(
                self.directory,
                ca=self._credentials.ca,
                serving=self._credentials.pair(f"kubelet-{self.name}-serving"),
                cgroup=f"/{self._cgroup}",
            ),
            "proxy.yaml": config.kube_proxy(self._kubeconfig("kube-proxy"), pods=self._ground.pods, node=self.name),
        }
        for name, text in files.items():
            (self.directory / name).write_text(text)

    def _kubeconfig(self, stem: str) -> Path:
        path = self.directory / f"{stem}.kubeconfig"
        return write_kubeconfig(path, self._server, self._credentials.ca, pair=self._credentials.pair(stem))

    def _hold(self) -> Steps[None]:
        ready = self.directory / "held"
        unshare = shutil.which("unshare") or "unshare"
        namespaces = ["--net", "--mount", "--pid", "--fork", "--mount-proc", "--kill-child=SIGKILL"]
        first = [sys.executable, "-ISE", str(_HOLDER), self._program("ip"), str(ready)]
        holder = Child("node", [unshare, *namespaces, *first], self._log("node"), self._environment())
        self._children["node"] = holder
        holder.start()
        yield from self._until("node", ready.exists)
        # Also as seen from here: the first and only child of ``unshare``.
        children = Path(f"/proc/{holder.pid}/task/{holder.pid}/children").read_text().split()
        self._holder = int(children[0])

    def _connect(self) -> None:
        """Join the node to the laboratory by a link of its own, routed on both ends."""
        ip, there, here = self._program("ip"), self.address, self._ground.address
        link = f"cw{self._ground.number}-{self.index}"
        outside = [
            ("link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", str(self._holder)),
            ("addr", "add", f"{here}/32", "dev", link),
            ("link", "set", link, "up"),
            ("route", "add", f"{there}/32", "dev", link),
            ("route", "add", self._ground.pods_of(self.index), "via", there),
        ]
        inner = [
            ("addr", "add", f"{there}/32", "dev", "eth0"),
            ("link", "set", "eth0", "up"),
            ("route", "add", f"{here}/32", "dev", "eth0"),
            ("route", "add", "default", "via", here, "src", there),
        ]
        for arguments in outside:
            self._must([ip, *arguments])
        for arguments in inner:
            self._must([*self._enter(), ip, *arguments])

    def _must(self, command: Sequence[str]) -> str:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=300, check=False, env=self._environment()
        )  # fmt: skip
        if done.returncode:
            raise NO_NODE(f"`{' '.join(command[-8:])}` ended with {done.returncode}: {done.stderr.strip()[-500:]}")
        return done.stdout

    def _import(self, archive: Path) -> None:
        """Give containerd the images of an archive, by name and, as charts name them, by digest."""
        ctr = [*self._enter(), self._program("ctr"), "-a", str(config.socket(self.directory)), "-n", "k8s.io"]
        self._must([*ctr, "images", "import", "--all-platforms", str(archive)])
        for name, digest in images.names_in(archive):
            self._must([*ctr, "images", "tag", "--force", name, f"{name.rpartition(':')[0]}@{digest}"])

    def _object(self) -> JSONObject:
        pods = self._ground.pods_of(self.index)
        metadata = {"name": self.name, "labels": {"kubernetes.io/hostname": self.name, "kubernetes.io/os": "linux"}}
        return {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": metadata,
            # Given here, because the controller would give them in the order in which nodes come.
            "spec": {"podCIDR": pods, "podCIDRs": [pods]},
        }

    def _start_kubelet(self) -> None:
        kubeconfig = self._kubeconfig(f"kubelet-{self.name}")
        self._start(
            "kubelet",
            [
                str(path_of("kubelet")),
                f"--config={self.directory / 'kubelet.yaml'}",
                f"--kubeconfig={kubeconfig}",
                f"--root-dir={self.directory / 'kubelet'}",
                f"--cert-dir={self.directory / 'kubelet-pki'}",
                f"--node-ip={self.address}",
                f"--hostname-override={self.name}",
            ],
        )

    def _start(self, name: str, command: Sequence[str], more: Mapping[str, str] | None = None) -> None:
        program = command[0] if "/" in command[0] else self._program(command[0])
        child = Child(
            name, [*self._enter(), program, *command[1:]], self._log(name), {**self._environment(), **(more or {})}
        )
        self._children[name] = child
        child.start()

    def _enter(self) -> list[str]:
        nsenter = shutil.which("nsenter") or "nsenter"
        return [nsenter, f"--target={self._holder}", "--net", "--mount", "--pid", "--"]

    def _environment(self) -> dict[str, str]:
        return {**environment(self._packages), "HOME": str(self.directory)}

    def _program(self, name: str) -> str:
        found = shutil.which(name, path=self._environment()["PATH"])
        if found is None:
            raise NO_NODE(f"{name} is not below {self._packages}")
        return found

    def _log(self, name: str) -> Path:
        return self.directory / "logs" / f"{name}.log"

    def _until(self, part: str, condition: Callable[[], bool]) -> Steps[None]:
        return until(condition, self._children, part, owner=self.name, seconds=_READY_SECONDS)


def _is_ready(admin: ApiClient, name: str) -> bool:
    answer = admin.get({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}})
    if not answer.ok:
        return False
    conditions = answer.body.get("status", {}).get("conditions", [])
    return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)
