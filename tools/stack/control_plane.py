"""A control plane from start to stop, for blocking and for asynchronous callers.

``ControlPlane`` is what demo, benchmarks and asynchronous tests use; ``BlockingControlPlane`` is the same thing for
session fixtures. Both drive the very same steps (see ``tools.stack.steps``).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from cellward.errors import CellwardError
from tools.stack import commands, connections
from tools.stack.api import ApiClient
from tools.stack.chart import AGENT_ACCOUNT, AGENT_NAMESPACE, await_chart, install_chart
from tools.stack.credentials import Credentials, make_credentials, write_kubeconfig
from tools.stack.errors import NOT_READY, PART_DIED
from tools.stack.node.ground import API_SERVICE, Ground
from tools.stack.node.real import RealNode
from tools.stack.nodes import create_nodes
from tools.stack.ports import free_ports
from tools.stack.process import Child, until
from tools.stack.steps import Steps, drive, drive_async

_READY_SECONDS = 90.0
_ATTEMPTS = 3
_TOKEN_SECONDS = 24 * 3600


class ControlPlaneCore:
    """State and steps of one control plane; use one of the two facades below.

    Attributes:
        name: shown in errors only.
        directory: everything it writes: ``pki/``, ``etcd/``, ``logs/``, kubeconfig files.
        nodes: number of nodes; 0 starts no scheduler either, so pods stay Pending.
        controllers: whether kube-controller-manager runs.
        real: the real nodes, if they are; the others are simulated by kwok.
    """

    def __init__(
        self, name: str, directory: Path, *, nodes: int = 0, controllers: bool = True, ground: Ground | None = None
    ) -> None:
        self.name = name
        self.directory = directory
        self.nodes = nodes
        self.controllers = controllers
        self.real: tuple[RealNode, ...] = ()
        #: Whether real nodes enforce NetworkPolicies from their start.
        self.engine = True
        #: OCI archives that real nodes get before they are ready.
        self.images: Sequence[Path] = ()
        self._ground = ground
        self._children: dict[str, Child] = {}
        self._credentials: Credentials | None = None
        self._ports: commands.Ports | None = None

    # -- what callers read ------------------------------------------------------------------------------------------

    @property
    def ports(self) -> commands.Ports:
        """Its ports on 127.0.0.1; known once started."""
        if self._ports is None:
            raise NOT_READY(f"control plane {self.name} was not started")
        return self._ports

    @property
    def credentials(self) -> Credentials:
        """Its certificates and keys; known once started."""
        if self._credentials is None:
            raise NOT_READY(f"control plane {self.name} was not started")
        return self._credentials

    @property
    def server(self) -> str:
        """URL of the API server."""
        return f"https://127.0.0.1:{self.ports.apiserver}"

    @property
    def ca_file(self) -> Path:
        """The CA of the API server's certificate."""
        return self.credentials.ca

    @property
    def kubeconfig_admin(self) -> Path:
        """Kubeconfig of a cluster-admin (``system:masters``)."""
        return self.directory / "admin.kubeconfig"

    @property
    def admin(self) -> ApiClient:
        """A blocking client with the same rights."""
        return ApiClient("127.0.0.1", self.ports.apiserver, self.ca_file, self.credentials.pair("admin"))

    @property
    def logs(self) -> Path:
        """Directory of the log files, one per part."""
        return self.directory / "logs"

    # -- steps ------------------------------------------------------------------------------------------------------

    def start_steps(self) -> Steps[None]:
        """Start everything; on a clash of ports start over with other ones."""
        self.directory.mkdir(parents=True, exist_ok=True)
        self.logs.mkdir(exist_ok=True)
        self._credentials = self._make_credentials()
        for attempt in range(1, _ATTEMPTS + 1):
            # Another program may still take one before it is bound.
            self._ports = commands.Ports(*free_ports(3))
            try:
                yield from self._start_storage()
                break
            except CellwardError as error:
                yield from self.stop_steps()
                clash = error.code == PART_DIED.code and "address already in use" in error.message
                if not clash or attempt == _ATTEMPTS:
                    raise
        write_kubeconfig(self.kubeconfig_admin, self.server, self.ca_file, pair=self.credentials.pair("admin"))
        self._start_controllers()
        yield from self._default_account()
        if self._ground is not None:
            yield from self._start_real(self._ground)
        elif self.nodes:
            create_nodes(self.admin, self.nodes)
            self._start("kwok", lambda: commands.kwok(self.kubeconfig_admin))

    def stop_steps(self, *, kill: bool = False) -> Steps[None]:
        """Stop everything, those who ask before those who answer."""
        for node in self.real:
            yield from node.stop_steps()
        self.real = ()
        for child in reversed(self._children.values()):
            yield from child.stop(kill=kill)
        if self._ports is not None:
            connections.forget(self._ports.apiserver)
        self._children.clear()

    def stop_apiserver_steps(self, *, kill: bool) -> Steps[None]:
        """Stop the API server only; everything stored stays."""
        yield from self._children["kube-apiserver"].stop(kill=kill)

    def start_apiserver_steps(self) -> Steps[None]:
        """Start the API server again on the same port, and wait until it answers."""
        self._children["kube-apiserver"].start()
        yield from self._until("kube-apiserver", self.admin.ready)
        for child in self._children.values():
            # Controllers without an API server may end; they are no part of what such a test is about.
            if not child.running:
                child.start()

    def install_steps(self) -> Steps[None]:
        """Apply the agent chart's files and wait until its admission policies bite."""
        yield from install_chart(self.admin)

    def bite_steps(self) -> Steps[None]:
        """Wait until the admission policies of a chart that somebody else installed bite."""
        yield from await_chart(self.admin)

    def agent_kubeconfig(self, path: Path, *, seconds: int = _TOKEN_SECONDS) -> Path:
        """Write a kubeconfig that holds exactly the agent's own rights; needs the chart."""
        token = self.admin.service_account_token(AGENT_NAMESPACE, AGENT_ACCOUNT, seconds)
        return write_kubeconfig(path, self.server, self.ca_file, pair=None, token=token)

    def kill_everything(self) -> None:
        """Kill without waiting politely; for the way out after a failure or cancellation."""
        for node in self.real:
            node.kill_now()
        for child in reversed(self._children.values()):
            child.kill_now()

    # -- inner ------------------------------------------------------------------------------------------------------

    def _make_credentials(self) -> Credentials:
        pki = self.directory / "pki"
        if self._ground is None:
            return make_credentials(pki)
        nodes = {self._node_name(index): self._ground.node(index) for index in range(self.nodes)}
        return make_credentials(pki, (self._ground.address, API_SERVICE), nodes)

    def _node_name(self, index: int) -> str:
        return f"{self.name}-{index + 1}"

    def _start_real(self, ground: Ground) -> Steps[None]:
        for index in range(self.nodes):
            node = RealNode(
                self._node_name(index),
                index,
                ground=ground,
                server=f"https://{ground.address}:{self.ports.apiserver}",
                credentials=self.credentials,
                directory=self.directory / f"n{index + 1}",
                engine=self.engine,
            )
            self.real += (node,)
            yield from node.start_steps(self.admin, self.images)

    def _start_storage(self) -> Steps[None]:
        self._start("etcd", lambda: commands.etcd(self.directory, self.ports, self.credentials))
        self._start("kube-apiserver", lambda: commands.apiserver(self.ports, self.credentials, self._ground))
        yield from self._until("kube-apiserver", self.admin.ready)

    def _start_controllers(self) -> None:
        if self.controllers:
            config = self._kubeconfig_of("controller-manager")
            self._start("kube-controller-manager", lambda: commands.controller_manager(config, self.credentials))
        if self.nodes:
            config = self._kubeconfig_of("scheduler")
            self._start("kube-scheduler", lambda: commands.scheduler(config))

    def _default_account(self) -> Steps[None]:
        """Wait for the first sign that the controllers work; pods need the account ``default``."""
        if not self.controllers:
            return
        account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}}
        yield from self._until("kube-controller-manager", lambda: self.admin.get(account).ok)

    def _kubeconfig_of(self, stem: str) -> Path:
        path = self.directory / f"{stem}.kubeconfig"
        return write_kubeconfig(path, self.server, self.ca_file, pair=self.credentials.pair(stem))

    def _start(self, name: str, command: Callable[[], Sequence[str]]) -> None:
        # An empty environment: no proxy, kubeconfig or Go setting of the caller reaches the parts.
        environment = {"PATH": os.defpath, "HOME": str(self.directory)}
        child = Child(name, command(), self.logs / f"{name}.log", environment)
        self._children[name] = child
        child.start()

    def _until(self, part: str, condition: Callable[[], bool]) -> Steps[None]:
        return until(condition, self._children, part, owner=self.name, seconds=_READY_SECONDS)


