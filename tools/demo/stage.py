"""The stage: every part of the demonstration, started in order and taken down in reverse.

Two real control planes with real or simulated nodes, one hub, two agents that run with exactly the chart's rights, and
the ``cellward`` command with keys made on this machine. Everything lives in one directory that goes away at the end.
"""

from __future__ import annotations

import shutil
import signal
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from tools.demo import agents, real
from tools.demo.agents import Agent
from tools.demo.api import HubApi
from tools.demo.kubectl import Kubectl
from tools.demo.narrate import Narrator, wait_for
from tools.demo.processes import Cli, part
from tools.stack.control_plane import BlockingControlPlane
from tools.stack.node import dns, storage
from tools.stack.node.ground import Ground
from tools.stack.ports import free_ports
from tools.stack.process import Child
from tools.stack.steps import drive, drive_together

ROOT = Path(__file__).resolve().parents[2]
SHOP = ROOT / "examples" / "boutique"
#: Name → what the cluster is.
CLUSTERS: dict[str, tuple[str, ...]] = {
    "eu-1": ("--environment", "development", "--no-production", "--region", "eu"),
    "us-1": ("--environment", "production", "--production", "--region", "us"),
}
ENVIRONMENT = {"eu-1": "development", "us-1": "production"}
#: Made in eu-1 before the agent's chart, with the labels of a cell that nobody deployed.
IMPOSTOR = "boutique--impostor--development"
CELLS = ("cart", "catalogue", "checkout", "storefront")


@dataclass
class Stage:
    """What the scenes act on.

    Attributes:
        directory: everything that is written, removed at the end.
        tree: whose hub and command line run.
        nodes: which the clusters have, ``simulated`` or ``real``.
        images: what real nodes run.
        planes: control planes by cluster name.
        kubectl: administrator's kubectl by cluster name.
        hub: the hub's process.
        agents: the agents by cluster name.
        outside: host:port at which agents find the hub's enrolment listener.
        metrics_address: host:port of the fleet's Prometheus endpoint.
        versions: how many next versions of cells were made.
        publications: how many sets of policy were published.
    """

    directory: Path
    narrator: Narrator
    nodes: str = real.SIMULATED
    tree: Path = ROOT
    images: real.Images | None = None
    planes: dict[str, BlockingControlPlane] = field(default_factory=dict)
    kubectl: dict[str, Kubectl] = field(default_factory=dict)
    agents: dict[str, Agent] = field(default_factory=dict)
    hub: Child = field(init=False)
    cli: Cli = field(init=False)
    api: HubApi = field(init=False)
    api_address: str = ""
    outside: str = ""
    metrics_address: str = ""
    versions: int = 0
    publications: int = 0

    @property
    def home(self) -> Path:
        """Directory of the ``cellward`` command: author keys and trust.yaml, never shown to the hub."""
        return self.directory / "home"

    @property
    def hub_data(self) -> Path:
        """Data directory of the hub: its keys and its database."""
        return self.directory / "hub"

    def agent_directory(self, cluster: str) -> Path:
        """Configuration and state of an agent."""
        return self.directory / "agents" / cluster

    def start_hub(self) -> None:
        """Start the hub and wait until its API answers."""
        self.hub.start()

        def answers() -> bool:
            self.hub.check()
            return self.api.alive()

        wait_for("the hub to answer", answers, 60, self.narrator)

    def connected(self) -> list[str]:
        """Names of the clusters whose agent has an open link."""
        return [cluster["name"] for cluster in self.api.get("/clusters")["items"] if cluster["connected"]]

    def wait_connected(self, *names: str) -> None:
        """Wait until the agents of these clusters are connected."""

        def all_there() -> bool:
            for name in names:
                self.agents[name].check()
            return set(names) <= set(self.connected())

        wait_for(f"the agents of {', '.join(names)} to connect", all_there, 60, self.narrator)

    def ready_cells(self) -> list[tuple[str, str]]:
        """(cluster, cell) of every cell of the shop whose objects are all applied and ready as desired now.

        Of a cluster without a link nobody knows that.
        """
        return [
            (state["cluster"], state["cell"])
            for state in self.api.cell_states()
            if state["cell"] in CELLS
            and state["phase"] == "ready"
            and state["connected"]
            and state["objectsTotal"] > 0
            and state["objectsReady"] == state["objectsTotal"]
            and state["deploymentDigest"] == state["desiredDigest"]
        ]


