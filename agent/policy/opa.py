"""OpaProcess: one OPA server as a child process on a private Unix socket, and the client that asks it.

The child has an empty environment, dies with the agent (PR_SET_PDEATHSIG, set by a launcher because ``preexec_fn`` is
unsafe beside grpc's threads), listens on a socket of mode 0600 in a directory of mode 0700, and is guarded by a
``system.authz`` policy of ours that lets one bearer of one token ask one question. ``--authentication`` alone would
protect nothing.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import hashlib
import json
import os
import secrets
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import aiohttp
import structlog

from agent.policy.scratch import Scratch, sweep
from cellward.policy.bundle import Bundle
from cellward.policy.errors import DOES_NOT_COMPILE, ENGINE_NOT_STARTABLE, ENGINE_UNAVAILABLE, EVALUATION_FAILED
from cellward.runtime.packages import pass_first_files

# Its first file imports the synchronous client too, and with that ``requests``: 4 MB that nothing here uses.
pass_first_files("opa_client")
from opa_client.opa_async import AsyncOpaClient  # noqa: E402 - after the line above

QUERY_DEADLINE = 2.0
HEALTH_DEADLINE = 1.0
READY_DEADLINE = 15.0
_POLL = 0.02
#: What OPA logs when a bundle that was read whole cannot be put in force; it tries again for ever.
_NOT_ACTIVATED = "Bundle activation failed"
_RESULTS = "data/cellward_gate/results"
_log = structlog.get_logger()

_LAUNCHER = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0)
if os.getppid() != int(sys.argv[1]):
    os._exit(1)
os.nice(int(sys.argv[2]))
os.execve(sys.argv[3], sys.argv[3:], {})
"""

_AUTHZ = """package system.authz

import rego.v1

default allow := false

bearer if crypto.sha256(input.identity) == "%s"

allow if {
	bearer
	input.method == "POST"
	input.path == ["v1", "data", "cellward_gate", "results"]
}

allow if {
	bearer
	input.method == "GET"
	input.path == ["health"]
}
"""


class _SocketClient(AsyncOpaClient):  # type: ignore[misc]  # the package has no types
    """opa-python-client over a Unix socket; it never pushes policies, so nothing can be rewritten on the way.

    It has no public way to a socket or to strict errors of built-ins: why its inside is used is in ADR 0028.
    """

    def __init__(self, socket: Path, token: str, *, bundles: bool) -> None:
        super().__init__(host="localhost", token=token, retries=0, timeout=QUERY_DEADLINE)
        self._socket = socket
        self._token = token
        self._bundles = bundles
        # With no bundle configured, OPA would say for ever that bundles are not ready.
        self._health_query = {"bundles": "true"} if bundles else None

    async def _init_session(self) -> None:
        self._connector = aiohttp.UnixConnector(path=str(self._socket))
        self._session = aiohttp.ClientSession(
            headers=self.headers, connector=self._connector, timeout=aiohttp.ClientTimeout(total=self.timeout)
        )

    def fresh(self) -> _SocketClient:
        """Return another client of the same server, with no connection yet."""
        return _SocketClient(self._socket, self._token, bundles=self._bundles)

    async def ask(self, document: Mapping[str, object]) -> object:
        """Query the gate; the client's own ``query_rule`` would hide what a 500 says."""
        # Errors inside built-ins are made loud: a rule must not become undefined because a value was odd.
        url = f"{self.root_url}/{_RESULTS}?strict-builtin-errors=true"
        async with self._request("POST", url, json={"input": document}) as response:
            body: object = await response.json(content_type=None)
            if response.status != 200:
                raise EVALUATION_FAILED(f"the engine answered {response.status}: {_message(body)}")
        return body.get("result") if isinstance(body, dict) else None

    async def healthy(self) -> bool:
        """Whether the server answers and has activated its bundles, within a second."""
        try:
            return bool(await asyncio.wait_for(self.check_health(query=self._health_query), HEALTH_DEADLINE))
        except TimeoutError:
            return False


def _message(body: object) -> str:
    if not isinstance(body, dict):
        return "no reason"
    errors = body.get("errors")
    first = errors[0] if isinstance(errors, list) and errors and isinstance(errors[0], dict) else body
    return str(first.get("message", body.get("message", "no reason")))[:300]


