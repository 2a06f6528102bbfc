"""One whole installation for all fault tests of a process; each test finds it healthy and has to leave it so."""

from __future__ import annotations

import contextlib
import os
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.fakes.installation import Installation, open_installation

#: Bytes of the agent's volume where one can be made: small enough to be filled in a moment.
VOLUME = 24 * 1024**2


@dataclass(frozen=True)
class Volume:
    """Where the agent keeps its state.

    Attributes:
        path: the directory.
        small: whether it is a file system of its own that can be filled without harm.
    """

    path: Path
    small: bool


@pytest.fixture(scope="session")
def volume() -> Iterator[Volume]:
    """Return a small tmpfs where that is allowed (root), otherwise an ordinary directory."""
    with tempfile.TemporaryDirectory(prefix="cwf-") as name:
        path = Path(name)
        mounted = os.geteuid() == 0 and _quietly("mount", "-t", "tmpfs", "-o", f"size={VOLUME}", "tmpfs", name)
        try:
            yield Volume(path, mounted)
        finally:
            if mounted:
                _quietly("umount", "-l", name)


@pytest.fixture(scope="session")
def shared(volume: Volume) -> Iterator[Installation]:
    """Run hub, API server and agent with one cell; use ``installation`` in tests."""
    with open_installation(state_dir=volume.path / "state") as running:
        running.wait_ready(running.deploy())
        yield running


@pytest.fixture
def installation(shared: Installation) -> Iterator[Installation]:
    """The installation, healthy before and after the test; not looked at twice when the test before left it so."""
    if not shared.left_healthy:
        healthy(shared)
    shared.left_healthy = False
    yield shared
    healthy(shared)
    shared.left_healthy = True


def healthy(installation: Installation) -> None:
    """Wait until ``cellward check`` finds nothing, and until the offline verifier finds neither gap nor duplicate."""
    installation.until("check to be green", lambda: installation.check() == (0, []), 60)
    installation.wait_spool_empty()
    installation.verify_audit()


def _quietly(*command: str) -> bool:
    with contextlib.suppress(OSError):
        return subprocess.run(command, capture_output=True, check=False, timeout=10).returncode == 0
    return False
