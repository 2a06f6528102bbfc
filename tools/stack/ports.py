"""Ports on loopback for programs that end and come back at the same address."""

from __future__ import annotations

import random
import socket
from contextlib import ExitStack
from pathlib import Path
from typing import Final

#: Where the kernel of Linux says which ports it gives to clients; ip(7).
_RANGE: Final = Path("/proc/sys/net/ipv4/ip_local_port_range")
_LOWEST: Final = 10_000
_TRIES: Final = 1000


def free_ports(count: int) -> list[int]:
    """Return ports nobody listens on, and none that a client may be given meanwhile.

    Ports that the kernel chooses are of the range it also gives to clients, on loopback too: a program that was stopped
    may find its own in use by somebody's connection when it comes back.
    """
    below = _lowest_of_clients()
    with ExitStack() as held:
        found: list[int] = []
        for _ in range(_TRIES):
            if len(found) == count:
                return found
            # No secret, and not seeded: what runs beside this draws too.
            port = random.randrange(_LOWEST, below) if below > _LOWEST + _TRIES else 0  # noqa: S311 - as said
            probe = held.enter_context(socket.socket())
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            found.append(int(probe.getsockname()[1]))
        raise OSError(f"no {count} free ports from {_LOWEST} to {below}")


def _lowest_of_clients() -> int:
    try:
        return int(_RANGE.read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return 0
