"""Bounds of the listeners, before and after a peer is known; in seconds and bytes unless a name says otherwise."""

from __future__ import annotations

from dataclasses import dataclass

from cellward.runtime.keepalive import keepalive_options


@dataclass(frozen=True, slots=True)
class SyncLimits:
    """All bounds of enrolment and link; tests make them short, operators rarely change them."""

    enrolment_message: int = 16 * 1024
    link_message: int = 2 * 1024 * 1024
    metadata: int = 8 * 1024
    streams_per_connection: int = 16
    calls_per_cluster: int = 24
    handshake: float = 10.0
    link_connections: int = 4_096
    #: An agent's connection has a stream open all the time; one without any is of no use to an honest one.
    link_idle: float = 60.0
    #: Enrolment is for strangers: nobody may sit there. A join is one call, made at once on a connection of its own.
    enrolment_calls: int = 4096
    enrolment_streams: int = 4
    enrolment_connections: int = 2048
    enrolment_handshake: float = 5.0
    enrolment_idle: float = 10.0
    enrolment_age: float = 30.0
    enrolment_grace: float = 5.0
    #: How long a stranger's call may wait for its message, and how many calls of one address may do so at a time.
    first_message: float = 5.0
    silent_per_address: int = 1024
    #: Shorter than a leaf lives, longer than its half: an agent that renews never meets it.
    connection_age: float = 45 * 60.0
    connection_grace: float = 30.0
    #: Half-open connections show within 30 seconds: a ping after so long without a byte, and so long for its answer.
    #: gRPC does it outside of Python, so an idle agent costs almost nothing.
    keepalive: float = 15.0
    keepalive_timeout: float = 10.0
    #: How often every open stream's certificate and lock are looked at again (V4: at most one second).
    recheck: float = 0.5
    #: How long changes of bindings and locks are gathered before the streams are looked at because of them.
    settle: float = 0.1
    #: How long a frame whose acknowledgement can wait waits for others to be acknowledged with it.
    gather: float = 0.2
    hello: float = 10.0
    #: Streams that one cluster begins: so many at once, then so many a second; an agent backs off long before.
    hellos: int = 30
    hellos_per_second: float = 0.5
    #: An agent may hang while gRPC still answers pings for it: it is heard once a minute.
    heartbeat: float = 60.0
    #: Who was not heard for so long is asked to answer with the next heartbeat; who does not is gone.
    quiet: float = 75.0
    silence: float = 150.0
    write: float = 20.0
    #: How long the stream of another boot has to show that somebody is still there, before it is superseded.
    twin: float = 5.0
    commands: int = 16
    #: Metrics of one cluster, bytes: no honest agent pushes so much for long. A snapshot counts as one of that size.
    metrics_burst: int = 4 * 1024 * 1024
    metrics_per_second: int = 256 * 1024
    metrics_least: int = 64 * 1024
    #: How long a drained stream still takes what its agent had on the way.
    linger: float = 5.0
    drain_min_ms: int = 500
    drain_max_ms: int = 5000

    def link_options(self) -> list[tuple[str, int]]:
        """Arguments of the link's gRPC server."""
        return [
            *self._options(self.link_message),
            ("grpc.max_concurrent_streams", self.streams_per_connection),
            ("grpc.max_allowed_incoming_connections", self.link_connections),
            ("grpc.server_handshake_timeout_ms", int(self.handshake * 1000)),
            ("grpc.max_connection_idle_ms", int(self.link_idle * 1000)),
            ("grpc.max_connection_age_ms", int(self.connection_age * 1000)),
            ("grpc.max_connection_age_grace_ms", int(self.connection_grace * 1000)),
        ]

    def enrolment_options(self) -> list[tuple[str, int]]:
        """Arguments of the enrolment's gRPC server."""
        return [
            *self._options(self.enrolment_message),
            ("grpc.max_concurrent_streams", self.enrolment_streams),
            ("grpc.max_allowed_incoming_connections", self.enrolment_connections),
            ("grpc.server_handshake_timeout_ms", int(self.enrolment_handshake * 1000)),
            ("grpc.max_connection_idle_ms", int(self.enrolment_idle * 1000)),
            ("grpc.max_connection_age_ms", int(self.enrolment_age * 1000)),
            ("grpc.max_connection_age_grace_ms", int(self.enrolment_grace * 1000)),
        ]

    def _options(self, message: int) -> list[tuple[str, int]]:
        return [
            ("grpc.max_receive_message_length", message),
            ("grpc.max_send_message_length", self.link_message),
            ("grpc.max_metadata_size", self.metadata),
            ("grpc.absolute_max_metadata_size", self.metadata * 2),
            *keepalive_options(self.keepalive, self.keepalive_timeout),
            ("grpc.http2.min_recv_ping_interval_without_data_ms", 5_000),
            ("grpc.so_reuseport", 0),
        ]
