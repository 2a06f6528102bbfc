"""Bounds of the listeners, before and after a peer is known; in seconds and bytes unless a name says otherwise."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SyncLimits:
    """All bounds of enrolment and link; tests make them short, operators rarely change them."""

    enrolment_message: int = 16 * 1024
    link_message: int = 2 * 1024 * 1024
    metadata: int = 8 * 1024
    streams_per_connection: int = 16
    calls_per_cluster: int = 24
    enrolment_calls: int = 4096
    handshake: float = 10.0
    #: Shorter than a leaf lives, longer than its half: an agent that renews never meets it.
    connection_age: float = 45 * 60.0
    connection_grace: float = 30.0
    keepalive: float = 30.0
    #: How often every open stream's certificate and lock are looked at again (V4: at most one second).
    recheck: float = 0.5
    #: How long changes of bindings and locks are gathered before the streams are looked at because of them.
    settle: float = 0.1
    hello: float = 10.0
    heartbeat: float = 15.0
    silence: float = 90.0
    write: float = 20.0
    commands: int = 16
    #: How long a drained stream still takes what its agent had on the way.
    linger: float = 5.0
    drain_min_ms: int = 500
    drain_max_ms: int = 5000

    def options(self, message: int) -> list[tuple[str, int]]:
        """Arguments of a gRPC server with these bounds."""
        return [
            ("grpc.max_receive_message_length", message),
            ("grpc.max_send_message_length", self.link_message),
            ("grpc.max_metadata_size", self.metadata),
            ("grpc.absolute_max_metadata_size", self.metadata * 2),
            ("grpc.max_concurrent_streams", self.streams_per_connection),
            ("grpc.server_handshake_timeout_ms", int(self.handshake * 1000)),
            ("grpc.max_connection_age_ms", int(self.connection_age * 1000)),
            ("grpc.max_connection_age_grace_ms", int(self.connection_grace * 1000)),
            ("grpc.keepalive_time_ms", int(self.keepalive * 1000)),
            ("grpc.keepalive_timeout_ms", 10_000),
            ("grpc.keepalive_permit_without_calls", 1),
            ("grpc.http2.min_recv_ping_interval_without_data_ms", 5_000),
            ("grpc.so_reuseport", 0),
        ]
