"""The floor: what a bare ``grpc.aio`` server pays for as many connections. ``python -m bench.floor DIRECTORY``.

Mutual TLS, one stream each, our keepalive, and for each agent an item, a receipt and its acknowledgement of about the
sizes that the hub's have; no store, no documents, no front. What the hub costs is given as a multiple of this, because
machines differ and this differs with them.

It writes ``floor.crt`` and ``floor.key`` (a self-signed certificate for both ends) into the directory, prints its
address, and sends the item to every stream for each line on standard input.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc.aio
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from cellward.runtime.memory import collect_rarely
from hub.sync.limits import SyncLimits

#: Bytes of an item and of an acknowledgement; a receipt has 400 (bench/load/floor.go has the same).
_ITEM, _ACK = b"x" * 600, b"a" * 60
_METHOD = "floor.Floor"


class Floor:
    """The server's streams."""

    def __init__(self) -> None:
        self._wakes: list[asyncio.Event] = []

    async def sync(self, _: AsyncIterator[bytes], context: grpc.aio.ServicerContext[Any, Any]) -> None:
        """Serve one stream: acknowledge what comes, send the item when woken."""
        await context.read()
        wake, writing = asyncio.Event(), asyncio.Lock()
        # Before the peer knows that it is connected: it is sent the next item for certain.
        self._wakes.append(wake)
        await context.write(_ACK)
        reading = asyncio.create_task(self._acknowledge(context, writing))
        try:
            while True:
                await wake.wait()
                wake.clear()
                async with writing:
                    await context.write(_ITEM)
        finally:
            reading.cancel()

    def go(self) -> None:
        """Send the item to everybody."""
        for wake in self._wakes:
            wake.set()

    async def _acknowledge(self, context: grpc.aio.ServicerContext[Any, Any], writing: asyncio.Lock) -> None:
        while await context.read() is not grpc.aio.EOF:
            # The receipt may be here before the item's write has returned, and a stream takes one write at a time.
            async with writing:
                await context.write(_ACK)


def certificate() -> tuple[bytes, bytes]:
    """Return a key and its own certificate for localhost, PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return private, made.public_bytes(serialization.Encoding.PEM)


async def serve(directory: Path) -> None:
    """Serve until standard input ends."""
    key, chain = certificate()
    (directory / "floor.key").write_bytes(key)
    (directory / "floor.crt").write_bytes(chain)
    floor = Floor()
    server = grpc.aio.server(options=SyncLimits().link_options())
    handler: Any = grpc.stream_stream_rpc_method_handler(floor.sync)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(_METHOD, {"Sync": handler}),))
    port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([(key, chain)], chain, True))  # noqa: FBT003
    await server.start()
    collect_rarely()
    sys.stdout.write(f"127.0.0.1:{port}\n")
    sys.stdout.flush()
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while await reader.readline():
        floor.go()


if __name__ == "__main__":
    asyncio.run(serve(Path(sys.argv[1])))
