"""What one test leaves behind fails the run and says so, and fails no other test."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tools.parts.model import ROOT

_TESTS = """
import gc

class Left:
    def __init__(self):
        self.me = self

    def __del__(self):
        raise RuntimeError("left behind")

def test_leaves():
    for _ in range(3):
        Left()

def test_innocent():
    gc.collect()
"""


def test_strays_fail_the_run_and_no_test(tmp_path: Path) -> None:
    """Three exceptions of collected objects: both tests pass, the run fails and shows each."""
    (tmp_path / "test_left.py").write_text(_TESTS)
    (tmp_path / "pytest.ini").write_text("[pytest]\nfilterwarnings = error\n")
    plugins = ("-p", "no:randomly", "-p", "no:asyncio", "-p", "tests.conftest", "-n", "1")
    command = [sys.executable, "-m", "pytest", *plugins, "test_left.py"]
    done = subprocess.run(
        command, cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False
    )
    assert "2 passed" in done.stdout, done.stdout + done.stderr
    assert done.stdout.count("left behind") >= 3
    assert done.returncode == 1