class OpaProcess:
    """One child; started once, stopped once. See :class:`agent.policy.engine.Engine` for what restarts it."""

    def __init__(self, binary: Path, bundles: Sequence[Bundle], gate: str, *, nice: int = 0) -> None:
        self._binary = binary
        self._nice = nice
        self._bundles = tuple(bundles)
        self._gate = gate
        self._scratch: Scratch | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._client: _SocketClient | None = None
        self._lines: collections.deque[str] = collections.deque(maxlen=20)
        self._reader: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int | None:
        """Process id of the child while it is meant to run."""
        return None if self._process is None else self._process.pid

    @property
    def socket(self) -> Path | None:
        """The Unix socket."""
        return None if self._scratch is None else self._scratch.path / "s"

    @property
    def exited(self) -> bool:
        """Whether there is no running child."""
        return self._process is None or self._process.returncode is not None

    async def start(self) -> None:
        """Start and wait until bundles are active.

        Raises policy/engine-not-startable, policy/engine-unavailable or policy/does-not-compile, and leaves nothing
        behind then.
        """
        try:
            await self._start()
        except BaseException:
            await self.stop()
            raise

    async def _start(self) -> None:
        token = secrets.token_urlsafe(32)
        await asyncio.to_thread(sweep)
        try:
            self._scratch = Scratch()
            directory = self._scratch.path
            arguments = await asyncio.to_thread(self._prepare, directory, token)
            self._process = await asyncio.create_subprocess_exec(
                sys.executable, "-I", "-S", "-c", _LAUNCHER,
                str(os.getpid()), str(self._nice), str(self._binary), *arguments,
                cwd=directory, env={}, stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE,
            )  # fmt: skip
        except OSError as error:
            raise ENGINE_UNAVAILABLE(f"the engine cannot be started: {error.strerror}") from error
        self._reader = asyncio.create_task(self._read(self._process), name="opa-log")
        self._client = _SocketClient(directory / "s", token, bundles=bool(self._bundles))
        await self._client.__aenter__()
        await self._wait_ready(self._process, self._client)

    def _prepare(self, directory: Path, token: str) -> list[str]:
        config: dict[str, object] = {}
        for index, bundle in enumerate(self._bundles):
            file = directory / f"bundle-{index}.tar.gz"
            file.write_bytes(bundle.repacked())
            config[f"b{index}"] = {"resource": f"file://{file}"}
        (directory / "config.json").write_text(json.dumps({"bundles": config}), encoding="utf-8")
        (directory / "gate.rego").write_text(self._gate, encoding="utf-8")
        guard = _AUTHZ % hashlib.sha256(token.encode()).hexdigest()
        (directory / "authz.rego").write_text(guard, encoding="utf-8")
        return [
            "run", "--server", "--addr", f"unix://{directory / 's'}", "--unix-socket-perm", "600",
            "--skip-version-check", "--authentication", "token", "--authorization", "basic",
            "--log-level", "error", "--shutdown-grace-period", "1",
            "--config-file", "config.json", "gate.rego", "authz.rego",
        ]  # fmt: skip

    async def _read(self, process: asyncio.subprocess.Process) -> None:
        stream = process.stderr
        while stream is not None:
            try:
                line = await stream.readline()
            except ValueError:  # a line longer than the reader's limit; it is dropped, the child goes on
                continue
            if not line:
                return
            self._lines.append(line.decode("utf-8", "replace").strip()[:1500])

    async def _wait_ready(self, process: asyncio.subprocess.Process, client: _SocketClient) -> None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + READY_DEADLINE
        while loop.time() < deadline:
            failure = next((line for line in self._lines if _NOT_ACTIVATED in line), None)
            if failure is not None:
                raise DOES_NOT_COMPILE(_said(failure))
            if process.returncode is not None:
                break
            if await client.healthy():
                return
            await asyncio.sleep(_POLL)
        last = _said(self._lines[-1]) if self._lines else "it said nothing"
        if process.returncode is not None:
            raise ENGINE_NOT_STARTABLE(f"{self._binary} ended before it was ready: {last}")
        raise ENGINE_UNAVAILABLE(f"the engine did not become ready: {last}")

    async def ask(self, document: Mapping[str, object]) -> object:
        """Ask the gate; None when it gave no result. Raises policy/engine-unavailable or policy/evaluation-failed."""
        client = self._client
        if client is None or self.exited:
            raise ENGINE_UNAVAILABLE("the engine is not running")
        try:
            return await client.ask(document)
        except TimeoutError as error:
            raise ENGINE_UNAVAILABLE(f"the engine gave no answer within {QUERY_DEADLINE:.0f} s") from error
        except (aiohttp.ClientError, ValueError, OSError) as error:
            raise ENGINE_UNAVAILABLE(f"the engine cannot be asked: {type(error).__name__}") from error

    async def healthy(self) -> bool:
        """Whether the child runs and answers on a new connection.

        A kept-alive connection would go on answering after the socket's path is gone, while every new one fails.
        """
        client = self._client
        if client is None or self.exited:
            return False
        probe = client.fresh()
        async with probe:
            return await probe.healthy()

    async def wait(self) -> None:
        """Return when the child has ended."""
        if self._process is not None:
            await self._process.wait()

    async def stop(self) -> None:
        """End the child and remove its directory, also when cancelled meanwhile; safe to call twice."""
        client, self._client = self._client, None
        try:
            if client is not None:
                await client.close_connection()
            if self._process is not None:
                await _end(self._process)
            if self._reader is not None:
                await self._reader
        finally:
            scratch, self._scratch = self._scratch, None
            if scratch is not None:
                scratch.remove()
        for line in self._lines:
            _log.debug("policy-engine-said", line=line)
        self._lines.clear()


def _said(line: str) -> str:
    """Return the text of a line of OPA's log, which may have been cut."""
    try:
        entry = json.loads(line)
    except ValueError:
        return line
    return str(entry.get("msg", line)) if isinstance(entry, dict) else line


async def _end(process: asyncio.subprocess.Process) -> None:
    """Ask politely, then kill; a stopped or hung child gets no more than two seconds."""
    if process.returncode is not None:
        return
    try:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), 2)
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
