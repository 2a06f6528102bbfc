"""The collector of a long-lived process."""

from __future__ import annotations

import subprocess
import sys


def test_what_exists_at_start_is_left_out_and_cycles_are_still_freed() -> None:
    """Rarely is not never: cycles made later go, in a process of its own, because it changes the whole process."""
    program = """
import gc, weakref
from cellward.runtime.memory import THRESHOLDS, collect_rarely
collect_rarely()
assert gc.get_freeze_count() > 1000, gc.get_freeze_count()
class Node: pass
first = Node(); first.me = first
gone = weakref.ref(first)
del first
kept = []
for _ in range(THRESHOLDS[0] + 1000):
    kept.append([])
assert gone() is None
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=50)
