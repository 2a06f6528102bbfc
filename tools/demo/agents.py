"""The agents as the two things they can be here: a process of this machine, or a pod that Helm installed."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any, Final, Protocol

import yaml

from tools.demo.kubectl import Kubectl
from tools.demo.narrate import StepFailedError
from tools.demo.processes import Cli, environment, installed
from tools.parts.locate import path_of
from tools.stack.chart import AGENT_NAMESPACE
from tools.stack.control_plane import BlockingControlPlane
from tools.stack.node import storage
from tools.stack.process import Child
from tools.stack.shell import AdminShell
from tools.stack.steps import Steps

ROOT = Path(__file__).resolve().parents[2]
#: Shorter than the defaults, so that a person need not wait to see an effect; every one is an ordinary setting.
_INTERVALS: Final = {
    "heartbeat": 3, "status": 2, "metrics": 2, "audit": 0.5, "backoff_base": 0.2, "backoff_cap": 2.0, "isolation": 120,
}  # fmt: skip
_DEPLOYMENT: Final = "deployment/cellward-agent"
_LABEL: Final = "app.kubernetes.io/name=cellward-agent"
#: What a container waits for that will not come by itself.
_STUCK: Final = frozenset({"CrashLoopBackOff", "CreateContainerConfigError", "ErrImageNeverPull", "ImagePullBackOff"})


class Agent(Protocol):
    """One agent of the demonstration, whatever it runs in."""

    @property
    def name(self) -> str:
        """Which one, for a person."""
        ...

    def start(self) -> None:
        """Start it again after ``stop``."""
        ...

    def stop(self, *, kill: bool = False) -> Steps[None]:
        """End it; it stays away until ``start``."""
        ...

    def check(self) -> None:
        """Raise when it cannot become ready any more."""
        ...

    def tail(self) -> str:
        """Return the last lines it wrote."""
        ...


class PodAgent:
    """The agent that the chart runs on a real node."""

    def __init__(self, cluster: str, plane: BlockingControlPlane, kube: Kubectl) -> None:
        self.name = f"agent {cluster}"
        self._plane = plane
        self._kube = kube

    def start(self) -> None:
        """Let its Deployment have a pod again."""
        self._scale(1)

    def stop(self, *, kill: bool = False) -> Steps[None]:
        """Let its Deployment have no pod; with ``kill`` its processes get SIGKILL before they could be asked."""
        pods = self._pods()
        if kill:
            # First, or the kubelet would start the container again; its own SIGTERM comes later than ours.
            self._scale(0)
            for pod in pods:
                self._plane.real[0].kill_pod(pod["metadata"]["uid"])
        else:
            self._scale(0)
        while self._pods():
            yield

    def check(self) -> None:
        """Raise StepFailedError when a container waits for what will not come."""
        for pod in self._pods():
            for status in pod.get("status", {}).get("containerStatuses", []):
                waiting = status.get("state", {}).get("waiting", {})
                if waiting.get("reason") in _STUCK:
                    raise StepFailedError(f"{self.name}: {waiting['reason']}: {waiting.get('message', '')[:300]}")

    def tail(self) -> str:
        """Return the last lines of its log, of the container before it too when it was restarted."""
        found = []
        for extra in (["--previous"], []):
            done = self._kube.run("logs", "-n", AGENT_NAMESPACE, _DEPLOYMENT, "--tail=40", *extra, check=False)
            found.append(done.stdout)
        return "".join(found)[-8000:]

    def _scale(self, replicas: int) -> None:
        self._kube.run("scale", "-n", AGENT_NAMESPACE, _DEPLOYMENT, f"--replicas={replicas}")

    def _pods(self) -> list[dict[str, Any]]:
        return self._kube.list("pods", _LABEL)


def start_process(directory: Path, cluster: str, invite: list[str], plane: BlockingControlPlane, cli: Cli) -> Child:
    """Write what only this machine knows, invite the cluster, and run the line that the invitation prints.

    Args:
        directory: of the agent, made here.
        cluster: its name.
        invite: what an administrator says of the cluster.
        plane: whose service account it uses.
        cli: of the administrator.
    """
    directory.mkdir(mode=0o700, parents=True)
    config = {
        "kubeconfig": str(plane.agent_kubeconfig(directory / "kubeconfig")),
        "opa_binary": str(path_of("opa")),
        "guards_dir": str(ROOT / "charts/cellward-agent/files"),
        "intervals": _INTERVALS,
    }
    # The invitation keeps what it finds here and adds realm, root, address, token and facts.
    (directory / "agent.yaml").write_text(yaml.safe_dump(config))
    said = cli.run("clusters", "invite", cluster, *invite, "--agent-config", str(directory))
    program, *arguments = shlex.split(printed_line(said.stderr))
    command = [str(installed(program)), *arguments]
    agent = Child(f"agent {cluster}", command, directory.parent / f"{cluster}.log", environment(cli.home))
    agent.start()
    return agent


def start_pod(
    directory: Path, cluster: str, invite: list[str], plane: BlockingControlPlane, cli: Cli, image: str
) -> PodAgent:
    """Invite the cluster and install the chart with the line that is printed, as a person would.

    Args:
        directory: of the agent, made here; its volume is in it.
        cluster: its name.
        invite: what an administrator says of the cluster.
        plane: with a real node.
        cli: of the administrator.
        image: of the agent, by digest.
    """
    directory.mkdir(mode=0o711, parents=True)
    claim = (AGENT_NAMESPACE, "cellward-agent-state")
    storage.offer(plane.admin, "agent-state", plane.real[0].name, directory / "state", claim)
    trust = cli.home / "trust.yaml"
    trust.write_text(yaml.safe_dump({**yaml.safe_load(trust.read_text()), "image": image}))
    line = cli.run("clusters", "invite", cluster, *invite).stdout.strip()
    settings = directory / "intervals.yaml"
    settings.write_text(yaml.safe_dump({"settings": {"intervals": _INTERVALS}}))
    shell = AdminShell(directory / "administrator", plane.kubeconfig_admin)
    # Shorter intervals are all that is added to it. The chart lies in this tree.
    done = shell.run(f"{line} --values {shlex.quote(str(settings))}", directory=ROOT)
    if done.returncode:
        raise StepFailedError(f"the line of the invitation ended with {done.returncode}: {done.stderr.strip()[-1500:]}")
    plane.await_agent_chart()
    return PodAgent(cluster, plane, Kubectl(plane.kubeconfig_admin))


def printed_line(said: str) -> str:
    """The one line that ``cellward clusters invite --agent-config`` prints to start the agent with.

    Raises:
        StepFailedError: there is not exactly one.
    """
    found = re.findall(r"^start it with: (\S.*)$", said, re.MULTILINE)
    if len(found) != 1:
        raise StepFailedError(f"the invitation prints no line to start the agent with: {said.strip()[-300:]}")
    return str(found[0])
