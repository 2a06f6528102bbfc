"""Connections of peers that were let in once: they end when their peers may no longer speak, also without a call (V4).

A lock cuts calls, and an agent that has none open would keep its connections, and with them places others need. The
front counts connections by cluster; here it is remembered with which certificate each of them was let in last.
Bounded: as many for one cluster as the front lets it have; those it gives up are those that are forgotten here first.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Protocol

from cellward.errors import CellwardError
from cellward.identity.x509 import PeerIdentity
from hub.sync.gate import PeerGate


class Door(Protocol):
    """What stands before the listener: ``hub.front.front.Front``."""

    def known(self, peer: str, owner: str) -> None:
        """Hear that a peer has proven to be ``owner``."""
        ...

    def refused(self, peer: str) -> None:
        """Hear that what a peer has proven counts no more."""
        ...

    def forget(self, owner: str, but: str = "") -> None:
        """Cut everything an owner has."""
        ...


class KnownPeers:
    """Says to the door whose connections are whose, and whose are nobody's any more.

    Args:
        gate: says who may speak.
        most: connections of one cluster that are remembered.
    """

    def __init__(self, gate: PeerGate, most: int) -> None:
        self._gate = gate
        self._most = most
        #: By cluster: its peers by gRPC's text, with what they proved; the one used longest ago first.
        self._peers: dict[str, OrderedDict[str, PeerIdentity]] = {}
        self._cluster_of: dict[str, str] = {}
        self.door: Door | None = None

    def hear(self, peer: str, identity: PeerIdentity) -> None:
        """A call of this peer was let in."""
        # An address and port may be another's by now.
        self._drop(peer)
        mine = self._peers.setdefault(identity.name, OrderedDict())
        mine[peer] = identity
        self._cluster_of[peer] = identity.name
        if len(mine) > self._most:
            self._drop(next(iter(mine)))
        if self.door is not None:
            self.door.known(peer, identity.name)

    def look(self) -> None:
        """End the connections of whoever may no longer speak, once the calls on them have ended; called on a timer."""
        for cluster in [name for name in self._peers if not self._gate.is_calling(name)]:
            mine = self._peers[cluster]
            out = [peer for peer, identity in mine.items() if self._is_out(identity)]
            if self.door is not None and out:
                self._end(self.door, cluster, out)
            for peer in out:
                self._drop(peer)

    def _drop(self, peer: str) -> None:
        cluster = self._cluster_of.pop(peer, None)
        if cluster is None:
            return
        del self._peers[cluster][peer]
        if not self._peers[cluster]:
            del self._peers[cluster]

    def _end(self, door: Door, cluster: str, out: list[str]) -> None:
        if len(out) == len(self._peers[cluster]):
            door.forget(cluster)
            return
        # A certificate that was followed by another one, whose connections stay: these are a stranger's from here on.
        for peer in out:
            door.refused(peer)

    def _is_out(self, identity: PeerIdentity) -> bool:
        try:
            self._gate.check_standing(identity)
        except CellwardError:
            return True
        return False
