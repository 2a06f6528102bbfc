"""A hub of its own for a benchmark: a real process with its database on disk, set up as a person would with the CLI."""

from __future__ import annotations

import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml

from bench.installed import others
from tools.demo.api import HubApi
from tools.demo.processes import Cli, environment
from tools.stack.ports import free_ports
from tools.stack.process import Child
from tools.stack.steps import Steps, drive

_REQUIREMENTS = Path(__file__).resolve().parents[1] / "requirements" / "hub.txt"
_START_SECONDS = 60.0


@contextmanager
def installation(*, sample: Path | None = None) -> Iterator[Installation]:
    """Give a hub in a directory of its own that goes with it; nothing of it runs yet, and what does is ended."""
    directory = Path(tempfile.mkdtemp(prefix="cellward-bench-"))
    try:
        hub = Installation(directory, sample=sample)
        try:
            yield hub
        finally:
            drive(hub.stop())
    finally:
        shutil.rmtree(directory, ignore_errors=True)


class Installation:
    """One hub below a directory, with the local home of its operator.

    Attributes:
        home: directory of the ``cellward`` command, with the keys the hub never sees.
        api: reads the admin API.
        cli: the command.
    """

    def __init__(self, directory: Path, *, sample: Path | None = None) -> None:
        self.directory = directory
        self.home = directory / "home"
        self._data = directory / "hub"
        for path in (self.home, self._data):
            path.mkdir(mode=0o700, parents=True)
        ports = free_ports(4)
        self.api_address = f"127.0.0.1:{ports[2]}"
        self.metrics_address = f"127.0.0.1:{ports[3]}"
        names = ("enrolment", "link", "api", "metrics")
        passphrase = directory / "passphrase"
        passphrase.write_text("only for this benchmark\n")
        self.ca_file = directory / "hub-ca.pem"
        self.token_file = self._data / "admin.token"
        config = {
            "data_dir": str(self._data),
            "listen": {name: f"127.0.0.1:{port}" for name, port in zip(names, ports, strict=True)},
            "passphrase_file": str(passphrase),
            "admin_token_file": str(self.token_file),
            "api_ca_file": str(self.ca_file),
            "log_level": "warning",
        }
        file = directory / "hub.yaml"
        file.write_text(yaml.safe_dump(config))
        # As it is where nothing but a hub is installed.
        prefix = ["bench.installed", ",".join(sorted(others(_REQUIREMENTS)))]
        prefix += ["bench.sampled", str(sample)] if sample is not None else []
        command = [sys.executable, "-m", *prefix, "hub", "run", "--config", str(file)]
        self._hub = Child("hub", command, directory / "hub.log", environment(self.home))
        self.api = HubApi(self.api_address, self.ca_file, self.token_file)
        self.cli = Cli(self.home)

    @property
    def pid(self) -> int:
        """Process id of the hub."""
        pid = self._hub.pid
        if pid is None:
            raise RuntimeError("the hub was not started")
        return pid

    def start(self) -> None:
        """Start the hub and wait until its API answers."""
        self.launch()
        deadline = time.monotonic() + _START_SECONDS
        while not self.api.alive():
            self._hub.check()
            if time.monotonic() > deadline:
                raise TimeoutError(f"the hub does not answer; its log ends with:\n{self._hub.tail()}")
            time.sleep(0.05)

    def launch(self) -> None:
        """Start the hub and return at once."""
        self._hub.start()

    def set_up(self) -> None:
        """Log in and make the keys of the installation, not encrypted; publish nothing yet."""
        common = ("--server", f"https://{self.api_address}", "--ca-file", str(self.ca_file))
        self.cli.run("login", *common, "--token-file", str(self.token_file))
        self.cli.run("init", "--no-passphrase", "--owner", "bench")

    def check(self) -> None:
        """Raise when the hub is not running."""
        self._hub.check()

    def stop(self, number: signal.Signals = signal.SIGTERM) -> Steps[None]:
        """Return the steps that end the hub by a signal and wait for it."""
        return self._hub.stop(kill=number is signal.SIGKILL)

    def log_tail(self) -> str:
        """Return the end of the hub's log."""
        return self._hub.tail()