@contextmanager
def open_stage(narrator: Narrator, nodes: str = real.SIMULATED) -> Iterator[Stage]:
    """Make the directory and the empty stage; on the way out everything started is ended and the directory removed."""
    # Short on purpose: Unix sockets have paths of at most 107 bytes.
    directory = Path(tempfile.mkdtemp(prefix="cellward-demo-"))
    stage = Stage(directory, narrator, nodes)
    try:
        yield stage
    finally:
        with _uninterrupted():
            try:
                _take_down(stage)
            finally:
                shutil.rmtree(directory, ignore_errors=True)


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Let no further Ctrl-C cut the way out short, which is bounded in time: it would leave files behind."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def start_planes(stage: Stage) -> None:
    """Start both control planes and install the agent chart's files in each."""
    if stage.nodes == real.REAL:
        stage.images = real.make_images(stage.directory / "images", SHOP)
        stage.narrator.step("no registry is asked: the shop's programs are stand-ins, which really call one another")
    for number, name in enumerate(CLUSTERS, 1):
        if stage.images is not None:
            stage.narrator.step(f"{name}: a control plane; a real node (containerd, kubelet, kube-proxy)")
            plane = BlockingControlPlane(name, stage.directory / "planes" / name, nodes=1, ground=Ground(number))
            plane.images = stage.images.archives
            # Development has an engine; production gets one once it was seen what is refused without.
            plane.engine = ENVIRONMENT[name] == "development"
        else:
            stage.narrator.step(f"{name}: etcd, kube-apiserver, controller-manager, scheduler; nodes simulated by kwok")
            plane = BlockingControlPlane(name, stage.directory / "planes" / name, nodes=2)
        stage.planes[name] = plane
    # Each waits most of its time, for the other parts of its own.
    drive_together(*(plane.start_steps() for plane in stage.planes.values()))
    for name, plane in stage.planes.items():
        stage.kubectl[name] = Kubectl(plane.kubeconfig_admin)
        if ENVIRONMENT[name] == "development":
            _plant_impostor(stage.kubectl[name])
        if stage.images is not None:
            dns.install(plane.admin)
            storage.install(plane.admin)
            stage.narrator.good(f"{name} is up")
        else:
            plane.install_agent_chart()
            stage.narrator.good(f"{name} is up, with the agent chart's rights and admission policies in force")


def _plant_impostor(kube: Kubectl) -> None:
    """Somebody with rights in the cluster names a namespace like a cell of the shop, before there are guards."""
    labels = (
        "app.kubernetes.io/managed-by=cellward",
        "cellward.dev/project=boutique",
        "cellward.dev/cell=impostor",
        "cellward.dev/environment=development",
    )
    kube.run("create", "namespace", IMPOSTOR)
    kube.run("label", "namespace", IMPOSTOR, *labels)


def start_hub(stage: Stage) -> None:
    """Configure and start the hub."""
    enrolment, link, api, metrics = free_ports(4)
    # Where the agents find it: pods have a loopback of their own.
    outside = "127.0.0.1" if stage.images is None else Ground(1).address
    stage.hub_data.mkdir(mode=0o700)
    passphrase = stage.directory / "hub-passphrase"
    passphrase.write_text("only for this demonstration\n")
    config = {
        "data_dir": str(stage.hub_data),
        "listen": {
            "enrolment": f"{outside}:{enrolment}",
            "link": f"{outside}:{link}",
            "api": f"127.0.0.1:{api}",
            "metrics": f"127.0.0.1:{metrics}",
        },
        "passphrase_file": str(passphrase),
        "admin_token_file": str(stage.hub_data / "admin.token"),
        "api_ca_file": str(stage.directory / "hub-ca.pem"),
    }
    file = stage.directory / "hub.yaml"
    file.write_text(yaml.safe_dump(config))
    stage.home.mkdir(mode=0o700)
    stage.api_address = f"127.0.0.1:{api}"
    stage.metrics_address = f"127.0.0.1:{metrics}"
    stage.outside = f"{outside}:{enrolment}"
    stage.api = HubApi(stage.api_address, stage.directory / "hub-ca.pem", stage.hub_data / "admin.token")
    make_hub(stage)
    stage.start_hub()


def make_hub(stage: Stage) -> None:
    """Say which hub and command line the stage has: those of its tree, with the settings that are there."""
    file = stage.directory / "hub.yaml"
    stage.cli = Cli(stage.home, tree=stage.tree)
    stage.hub = part("hub", ["hub", "run", "--config", str(file)], stage.directory / "hub.log", stage.home, stage.tree)


def start_agent(stage: Stage, cluster: str) -> None:
    """Invite the cluster, and run the line that the invitation prints."""
    directory, plane, invite = stage.agent_directory(cluster), stage.planes[cluster], [*CLUSTERS[cluster]]
    if stage.images is None:
        stage.agents[cluster] = agents.start_process(directory, cluster, invite, plane, stage.cli)
        stage.narrator.step(f"{cluster} invited; its agent started with the printed line")
    else:
        stage.agents[cluster] = agents.start_pod(directory, cluster, invite, plane, stage.cli, stage.images.agent)
        stage.narrator.step(f"{cluster} invited; the printed line (kubectl, helm) installed its agent in a pod")


def _take_down(stage: Stage) -> None:
    # Agents end before their hub, which would wait for their links: processes by themselves, pods with their nodes.
    for agent in stage.agents.values():
        if isinstance(agent, Child):
            drive(agent.stop())
    if stage.nodes == real.REAL:
        _stop_planes(stage)
    if hasattr(stage, "hub"):
        drive(stage.hub.stop())
    _stop_planes(stage)


def _stop_planes(stage: Stage) -> None:
    for plane in stage.planes.values():
        plane.__exit__(None, None, None)
    stage.planes.clear()
