"""Processes of the stack: they end with us, and a death is told with its reason."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cellward.errors import CellwardError
from tools.parts.model import ROOT
from tools.stack.process import Child, until
from tools.stack.steps import Steps, drive, drive_async, drive_together

_STARTER = """
import sys, time
from pathlib import Path
from tools.stack.process import Child
child = Child("sleeper", ["/bin/sleep", "600"], Path(sys.argv[1]), {})
child.start()
print(child.pid, flush=True)
time.sleep(600)
"""


def _gone(pid: int) -> bool:
    try:
        # A zombie that init has not reaped yet is gone for our purpose.
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except OSError:
        return True


def _wait_until_gone(pid: int) -> None:
    deadline = time.monotonic() + 30
    while not _gone(pid):
        assert time.monotonic() < deadline, f"{pid} still runs"
        time.sleep(0.02)


def test_child_dies_with_a_killed_parent(tmp_path: Path) -> None:
    """SIGKILL of whoever started the stack leaves nothing behind."""
    parent = subprocess.Popen(
        [sys.executable, "-c", _STARTER, str(tmp_path / "log")], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    assert not _gone(pid)
    parent.kill()
    parent.wait()
    parent.stdout.close()
    _wait_until_gone(pid)


def test_death_is_told_with_the_end_of_the_log(tmp_path: Path) -> None:
    """What the part said last is what a reader needs."""
    child = Child("talker", ["/bin/sh", "-c", "echo no room; exit 3"], tmp_path / "log", {})
    child.start()
    assert child.pid is not None
    _wait_until_gone(child.pid)
    with pytest.raises(CellwardError) as caught:
        child.check()
    assert caught.value.code == "stack/part-died"
    assert "no room" in caught.value.message


def test_a_part_is_waited_for_while_all_live_and_not_for_ever(tmp_path: Path) -> None:
    """Whichever part ended is named, and so is one that does nothing."""
    sleeper = Child("sleeper", ["/bin/sleep", "600"], tmp_path / "log", {})
    talker = Child("talker", ["/bin/sh", "-c", "exit 3"], tmp_path / "log", {})
    sleeper.start()
    talker.start()
    try:
        drive(until(lambda: sleeper.running, {"sleeper": sleeper}, "sleeper", owner="a test", seconds=60))
        with pytest.raises(CellwardError, match=r"sleeper of a test is not ready after 0 s") as caught:
            drive(until(lambda: False, {"sleeper": sleeper}, "sleeper", owner="a test", seconds=0))
        assert caught.value.code == "stack/not-ready"
        both = {"sleeper": sleeper, "talker": talker}
        with pytest.raises(CellwardError, match="talker ended with 3"):
            drive(until(lambda: False, both, "sleeper", owner="a test", seconds=60))
    finally:
        sleeper.kill_now()
        talker.kill_now()


async def test_stop_ends_the_whole_session(tmp_path: Path) -> None:
    """Stopping reaches grandchildren too, on the event loop as in a thread."""
    for number, stop in enumerate((True, False)):
        pid_file = tmp_path / f"pid-{number}"
        script = f"/bin/sleep 600 & echo $! > {pid_file}.new; mv {pid_file}.new {pid_file}; wait"
        child = Child("parent", ["/bin/sh", "-c", script], tmp_path / "log", {"PATH": os.defpath})
        child.start()
        deadline = time.monotonic() + 30
        while not pid_file.exists():
            assert time.monotonic() < deadline
            await asyncio.sleep(0.02)
        if stop:
            await drive_async(child.stop())
        else:
            drive(child.stop())
        assert not child.running
        _wait_until_gone(int(pid_file.read_text()))


def test_steps_that_are_driven_together_go_on_while_others_wait() -> None:
    """Each is asked in turn; one that fails ends the others, which are told."""
    told: list[str] = []

    def steps(name: str, waits: int, *, fails: bool = False) -> Steps[None]:
        try:
            for number in range(waits):
                told.append(f"{name}{number}")
                yield
            if fails:
                raise ValueError(name)
        finally:
            told.append(f"{name}-end")

    drive_together(steps("a", 2), steps("b", 1))
    assert told == ["a0", "b0", "a1", "b-end", "a-end"]
    told.clear()
    with pytest.raises(ValueError, match="a"):
        drive_together(steps("a", 1, fails=True), steps("b", 9))
    assert told == ["a0", "b0", "a-end", "b-end"]
