"""Is the one who says Hello the one who joined, or a copy (V7).

Three signs: a key that a newer one in use has followed, a second stream while the first one still answers, neither of
which the other end can talk itself out of, and another Kubernetes cluster than at first contact, which finds copies of
an honest agent only: a thief says what he likes of where he is. Each locks both, since nobody can tell copy from
original here. What can happen to an honest agent locks nobody: it meets a renewal that its older channel has not heard
of, a stream nobody answers on any more, and a new authority of its API server.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from cellward.identity.x509 import PeerIdentity
from cellward.runtime.clock import Clock
from cellward.wire.v1 import link_pb2
from hub.authority.copies import Copies
from hub.authority.errors import OVERTAKEN, REPLACED, STALE_KEY
from hub.authority.lineage import HANDOVER, Place, is_handover, place_of
from hub.store.interfaces import ClusterRow
from hub.sync.errors import ANOTHER_CLUSTER, ANOTHER_PLATFORM_CA, TWO_LIVE_STREAMS
from hub.sync.interfaces import DirectoryPort

#: Boots, and overtaken keys, remembered at most.
_BOOTS: Final = 10_000
#: So many streams that follow one of the same boot and certificate, within so many seconds, are not one agent's.
FOLLOWS: Final = 10
_FOLLOWS_SECONDS: Final = 600.0


class Twins:
    """Judges each Hello, and remembers the boot that last spoke with the newest key of each cluster."""

    def __init__(self, directory: DirectoryPort, copies: Copies, clock: Clock) -> None:
        self._directory = directory
        self._copies = copies
        self._clock = clock
        self._boots: dict[str, str] = {}
        #: When a stream of the same boot and certificate followed one that was there, by cluster.
        self._follows: dict[str, deque[float]] = {}
        #: When a key was first turned away for a newer one, by cluster and key; on the monotonic clock.
        self._overtaken: dict[tuple[str, str], float] = {}

    async def check(self, peer: PeerIdentity, bound: ClusterRow, hello: link_pb2.Hello) -> None:
        """Judge a Hello; raises authority/stale-key, authority/overtaken, authority/replaced, link/another-cluster."""
        await self._check_key(peer, bound, hello.boot_id)
        await self._check_platform(bound, hello)
        self._boots.pop(bound.name, None)
        self._boots[bound.name] = hello.boot_id
        while len(self._boots) > _BOOTS:
            del self._boots[next(iter(self._boots))]

    def follow_too_often(self, cluster: str) -> bool:
        """Note that a stream follows one of the same boot and certificate, and say whether two take turns.

        An agent opens a second stream for a renewal, which has another certificate, or when it is ordered to reconnect.
        A copy that says the boot of the original is superseded by it, and supersedes it, every few seconds.
        """
        now, known = self._clock.monotonic(), self._follows.pop(cluster, deque(maxlen=FOLLOWS))
        known.append(now)
        self._follows[cluster] = known
        while len(self._follows) > _BOOTS:
            del self._follows[next(iter(self._follows))]
        return len(known) == FOLLOWS and now - known[0] < _FOLLOWS_SECONDS

    async def two_live(self, cluster: str, newer: str, older: str, address: str) -> None:
        """Lock both of two streams of a cluster that answer, by their boots; always raises link/two-live-streams."""
        bound = await self._directory.binding(cluster)
        reason = "two processes of one installation have a stream open and both answer"
        details = {"found": newer, "expected": older, "address": address}
        if bound is not None:
            await self._copies.found(bound.name, bound.uid, code=TWO_LIVE_STREAMS.code, reason=reason, details=details)
        raise TWO_LIVE_STREAMS(reason, cluster=cluster)

    async def _check_key(self, peer: PeerIdentity, bound: ClusterRow, boot_id: str) -> None:
        place = place_of(bound, peer.spki_sha256, peer.generation)
        if place is Place.REPLACED:
            raise REPLACED(f"generation {peer.generation} of {peer.name} was replaced", cluster=peer.name)
        if place is not Place.STALE:
            return
        same_boot = self._boots.get(bound.name, boot_id) == boot_id
        if same_boot and is_handover(bound.bound_at, self._clock.now()) and self._is_new_here(peer):
            raise OVERTAKEN(f"generation {bound.generation} of {peer.name} is in use", cluster=peer.name)
        reason = f"generation {peer.generation} says Hello while generation {bound.generation} is in use"
        details = {"generation": str(peer.generation), "spkiSha256": peer.spki_sha256, "found": boot_id}
        await self._copies.found(bound.name, bound.uid, code=STALE_KEY.code, reason=reason, details=details)
        raise STALE_KEY(reason, cluster=peer.name)

    def _is_new_here(self, peer: PeerIdentity) -> bool:
        """Whether this overtaken key first came so lately that its agent may still be leaving its channel.

        A copy that renews again and again keeps the newest certificate new, and must not so keep the original quiet.
        """
        now, key = self._clock.monotonic(), (peer.name, peer.spki_sha256)
        first = self._overtaken.setdefault(key, now)
        while len(self._overtaken) > _BOOTS:
            del self._overtaken[next(iter(self._overtaken))]
        return now - first < HANDOVER

    async def _check_platform(self, bound: ClusterRow, hello: link_pb2.Hello) -> None:
        uid, ca = hello.platform_uid, hello.platform_ca
        if not uid:
            return
        if bound.platform_uid and uid != bound.platform_uid:
            reason = f"the agent joined from cluster {bound.platform_uid} and speaks from {uid}"
            details = {"found": uid, "expected": bound.platform_uid}
            await self._copies.found(bound.name, bound.uid, code=ANOTHER_CLUSTER.code, reason=reason, details=details)
            raise ANOTHER_CLUSTER(reason, cluster=bound.name)
        if bound.platform_uid and ca and bound.platform_ca and ca != bound.platform_ca:
            await self._copies.finding(
                bound.name,
                code=ANOTHER_PLATFORM_CA.code,
                reason="the authority of the API server has changed",
                details={"found": ca, "expected": bound.platform_ca},
            )
        if (uid, ca or bound.platform_ca) != (bound.platform_uid, bound.platform_ca):
            await self._directory.moved(bound.name, uid, ca or bound.platform_ca)