class BlockingControlPlane(ControlPlaneCore):
    """``with BlockingControlPlane(...) as cp:`` for fixtures; start it in the thread that lives as long as it does."""

    def __enter__(self) -> Self:
        try:
            drive(self.start_steps())
        except BaseException:
            self.kill_everything()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            # Nothing of it is kept, so there is nothing to finish politely.
            drive(self.stop_steps(kill=True))
        finally:
            self.kill_everything()

    def install_agent_chart(self) -> None:
        """Install the files of charts/cellward-agent; returns when the policies bite."""
        drive(self.install_steps())

    def await_agent_chart(self) -> None:
        """Return when the policies of a chart that Helm installed bite."""
        drive(self.bite_steps())

    def restart_kubelet(self, index: int) -> None:
        """Kill the kubelet of a real node and start it again."""
        drive(self.real[index].restart_kubelet_steps())

    def stop_apiserver(self, *, kill: bool = False) -> None:
        """Stop the API server."""
        drive(self.stop_apiserver_steps(kill=kill))

    def start_apiserver(self) -> None:
        """Start the API server again."""
        drive(self.start_apiserver_steps())


class ControlPlane:
    """``async with ControlPlane(name, directory, nodes=1) as cp:``, the asynchronous face of ``ControlPlaneCore``."""

    def __init__(
        self, name: str, directory: Path, *, nodes: int = 0, controllers: bool = True, ground: Ground | None = None
    ) -> None:
        self.core = ControlPlaneCore(name, directory, nodes=nodes, controllers=controllers, ground=ground)

    async def __aenter__(self) -> Self:
        try:
            await drive_async(self.core.start_steps())
        except BaseException:
            self.core.kill_everything()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await drive_async(self.core.stop_steps(kill=True))
        finally:
            self.core.kill_everything()

    @property
    def name(self) -> str:
        """Its name."""
        return self.core.name

    @property
    def directory(self) -> Path:
        """Where it keeps its files."""
        return self.core.directory

    @property
    def server(self) -> str:
        """URL of the API server."""
        return self.core.server

    @property
    def ca_file(self) -> Path:
        """The CA of the API server's certificate."""
        return self.core.ca_file

    @property
    def kubeconfig_admin(self) -> Path:
        """Kubeconfig of a cluster-admin."""
        return self.core.kubeconfig_admin

    @property
    def admin(self) -> ApiClient:
        """A blocking client of a cluster-admin; milliseconds per request."""
        return self.core.admin

    @property
    def logs(self) -> Path:
        """Directory of the log files."""
        return self.core.logs

    async def install_agent_chart(self) -> None:
        """Install the files of charts/cellward-agent; returns when the policies bite."""
        await drive_async(self.core.install_steps())

    async def agent_kubeconfig(self, path: Path, *, seconds: int = _TOKEN_SECONDS) -> Path:
        """Write a kubeconfig that holds exactly the agent's own rights; needs the chart."""
        return self.core.agent_kubeconfig(path, seconds=seconds)

    async def stop_apiserver(self, *, kill: bool = False) -> None:
        """Stop the API server; everything stored stays."""
        await drive_async(self.core.stop_apiserver_steps(kill=kill))

    async def start_apiserver(self) -> None:
        """Start the API server again on the same port."""
        await drive_async(self.core.start_apiserver_steps())
