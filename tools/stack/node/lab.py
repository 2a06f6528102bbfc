"""The laboratory: a network namespace in which a command runs with all it starts, so that nothing meets the machine's.

``python -m tools.stack.node.lab COMMAND ARGUMENT…`` becomes the command. Where real nodes are not possible it becomes
the command as it is: whoever needs a node asks ``impossible`` and says why there is none.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import socket
import struct
import subprocess
import sys
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Final

#: Set in the laboratory.
INSIDE: Final = "CELLWARD_LAB"
_SIOCSIFFLAGS: Final = 0x8914
_IFF_UP: Final = 1
_PROBE: Final = ("unshare", "--net", "--mount", "--pid", "--fork", "--mount-proc", "true")
_NEEDED: Final = ("unshare", "nsenter", "mount", "apt-get", "dpkg-deb")


@lru_cache(maxsize=1)
def impossible() -> str:
    """Say why this machine cannot have a real node; empty when it can."""
    if not sys.platform.startswith("linux"):
        return "real nodes need Linux"
    if os.geteuid() != 0:
        return "real nodes need root: they are made of network, mount and process namespaces"
    missing = [program for program in _NEEDED if shutil.which(program) is None]
    if missing:
        return f"real nodes need {', '.join(missing)}, on Debian or Ubuntu"
    done = subprocess.run(_PROBE, capture_output=True, text=True, timeout=30, check=False)
    if done.returncode:
        return f"this kernel, or the container around us, allows no namespaces: {done.stderr.strip()[-200:]}"
    if not any(Path("/sys/fs/cgroup").glob("*")):
        return "there are no control groups below /sys/fs/cgroup"
    return ""


def inside() -> bool:
    """Whether this process is in the laboratory."""
    return INSIDE in os.environ


def enter(command: Sequence[str]) -> None:
    """Become the command, in a laboratory where that is possible; returns never."""
    program = shutil.which(command[0]) or command[0]
    if inside():
        _loopback_up()
        Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
    if inside() or impossible():
        os.execv(program, list(command))  # noqa: S606 - to become the command is the point
    unshare = shutil.which("unshare") or "unshare"
    os.environ[INSIDE] = "1"
    again = [sys.executable, "-m", "tools.stack.node.lab", program, *command[1:]]
    os.execv(unshare, [unshare, "--net", *again])  # noqa: S606 - as above


def _loopback_up() -> None:
    """Loopback is down in a new namespace; netdevice(7)."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as handle:
        request = struct.pack("16sh14x", b"lo", _IFF_UP)
        fcntl.ioctl(handle, _SIOCSIFFLAGS, request)


if __name__ == "__main__":
    enter(sys.argv[1:])
