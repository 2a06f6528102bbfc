"""Channels to the hub: how they are made, and the switch from an old certificate to a new one.

gRPC has no hot reload of a client certificate and keeps an expired one alive on a live channel, so a renewal builds a
second channel beside the first (V5). The holder knows which one is current; everyone who keeps a stream open waits on
``changed`` and moves over; the old channel is closed only after a grace period, and what is still in flight on it then
fails as any call to a hub that is away (``agent.link.calls``).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import grpc
import grpc.aio

from agent.link.identity import LinkIdentity
from cellward.identity.names import HUB_DNS_NAME
from cellward.runtime.keepalive import keepalive_options
from cellward.runtime.tasks import first_of

#: Largest message taken or sent, bytes.
MAX_MESSAGE = 4 * 1024 * 1024
#: Seconds an old channel stays open for calls in flight: longer than a fetch and than handing over a session may take.
OLD_CHANNEL_GRACE = 45.0
#: Old channels kept at most; a hub that orders renewal upon renewal gets the oldest closed at once.
MAX_OLD_CHANNELS = 3

_OPTIONS: tuple[tuple[str, str | int], ...] = (
    # Whatever address was dialled, directly or through a proxy: the name in the hub's leaf is fixed (V3).
    ("grpc.ssl_target_name_override", HUB_DNS_NAME),
    ("grpc.default_authority", HUB_DNS_NAME),
    ("grpc.max_receive_message_length", MAX_MESSAGE),
    ("grpc.max_send_message_length", MAX_MESSAGE),
    # Later than the hub's: where it is there, its pings are enough.
    *keepalive_options(18.0, 10.0),
    # Each channel has its own connection: a shared one would keep the old certificate in use after a renewal.
    ("grpc.use_local_subchannel_pool", 1),
    # Jittered by gRPC. A dial costs a hub that is away nothing, and one that is back is found this soon.
    ("grpc.initial_reconnect_backoff_ms", 250),
    ("grpc.max_reconnect_backoff_ms", 3_000),
    ("grpc.enable_retries", 0),
)


def link_options() -> list[tuple[str, str | int]]:
    """Arguments of every channel to a hub."""
    return list(_OPTIONS)


OpenChannel = Callable[[LinkIdentity], grpc.aio.Channel]


def enrolment_channel(address: str, hub_ca_pem: bytes) -> grpc.aio.Channel:
    """Channel to the enrolment port: server-authenticated, pinned to the CA from the join line and nothing else."""
    return grpc.aio.secure_channel(address, grpc.ssl_channel_credentials(hub_ca_pem), options=link_options())


def link_channel(identity: LinkIdentity) -> grpc.aio.Channel:
    """Channel to the link port, mutually authenticated."""
    credentials = grpc.ssl_channel_credentials(
        identity.hub_ca_pem.encode(), identity.key_pem.encode(), identity.chain_pem.encode()
    )
    return grpc.aio.secure_channel(identity.link_address, credentials, options=link_options())


async def connected(channel: grpc.aio.Channel, replaced: asyncio.Event, seconds: float) -> bool:
    """Wait until the channel has a connection; False when it has none in time, or was replaced meanwhile.

    Until then a call would fail at once and say nothing about the hub, as gRPC dials at its own pace.
    """
    ready = asyncio.ensure_future(channel.channel_ready())
    try:
        await first_of(ready, replaced.wait(), seconds=seconds)
        return ready.done() and not ready.cancelled() and ready.exception() is None
    finally:
        ready.cancel()
        await asyncio.gather(ready, return_exceptions=True)


class ChannelHolder:
    """The current channel and its identity; see the module's text.

    Args:
        open_channel: makes a channel; tests and the benchmark may hand in their own.
    """

    def __init__(self, open_channel: OpenChannel = link_channel) -> None:
        self._open = open_channel
        self._channel: grpc.aio.Channel | None = None
        self._identity: LinkIdentity | None = None
        self._changed = asyncio.Event()
        self._closing: list[asyncio.Task[None]] = []

    @property
    def identity(self) -> LinkIdentity | None:
        """Identity of the current channel; None before the first join."""
        return self._identity

    @property
    def channel(self) -> grpc.aio.Channel | None:
        """The current channel; None before the first join and while the certificate is expired."""
        return self._channel

    @property
    def changed(self) -> asyncio.Event:
        """Set once when the channel that is current now is replaced."""
        return self._changed

    def install(self, identity: LinkIdentity) -> None:
        """Make a channel for ``identity`` the current one; the one before is closed after a grace period."""
        self._replace(identity, self._open(identity))

    def suspend(self, identity: LinkIdentity) -> None:
        """Have no channel: the certificate has expired, and each dial with it would cost the hub a handshake."""
        if self._channel is not None or self._identity is None:
            self._replace(identity, None)

    def _replace(self, identity: LinkIdentity, channel: grpc.aio.Channel | None) -> None:
        old, self._channel = self._channel, channel
        self._identity = identity
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()
        if old is not None:
            task = asyncio.ensure_future(_close_later(old))
            self._closing.append(task)
            task.add_done_callback(self._closing.remove)
            for oldest in self._closing[:-MAX_OLD_CHANNELS]:
                if not oldest.cancelling():
                    oldest.cancel()

    async def close(self) -> None:
        """Close every channel now."""
        for task in tuple(self._closing):
            task.cancel()
        await asyncio.gather(*self._closing, return_exceptions=True)
        if self._channel is not None:
            await self._channel.close()
            self._channel = None


async def _close_later(channel: grpc.aio.Channel) -> None:
    try:
        # Time for streams to be opened on the new channel first; then running calls get the grace period.
        await asyncio.sleep(OLD_CHANNEL_GRACE)
    finally:
        await channel.close()
