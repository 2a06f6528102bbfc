"""Directories of engines: nothing of a killed agent stays for ever, nothing of a living one is touched."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from agent.policy.scratch import Scratch, sweep

_HOLDER = """
import time
from agent.policy.scratch import Scratch
print(Scratch().path, flush=True)
time.sleep(60)
"""


@pytest.fixture(autouse=True)
def _own_temporary_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


def test_what_a_killed_agent_left_is_swept_and_what_a_living_one_uses_is_not(tmp_path: Path) -> None:
    """SIGKILL leaves the directory; the next start removes it, but only once its maker is gone."""
    holder = subprocess.Popen(
        [sys.executable, "-c", _HOLDER],
        stdout=subprocess.PIPE,
        env={**os.environ, "TMPDIR": str(tmp_path), "PYTHONPATH": str(Path.cwd())},
    )
    try:
        assert holder.stdout is not None
        left = Path(holder.stdout.readline().decode().strip())
        sweep()
        assert left.is_dir()
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.communicate()
    sweep()
    assert not left.exists()


def test_own_directory_survives_a_sweep_and_goes_when_removed(tmp_path: Path) -> None:
    """A second engine of the same agent, as during a switch, does not sweep the first."""
    mine = Scratch()
    sweep()
    assert mine.path.stat().st_mode & 0o777 == 0o700
    mine.remove()
    assert list(tmp_path.iterdir()) == []


def test_a_directory_that_is_just_being_made_is_left_alone(tmp_path: Path) -> None:
    """Without a lock only an old directory is taken for a leftover; links and other names are never followed."""
    young, old = tmp_path / "cellward-opa-young", tmp_path / "cellward-opa-old"
    other = tmp_path / "other"
    for path in (young, old, other):
        path.mkdir()
        (path / "file").write_text("x")
    os.utime(old, (1, 1))
    os.utime(other, (1, 1))
    (tmp_path / "cellward-opa-link").symlink_to(other)
    sweep()
    assert young.is_dir()
    assert not old.exists()
    assert (other / "file").exists()
