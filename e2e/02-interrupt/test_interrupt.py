"""Ctrl-C in the middle of the demonstration: no process, no directory, and it works the next time."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

pytestmark = [pytest.mark.real, pytest.mark.timeout(400), pytest.mark.xdist_group("e2e-interrupt")]


@contextmanager
def demo(directory: Path, *, once: bool = False) -> Iterator[subprocess.Popen[bytes]]:
    """Run the demonstration in a process group of its own, with its temporary files in ``directory``."""
    with (directory.parent / "demo.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "tools.demo"],
            cwd=ROOT,
            env={**os.environ, "TMPDIR": str(directory), "ONCE": "1" if once else "", "NODES": "simulated"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            start_new_session=True,
        )
        try:
            yield process
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()


@pytest.fixture
def directory() -> Iterator[Path]:
    """Return an empty directory with a short path, because Unix sockets have paths of at most 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="cwi-") as parent:
        inner = Path(parent) / "t"
        inner.mkdir()
        yield inner


def told(directory: Path) -> str:
    """What the demonstration told so far."""
    return (directory.parent / "demo.log").read_text(errors="replace")


def wait_told(directory: Path, process: subprocess.Popen[bytes], text: str, seconds: float = 180) -> None:
    """Wait until the demonstration tells this."""
    deadline = time.monotonic() + seconds
    while text not in told(directory):
        assert process.poll() is None, told(directory)[-3000:]
        assert time.monotonic() < deadline, told(directory)[-3000:]
        time.sleep(0.05)


def using(directory: Path) -> dict[int, str]:
    """Processes that have the directory in their command line, environment or working directory."""
    found = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            environ = (entry / "environ").read_bytes().decode(errors="replace")
            where = str((entry / "cwd").readlink())
        except OSError:
            continue
        if str(directory) in line + environ + where:
            found[int(entry.name)] = line[:200]
    return found


def nothing_left(directory: Path) -> None:
    """Nothing runs that used the directory, and nothing is in it, not even of parts that were killed."""
    assert using(directory) == {}
    assert sorted(str(path.relative_to(directory)) for path in directory.rglob("*")) == []


@pytest.mark.parametrize(
    "moment",
    ["eu-1: etcd, kube-apiserver", "us-1: etcd, kube-apiserver", "release and deployment of four cells signed"],
    ids=["first-plane", "second-plane", "deploy"],
)
def test_interrupted_demo_leaves_nothing(directory: Path, moment: str) -> None:
    """SIGINT to the whole group, as a terminal sends it: exit 130, no process and no file stays."""
    with demo(directory) as process:
        wait_told(directory, process, moment)
        assert using(directory)
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(60) == 130, told(directory)[-3000:]
        assert "Traceback" not in told(directory)
    nothing_left(directory)


def test_impatient_interrupts_leave_nothing(directory: Path) -> None:
    """Ctrl-C again and again while everything is being taken down changes nothing."""
    with demo(directory) as process:
        wait_told(directory, process, "Two agents join")
        while process.poll() is None:
            os.killpg(process.pid, signal.SIGINT)
            time.sleep(0.3)
        # Python itself says -SIGINT when one more comes while the interpreter ends.
        assert process.wait(60) in {130, -signal.SIGINT}, told(directory)[-3000:]
    nothing_left(directory)


def test_interrupt_is_how_the_whole_demo_ends(directory: Path) -> None:
    """Without ONCE it stays up; Ctrl-C is then its ordinary end: exit 0, and nothing stays."""
    with demo(directory) as process:
        wait_told(directory, process, "Everything stays up until Ctrl-C", 360)
        assert "all of it is what it must be" in told(directory)
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(60) == 0, told(directory)[-3000:]
    nothing_left(directory)


def test_the_whole_demo_ends_by_itself_and_leaves_nothing(directory: Path) -> None:
    """After interrupted runs a whole one is what it must be."""
    with demo(directory, once=True) as process:
        out, _ = process.communicate(timeout=300)
        assert process.returncode == 0, told(directory)[-20_000:]
    summary = json.loads(out.splitlines()[-1])
    assert summary["cells_ready"] == 8
    nothing_left(directory)
