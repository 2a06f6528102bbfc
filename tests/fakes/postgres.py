"""A real PostgreSQL server for tests: its own directory, a free port on loopback, a database for each test."""

from __future__ import annotations

import asyncio
import itertools
import os
import pwd
import shutil
import signal
import subprocess
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import asyncpg

from hub.store.sql.store import open_store
from tests.fakes.missing import skip
from tests.fakes.pki import Pki
from tools.stack.ports import free_ports

#: Where Debian puts the programs of a server; the oldest version taken is 15.
_DEBIAN = "/usr/lib/postgresql"
_USER = "cellward"


def _tell_origins() -> None:
    """Have a connection that nobody closed say which test made it, and where; it is found during any later one."""
    make = asyncpg.Connection.__init__

    def made(connection: Any, *arguments: Any) -> None:
        make(connection, *arguments)
        stack = "".join(traceback.format_stack(limit=14))
        connection._source_traceback = f"{os.environ.get('PYTEST_CURRENT_TEST', 'no test')}\n{stack}"

    asyncpg.Connection.__init__ = made


_tell_origins()


def programs() -> Path | None:
    """Return the folder with ``initdb`` and ``postgres`` of version 15 or later, None where there is none."""
    found = sorted(Path(_DEBIAN).glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    if found and int(found[-1].parts[-3]) >= 15:
        return found[-1].parent
    other = shutil.which("initdb")
    return Path(other).resolve().parent if other is not None else None


def require() -> Path:
    """Return the programs, or skip with the reason; in CI the reason is a failure."""
    found = programs()
    if found is None:
        skip("PostgreSQL 15 or later is not installed (Debian: apt-get install postgresql)")
    return found


@dataclass
class Server:
    """A running server."""

    port: int
    log: Path
    start: Callable[[], subprocess.Popen[bytes]] = field(repr=False)
    process: subprocess.Popen[bytes] = field(init=False)
    has_template: bool = False
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    def __post_init__(self) -> None:
        self.process = self.start()

    def stop(self) -> None:
        """End it, the fast way: SIGTERM would wait for every client."""
        self.process.send_signal(signal.SIGINT)
        self.process.wait(60)

    def restart(self) -> None:
        """End it and start it again on what it has written; returns when it answers."""
        self.stop()
        deadline = time.monotonic() + 60
        while True:
            self.process = self.start()
            try:
                _wait(self)
            except RuntimeError:
                # Whoever dials a port of loopback that nobody listens on may get it as his own, and holds it a while.
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.5)
            else:
                return

    def url(self, database: str) -> str:
        """Return the URL of a database; the server is on loopback and has no certificate."""
        return f"postgresql://{_USER}@127.0.0.1:{self.port}/{database}?sslmode=disable"

    async def run(self, statement: str, database: str = "postgres") -> None:
        """Run one statement outside a transaction."""
        connection = await asyncpg.connect(host="127.0.0.1", port=self.port, user=_USER, database=database, ssl=False)
        try:
            await connection.execute(statement)
        finally:
            await connection.close()

    async def new(self, *, migrated: bool = True) -> str:
        """Make a database without rows, and with the tables of this version or none; return its URL."""
        name = f"test_{next(self._numbers)}"
        template = "template0"
        if migrated:
            template = "migrated"
            if not self.has_template:
                # What is there is of a try that failed.
                await self.run("DROP DATABASE IF EXISTS migrated WITH (FORCE)")
                await self.run("CREATE DATABASE migrated")
                await (await open_store(self.url("migrated"))).close()
                # An epoch of its own is made by whoever opens it.
                await self.run("DELETE FROM meta", "migrated")
                self.has_template = True
        await self.run(f"CREATE DATABASE {name} TEMPLATE {template}")
        return self.url(name)


@contextmanager
def running(bin_folder: Path, pki: Pki | None = None) -> Iterator[Server]:
    """Run a server that forgets everything at its end; nothing waits for a disk. It has TLS if it has a certificate."""
    with TemporaryDirectory(prefix="cellward-pg-") as name:
        directory = Path(name)
        user = _unprivileged(directory)
        subprocess.run(
            [bin_folder / "initdb", "-D", directory / "data", "-A", "trust", "-U", _USER, "-E", "UTF8", "--locale=C"],
            check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=directory, user=user,
        )  # fmt: skip
        port = free_ports(1)[0]
        options = {"fsync": "off", "listen_addresses": "127.0.0.1", "max_connections": "200"}
        if pki is not None:
            options |= _tls(directory, pki, user)

        def start() -> subprocess.Popen[bytes]:
            with (directory / "log").open("ab") as log:
                return subprocess.Popen(
                    [
                        bin_folder / "postgres", "-D", directory / "data", "-k", directory, "-p", str(port),
                        *(word for key, value in options.items() for word in ("-c", f"{key}={value}")),
                    ],
                    stdout=log, stderr=log, cwd=directory, user=user,
                )  # fmt: skip

        server = Server(port, directory / "log", start)
        try:
            _wait(server)
            yield server
        finally:
            server.stop()


def _unprivileged(directory: Path) -> str | None:
    """Return who runs the server and give him the directory: it refuses to run as root."""
    if os.geteuid() != 0:
        return None
    name = next(user for user in ("postgres", "nobody") if user in {entry.pw_name for entry in pwd.getpwall()})
    entry = pwd.getpwnam(name)
    os.chown(directory, entry.pw_uid, entry.pw_gid)
    return name


def _tls(directory: Path, pki: Pki, user: str | None) -> dict[str, str]:
    """Give the server its certificate and key, which it wants to be its own alone; return its options."""
    shutil.copy(pki.certificate, directory / "server.pem")
    key = directory / "server.key"
    shutil.copy(pki.key, key)
    key.chmod(0o600)
    if user is not None:
        shutil.chown(key, user)
    return {"ssl": "on", "ssl_cert_file": str(directory / "server.pem"), "ssl_key_file": str(key)}


def _wait(server: Server) -> None:
    deadline = time.monotonic() + 60
    threads = ThreadPoolExecutor(1)
    while True:
        try:
            # In a thread: a loop may be running in this one.
            threads.submit(lambda: asyncio.run(server.run("SELECT 1"))).result()
        except (OSError, asyncpg.PostgresError) as error:
            if server.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the server did not start: {server.log.read_text()[-2000:]}") from error
            time.sleep(0.05)
        else:
            return
