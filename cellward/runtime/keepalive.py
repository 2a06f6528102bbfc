"""Channel arguments with which gRPC finds that the other end of a connection is gone (HTTP/2 PING, RFC 9113 6.7)."""

from __future__ import annotations


def keepalive_options(every: float, timeout: float) -> list[tuple[str, int]]:
    """Arguments of a channel or a server, in seconds: a connection ends ``every + timeout`` after its last byte.

    A ping that is on its way waits for its answer as long as ``grpc.http2.ping_timeout_ms`` says, a minute unless it is
    set, whatever the keepalive's own time is; and without ``max_pings_without_data`` only one a minute is sent on a
    connection where nothing else is (gRPC proposal L116).
    """
    return [
        ("grpc.keepalive_time_ms", int(every * 1000)),
        ("grpc.keepalive_timeout_ms", int(timeout * 1000)),
        ("grpc.http2.ping_timeout_ms", int(timeout * 1000)),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.keepalive_permit_without_calls", 1),
    ]
