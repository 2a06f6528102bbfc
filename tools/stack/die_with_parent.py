"""Replace this process by a command that the kernel kills when the process that started it is gone.

Run as a file (``python -ISE die_with_parent.py <parent pid> <command> …``). A ``preexec_fn`` would do the same, but
forks Python code in a process that may have threads.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main(parent: int, command: list[str]) -> None:
    """Ask for the signal, check that the parent had not gone before, and become the command."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit(1)
    os.execv(command[0], command)  # noqa: S606 - to become the command is the point


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
