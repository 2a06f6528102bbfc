"""Three hub processes on one PostgreSQL server, behind one address, with agents: what dies is what a test kills."""

from __future__ import annotations

import asyncio
import shutil
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import yaml

from agent.audit.interfaces import Entry
from tests.fakes import postgres
from tests.fakes.installation import CLUSTER, ROOT, Installation, policy_in_force
from tests.fakes.linked_agent import LinkedAgent
from tests.fakes.proxy import Proxy, proxy
from tools.demo import stage as stages
from tools.demo.api import HubApi
from tools.demo.kubectl import Kubectl
from tools.demo.narrate import Narrator
from tools.demo.processes import Cli, part
from tools.stack.control_plane import BlockingControlPlane
from tools.stack.ports import free_ports
from tools.stack.process import Child
from tools.stack.steps import drive

T = TypeVar("T")
LISTENERS = ("enrolment", "link", "api")
#: Where the linked agents' clusters belong.
DEV = "dev"


class Background:
    """An event loop in a thread of its own, for what must go on while a test waits."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, name="background", daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, T], seconds: float = 120) -> T:
        """Run something there and return its result."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(seconds)

    def close(self) -> None:
        """End it; everything that ran there has ended."""
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(30)
        self.loop.close()


@dataclass
class Recording:
    """An agent's link that records as long as it runs; ``written`` are the names of its records."""

    agent: LinkedAgent
    name: str
    written: list[str] = field(default_factory=list)
    stop: asyncio.Event = field(default_factory=asyncio.Event)

    async def record(self) -> None:
        """Write a record again and again until told to stop."""
        while not self.stop.is_set():
            name = f"{self.name}/{len(self.written)}"
            await self.agent.recorder.record(Entry("cell.apply", name, "done"))
            self.written.append(name)
            try:
                async with asyncio.timeout(0.3):
                    await self.stop.wait()
            except TimeoutError:
                continue

    async def quiet(self) -> None:
        """Write no more records."""
        self.stop.set()

    async def depth(self) -> int:
        """Records that the hub has not acknowledged."""
        return await self.agent.db.audit.depth()

    def newest(self) -> dict[str, str]:
        """Deployment that was delivered last, by cell."""
        return {item.cell: item.deployment_digest for item in list(self.agent.ports.items)}


@dataclass
class Replicas:
    """Everything a test acts on."""

    installation: Installation
    hubs: list[Child]
    apis: list[HubApi]
    server: postgres.Server
    background: Background
    agents: list[Recording] = field(default_factory=list)

    def kill(self, number: int) -> None:
        """Kill a replica, as a machine does that loses power."""
        self.hubs[number].kill_now()

    def start(self, number: int) -> None:
        """Start a replica and wait until its API answers."""
        self.hubs[number].start()

        def answers() -> bool:
            self.hubs[number].check()
            return self.apis[number].alive()

        self.installation.until(f"replica {number} to answer", answers, 180)


@contextmanager
def open_replicas(count: int = 3, linked: int = 4) -> Iterator[Replicas]:
    """Start everything; yields when policy is in force on the real agent and every agent is connected."""
    programs = postgres.require()
    background = Background()
    try:
        with postgres.running(programs) as server, stages.open_stage(Narrator()) as stage:
            url = background.run(server.new(migrated=False))
            with _network(background, count, server.port) as (ports, proxies):
                url = url.replace(f":{server.port}/", f":{proxies['database'].port}/")
                replicas = _hubs(stage, server, background, ports, proxies, url)
                try:
                    with _agents(replicas, linked):
                        yield replicas
                finally:
                    for hub in replicas.hubs:
                        drive(hub.stop())
    finally:
        background.close()


@contextmanager
def _network(
    background: Background, count: int, database: int
) -> Iterator[tuple[list[dict[str, int]], dict[str, Proxy]]]:
    """Ports of each replica, and one proxy before all of each kind, and one before the database."""
    free = free_ports(count * len(LISTENERS))
    ports = [dict(zip(LISTENERS, free[number::count], strict=True)) for number in range(count)]
    to = {name: [f"127.0.0.1:{each[name]}" for each in ports] for name in LISTENERS}
    to["database"] = [f"127.0.0.1:{database}"]
    with _held(background, lambda: _proxies(to)) as proxies:
        yield ports, proxies


@asynccontextmanager
async def _proxies(to: dict[str, list[str]]) -> AsyncIterator[dict[str, Proxy]]:
    async with AsyncExitStack() as stack:
        yield {name: await stack.enter_async_context(proxy(*addresses)) for name, addresses in to.items()}


@contextmanager
def _held(background: Background, make: Callable[[], Any]) -> Iterator[Any]:
    """Enter an asynchronous context in the background and leave it there, in one task."""
    ready: asyncio.Future[Any] = background.run(_future())
    leave = background.run(_event())

    async def hold() -> None:
        try:
            async with make() as made:
                ready.set_result(made)
                await leave.wait()
        except BaseException as error:
            if not ready.done():
                ready.set_exception(error)
                return
            raise

    held = asyncio.run_coroutine_threadsafe(hold(), background.loop)
    try:
        yield background.run(_awaited(ready))
    finally:
        background.loop.call_soon_threadsafe(leave.set)
        held.result(60)


