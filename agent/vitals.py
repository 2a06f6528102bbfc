"""What the kubelet asks an agent: alive, started, fit to decide? Yes or no, and the names of what is missing.

The port is open inside the cluster alone, takes no input but a path, and says nothing of cells or policy (V1). An agent
whose hub is away is ready: it enforces what it verified before.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable
from typing import Final

from agent.policy.engine import CONDITION as ENGINE
from cellward.errors import CellwardError, InvalidInput, Unavailable, define
from cellward.runtime.health import HealthRegistry
from cellward.runtime.settings import split_address

CANNOT_LISTEN = define(
    "agent/cannot-listen",
    InvalidInput,
    "The agent cannot listen where its settings say.",
    hint="Free the port, or set health_listen to another one.",
)
NOT_FIT = define(
    "agent/not-fit",
    Unavailable,
    "The agent is not fit to decide, or not connected to its hub.",
    hint="Run `cellward check`; without a policy, publish one. The agent's log names what is missing.",
)
#: Conditions by the names of the parts that set them: the watches, and the link.
API_SERVER: Final = "api-server"
HUB_LINK: Final = "hub-link"
#: What is missing while no verified policy decides.
POLICY: Final = "policy-in-force"
_NEEDED: Final = (API_SERVER, ENGINE)
_MAX_REQUEST: Final = 4096
_SECONDS: Final = 5.0
_MOST: Final = 32
_PATIENCE: Final = 120.0


class Vitals:
    """What is known of a running agent; every answer is computed when it is asked for."""

    def __init__(self) -> None:
        self._health: HealthRegistry | None = None
        self._in_force: Callable[[], bool] | None = None

    def opened(self, health: HealthRegistry) -> None:
        """Its state is open and the API server has answered."""
        self._health, self._in_force = health, None

    def composed(self, in_force: Callable[[], bool]) -> None:
        """It has an identity, and every part; ``in_force`` says whether verified policy decides."""
        self._in_force = in_force

    def closed(self) -> None:
        """It has ended, or begins again."""
        self._health = self._in_force = None

    @property
    def started(self) -> bool:
        """Whether its state is open and the API server has answered."""
        return self._health is not None

    @property
    def connected(self) -> bool:
        """Whether the hub has welcomed its link."""
        return self._condition(HUB_LINK)

    def missing(self) -> list[str]:
        """Names of what keeps it from deciding; empty when nothing does."""
        found = [] if self._in_force is not None and self._in_force() else [POLICY]
        return [*found, *(name for name in _NEEDED if not self._condition(name))]

    def _condition(self, name: str) -> bool:
        found = () if self._health is None else self._health.get()
        return any(condition.name == name and condition.ok for condition in found)


class VitalsPage:
    """Serves ``/livez``, ``/startupz`` and ``/readyz`` until cancelled: 200 or 503, and JSON with the names.

    A server of a few lines instead of the HTTP library: an agent would keep that in memory for three answers.

    Args:
        vitals: what is known.
        listen: host:port, checked by the settings.
    """

    def __init__(self, vitals: Vitals, listen: str) -> None:
        self._vitals = vitals
        self._listen = listen
        self._open = 0
        #: The real port once it listens, for port 0.
        self.port: int | None = None
        self.listening = asyncio.Event()

    async def run(self) -> None:
        """Serve until cancelled; raises agent/cannot-listen."""
        try:
            server = await asyncio.start_server(self._serve, *split_address(self._listen), limit=_MAX_REQUEST)
        except OSError as error:
            raise CANNOT_LISTEN(f"{self._listen} cannot be listened on: {error}") from error
        async with server:
            self.port = server.sockets[0].getsockname()[1]
            self.listening.set()
            await asyncio.Event().wait()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open += 1
        try:
            if self._open <= _MOST:
                async with asyncio.timeout(_SECONDS):
                    head = await reader.readuntil(b"\r\n\r\n")
                    writer.write(self._answer(head))
                    await writer.drain()
        except (OSError, EOFError, ValueError, TimeoutError, asyncio.LimitOverrunError):
            pass  # whoever asked is gone, or asks for nothing that is here
        finally:
            self._open -= 1
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    def _answer(self, head: bytes) -> bytes:
        words = head.split(b"\r\n", 1)[0].split()
        path = words[1].decode("latin-1") if len(words) == 3 and words[0] == b"GET" else ""
        missing = self._vitals.missing()
        good = {"/livez": True, "/startupz": self._vitals.started, "/readyz": not missing}.get(path)
        if good is None:
            return _response("404 Not Found", {})
        said = {"ok": good, "missing": missing, "hubConnected": self._vitals.connected}
        return _response("200 OK" if good else "503 Service Unavailable", said)


def _response(status: str, said: dict[str, object]) -> bytes:
    body = json.dumps(said).encode()
    fields = f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\nConnection: close"
    return f"HTTP/1.1 {status}\r\n{fields}\r\n\r\n".encode() + body


async def ask(address: str, *, patience: float = _PATIENCE) -> dict[str, object]:
    """Ask the agent at ``address`` until it is ready and connected; returns its last answer.

    Raises:
        CellwardError: agent/not-fit after ``patience`` seconds, with what was missing last.
    """
    last: CellwardError = NOT_FIT(f"{address} does not answer")
    try:
        async with asyncio.timeout(patience):
            while True:
                try:
                    return await _asked(address)
                except CellwardError as error:
                    last = error
                await asyncio.sleep(min(1.0, patience / 20))
    except TimeoutError:
        raise last from None


async def _asked(address: str) -> dict[str, object]:
    try:
        reader, writer = await asyncio.open_connection(*split_address(address), limit=_MAX_REQUEST)
        try:
            writer.write(b"GET /readyz HTTP/1.1\r\nHost: agent\r\nConnection: close\r\n\r\n")
            head = await reader.readuntil(b"\r\n\r\n")
            said = json.loads(await reader.read(_MAX_REQUEST))
        finally:
            writer.close()
    except (OSError, EOFError, ValueError, asyncio.LimitOverrunError) as error:
        raise NOT_FIT(f"{address} does not answer: {error}", address=address) from error
    if not isinstance(said, dict) or not head.startswith(b"HTTP/1.1 200 ") or not said.get("hubConnected"):
        red = ", ".join(map(str, said.get("missing", []))) if isinstance(said, dict) else ""
        raise NOT_FIT(f"{address} answers: {red or 'not connected to its hub'}", address=address)
    return said
