"""First process of a node's namespaces: gives it folders of its own, and ends all of it by ending.

Run as a file (``python -ISE holder.py <ip program> <ready file>``) by ``unshare --net --mount --pid --fork``: standard
library only. Being the first process it also reaps every orphan of the node.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path


def main(ip: str, ready: str) -> None:
    """Prepare, say so, and stay until SIGTERM."""
    # Runtime state and logs of the programs, which they put at fixed places, must not meet those of the machine.
    for place in ("/run", "/var/log"):
        _run("mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", place)
    _over_var_lib()
    Path("/run/netns").mkdir()
    _run(ip, "link", "set", "lo", "up")
    for name in ("ip_forward", "conf/all/route_localnet"):
        Path(f"/proc/sys/net/ipv4/{name}").write_text("1")
    for name in ("all", "default"):
        Path(f"/proc/sys/net/ipv4/conf/{name}/rp_filter").write_text("0")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    signal.signal(signal.SIGCHLD, _reap)
    Path(ready).touch()
    while True:
        signal.pause()


def _over_var_lib() -> None:
    """Let what is written below /var/lib go to memory, and what is there be seen as before."""
    upper = Path("/run/var-lib")
    (upper / "new").mkdir(parents=True)
    (upper / "work").mkdir()
    options = f"lowerdir=/var/lib,upperdir={upper}/new,workdir={upper}/work"
    _run("mount", "-t", "overlay", "-o", options, "overlay", "/var/lib")


def _reap(*_: object) -> None:
    while True:
        try:
            pid, _status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return


def _run(*command: str) -> None:
    subprocess.run(command, check=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