async def _future() -> asyncio.Future[Any]:
    return asyncio.get_running_loop().create_future()


async def _event() -> asyncio.Event:
    return asyncio.Event()


async def _awaited(future: asyncio.Future[T]) -> T:
    return await future


def _hubs(
    stage: stages.Stage,
    server: postgres.Server,
    background: Background,
    ports: list[dict[str, int]],
    proxies: dict[str, Proxy],
    url: str,
) -> Replicas:
    """Start the first replica, give the others its keys as the guide says, and start those."""
    passphrase, token, ca = stage.directory / "pass", stage.directory / "admin.token", stage.directory / "hub-ca.pem"
    passphrase.write_text("only for this test\n")
    stage.home.mkdir(mode=0o700)
    hubs: list[Child] = []
    for number, mine in enumerate(ports):
        data = stage.directory / f"hub-{number}"
        data.mkdir(mode=0o700)
        file = stage.directory / f"hub-{number}.yaml"
        file.write_text(
            yaml.safe_dump(
                {
                    "data_dir": str(data),
                    "database_url": url,
                    "listen": {**{name: f"127.0.0.1:{port}" for name, port in mine.items()}, "metrics": ""},
                    "advertise": {name: proxies[name].address for name in LISTENERS},
                    "passphrase_file": str(passphrase),
                    "admin_token_file": str(token),
                    "api_ca_file": str(ca),
                }
            )
        )
        log = stage.directory / f"hub-{number}.log"
        hubs.append(part(f"hub-{number}", ["hub", "run", "--config", str(file)], log, stage.home))
    stage.hub = hubs[0]
    stage.api_address = proxies["api"].address
    stage.api = HubApi(stage.api_address, ca, token)
    stage.cli = Cli(stage.home)
    apis = [HubApi(f"127.0.0.1:{mine['api']}", ca, token) for mine in ports]
    replicas = Replicas(Installation(stage), hubs, apis, server, background)
    replicas.start(0)
    for number in range(1, len(hubs)):
        shutil.copytree(stage.directory / "hub-0" / "keys", stage.directory / f"hub-{number}" / "keys")
        replicas.start(number)
    stage.cli.run(
        "login", "--server", f"https://{stage.api_address}", "--ca-file", str(ca), "--token-file", str(token)
    )  # fmt: skip
    stage.cli.run("init", "--no-passphrase", "--owner", "tests")
    stage.cli.run("policy", "publish", str(ROOT / "policies"))
    return replicas


@contextmanager
def _agents(replicas: Replicas, linked: int) -> Iterator[None]:
    """One agent as a process with its own control plane, and some links of agents in this process."""
    installation = replicas.installation
    stage = installation.stage
    plane = BlockingControlPlane(CLUSTER, stage.directory / "planes" / CLUSTER, nodes=1)
    with plane:
        stage.planes[CLUSTER] = plane
        plane.install_agent_chart()
        stage.kubectl[CLUSTER] = Kubectl(plane.kubeconfig_admin)
        installation.install_agent()
        try:
            installation.until("the agent to connect", lambda: CLUSTER in stage.connected(), 180)
            installation.until("the policy to be in force", lambda: policy_in_force(installation), 180)
            with _held(replicas.background, lambda: _linked(replicas, linked)) as agents:
                replicas.agents = agents
                names = {agent.name for agent in agents}
                installation.until("every agent to connect", lambda: names <= set(stage.connected()), 180)
                yield
        finally:
            installation.stop_agent(kill=True)


@asynccontextmanager
async def _linked(replicas: Replicas, count: int) -> AsyncIterator[list[Recording]]:
    stage = replicas.installation.stage
    async with AsyncExitStack() as stack:
        made = []
        for number in range(count):
            name = f"linked-{number}"
            directory = stage.directory / "agents" / name
            agent = await asyncio.to_thread(_invited, stage, name, directory)
            await stack.enter_async_context(agent.boot())
            made.append(Recording(agent, name))
        writers = [asyncio.create_task(each.record()) for each in made]
        try:
            yield made
        finally:
            for each in made:
                each.stop.set()
            await asyncio.gather(*writers)


def _invited(stage: stages.Stage, name: str, directory: Path) -> LinkedAgent:
    stage.api.post("/clusters", {"name": name})
    facts = {"environments": [DEV], "production": False}
    joining = stage.api.post(f"/clusters/{name}/join-tokens", {"facts": facts})
    return LinkedAgent(
        directory,
        stage.api.get("/trust")["realm"],
        joining["enrolmentAddress"],
        joining["hubCaPem"].encode(),
        joining["token"],
    )
