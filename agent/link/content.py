"""Content by digest and TUF metadata over the current channel; implements ``agent.policy.interfaces.ContentSource``.

What arrives is not verified here; only its size is bounded, and an answer that contradicts itself is refused.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable

import grpc.aio
import structlog
from google.protobuf.message import DecodeError

from agent.link.calls import hub_call
from agent.link.channels import ChannelHolder
from agent.link.errors import CONTENT_BROKEN, CONTENT_TOO_LARGE, HUB_UNAVAILABLE
from agent.policy.interfaces import FetchedSet
from cellward.errors import CellwardError, Unavailable
from cellward.wire.codec import MAX_CARRIED, MAX_CARRIED_SET, check_digest, is_digest
from cellward.wire.v1 import content_pb2, content_pb2_grpc, link_pb2

_log = structlog.get_logger()
#: Seconds one stream may take.
FETCH_TIMEOUT = 30.0
#: Documents carried by items and not asked for yet, and their bytes, at most.
CARRIED_COUNT, CARRIED_BYTES = 256, 2 * 1024 * 1024
#: Streams tried for one piece of content as long as each brought it further.
MAX_STREAMS = 5


class HubContent:
    """Fetches content from the hub.

    Args:
        channels: the current channel is taken again for each stream.
    """

    def __init__(self, channels: ChannelHolder) -> None:
        self._channels = channels
        self._carried: OrderedDict[str, bytes] = OrderedDict()
        self._size = 0
        self._set: tuple[tuple[int, int], content_pb2.PolicyFiles] | None = None

    def carry(self, documents: Iterable[link_pb2.CarriedDocument]) -> None:
        """Keep what came with an item until it is asked for: once, instead of a fetch, and no more believed than one.

        Bounded: what was carried longest ago is dropped first, and fetched when it is wanted.
        """
        for document in documents:
            # The digest is a key of what is kept, and so bounded as what is kept is.
            if not is_digest(document.digest) or not 0 < len(document.envelope) <= MAX_CARRIED:
                continue
            self._drop(document.digest)
            self._carried[document.digest] = document.envelope
            self._size += len(document.envelope)
            while self._size > CARRIED_BYTES or len(self._carried) > CARRIED_COUNT:
                self._drop(next(iter(self._carried)))

    def carry_set(self, notice: link_pb2.PolicyNotice) -> None:
        """Keep the policy files that came with the newest notice; a notice without any takes away those of the last."""
        files = notice.files
        held = (notice.held.root_version, notice.held.snapshot_version)
        self._set = (held, files) if files.metadata and files.ByteSize() <= MAX_CARRIED_SET else None

    async def fetch_digest(self, digest: str, limit: int) -> bytes | None:
        """Return the content of a digest, None when the hub has none.

        Raises:
            CellwardError: ``link/hub-unavailable``, ``link/content-too-large``, ``link/content-broken``.
        """
        carried = self._drop(check_digest(digest))
        if carried is not None and len(carried) <= limit:
            return carried
        return await self._fetch(content_pb2.FetchRequest(digest=digest), digest, limit)

    async def fetch_tuf(self, role: str, version: int | None, limit: int) -> bytes | None:
        """Return TUF metadata; None as version is the newest; raises as ``fetch_digest`` does."""
        request = content_pb2.FetchRequest(tuf=content_pb2.TufMetadata(role=role, version=version or 0))
        return await self._fetch(request, f"{role} {version or 'newest'}", limit)

    async def fetch_set(self, root_version: int, snapshot_version: int, limit: int) -> FetchedSet | None:
        """Return what an agent with these versions lacks of the newest policy set; None when it comes singly only.

        Raises ``link/hub-unavailable``. A hub that does not know the question, or answers nonsense, is asked singly.
        """
        carried, self._set = self._set, None
        if carried is not None:
            (root, snapshot), files = carried
            # What holds for whoever holds less is more than enough; what is missing all the same is fetched singly.
            if root <= root_version and snapshot <= snapshot_version and files.ByteSize() <= limit:
                return _fetched(files)
        wanted = content_pb2.PolicySet(root_version=root_version, snapshot_version=snapshot_version)
        try:
            data = await self._fetch(content_pb2.FetchRequest(policy_set=wanted), "the policy set", limit)
            found = content_pb2.PolicyFiles.FromString(data) if data is not None else None
        except Unavailable:
            raise
        except (CellwardError, DecodeError) as error:
            _log.info("policy-set-not-taken", reason=str(error))
            return None
        return None if found is None else _fetched(found)

    def _drop(self, digest: str) -> bytes | None:
        carried = self._carried.pop(digest, None)
        self._size -= len(carried or b"")
        return carried

    async def _fetch(self, request: content_pb2.FetchRequest, what: str, limit: int) -> bytes | None:
        received = bytearray()
        for _ in range(MAX_STREAMS):
            before = len(received)
            request.offset = before
            try:
                total = await self._stream(request, what, limit, received)
            except Unavailable:
                # Go on from where it broke, but only while that leads anywhere.
                if len(received) == before:
                    raise
                continue
            if total is None:
                return None
            if len(received) == total:
                return bytes(received)
        raise CONTENT_BROKEN(f"{what}: got {len(received)} bytes and no end", object=what)

    async def _stream(
        self, request: content_pb2.FetchRequest, what: str, limit: int, received: bytearray
    ) -> int | None:
        """Append what one stream brings; return the total size, None when absent."""
        channel = self._channels.channel
        if channel is None:
            raise HUB_UNAVAILABLE("the agent has no certificate to call the hub with")
        try:
            with hub_call(f"the fetch of {what}"):
                return await self._read(channel, request, what, limit, received)
        except Unavailable as error:
            raise HUB_UNAVAILABLE(error.message) from error

    async def _read(
        self, channel: grpc.aio.Channel, request: content_pb2.FetchRequest, what: str, limit: int, received: bytearray
    ) -> int | None:
        call = content_pb2_grpc.ContentStub(channel).Fetch(request, timeout=FETCH_TIMEOUT)
        total: int | None = None
        try:
            async for chunk in call:
                if chunk.absent:
                    return None
                if total is None:
                    total = chunk.total
                if chunk.total not in {0, total}:
                    raise CONTENT_BROKEN(f"{what}: its size changed from {total} to {chunk.total}", object=what)
                if total > limit or len(received) + len(chunk.data) > limit:
                    raise CONTENT_TOO_LARGE(f"{what}: more than {limit} bytes", object=what, limit=limit)
                received += chunk.data
                if len(received) > total:
                    raise CONTENT_BROKEN(f"{what}: more bytes than the {total} announced", object=what)
        finally:
            call.cancel()
        if total is None:
            raise CONTENT_BROKEN(f"{what}: the hub sent nothing", object=what)
        return total


def _fetched(files: content_pb2.PolicyFiles) -> FetchedSet:
    metadata = {(file.name.role, file.name.version): file.data for file in files.metadata}
    return FetchedSet(metadata, tuple(files.targets))
