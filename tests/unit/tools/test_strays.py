"""What one test leaves behind fails the run and says so, and fails no other test."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tools.parts.model import ROOT

_RAISES = """
class Left:
    def __init__(self):
        self.me = self

    def __del__(self):
        raise RuntimeError("left behind")
"""
_IS_OPEN = """
import socket

class Left:
    def __init__(self):
        self.me = self
        self.left_behind = socket.socket()
"""
_TESTS = """
import gc

def test_leaves():
    for _ in range(3):
        Left()

def test_innocent():
    gc.collect()
"""


@pytest.mark.parametrize(
    ("left", "shown"), [(_RAISES, "left behind"), (_IS_OPEN, "unclosed <socket")], ids=["raises", "open"]
)
def test_strays_fail_the_run_and_no_test(tmp_path: Path, left: str, shown: str) -> None:
    """Three that raise when they are collected, or were not closed: both tests pass, the run fails, all are shown."""
    (tmp_path / "test_left.py").write_text(left + _TESTS)
    (tmp_path / "pytest.ini").write_text("[pytest]\nfilterwarnings = error\n")
    plugins = ("-p", "no:randomly", "-p", "no:asyncio", "-p", "tests.conftest", "-n", "1")
    command = [sys.executable, "-m", "pytest", *plugins, "test_left.py"]
    done = subprocess.run(
        command, cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False
    )
    assert "2 passed" in done.stdout, done.stdout + done.stderr
    assert done.stdout.count(shown) >= 3
    assert done.returncode == 1
