"""What the API tells the listener in front of it: whose connection this is, and whose is nobody's any more.

Invariant: who has shown no token in force, or whose token was revoked, holds no place of a known peer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cellward.errors import CellwardError
from hub.api.auth import Principal, authenticate
from hub.front.front import text_of

if TYPE_CHECKING:
    from aiohttp import web

    from hub.api.interfaces import Services


async def enter(request: web.Request, services: Services) -> Principal:
    """Return who asks, and tell the door.

    Raises:
        CellwardError: ``api/no-token``, ``api/bad-token``; what this connection had proven before ends with it.
    """
    peer = peer_of(request)
    try:
        principal = await authenticate(request, services.tokens, services.clock.now())
    except CellwardError:
        for door in services.doors:
            door.refused(peer)
        raise
    for door in services.doors:
        door.known(peer, principal.subject, kept=principal.role == "admin")
    return principal


def revoke(request: web.Request, services: Services, owner: str) -> None:
    """Cut every connection of an owner whose token is gone, except the one that waits for its answer."""
    for door in services.doors:
        door.forget(owner, but=peer_of(request))


def peer_of(request: web.Request) -> str:
    """Name the peer as the door does; empty once its connection is gone."""
    peer = request.transport.get_extra_info("peername") if request.transport is not None else None
    return text_of(peer) if peer is not None else ""
