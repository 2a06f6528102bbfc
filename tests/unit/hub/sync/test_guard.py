"""The guard denies by default: what is on the list passes, whatever else is registered (V2)."""

from __future__ import annotations

from typing import Any, NamedTuple

import grpc

from hub.sync.guard import Guard, Strangers, _deny


class Details(NamedTuple):
    """What gRPC says of a call."""

    method: str
    invocation_metadata: tuple[tuple[str, str], ...] = ()


async def resolve(guard: Guard, method: str) -> Any:
    """Handler the guard leaves for a method that somebody registered."""

    async def registered(_: Any) -> Any:
        return grpc.unary_unary_rpc_method_handler(lambda request, context: request)

    return await guard.intercept_service(registered, Details(method))  # type: ignore[arg-type]


async def test_v2_a_registered_method_that_is_not_listed_is_denied() -> None:
    """V2: adding a service to the server is not enough; near misses of a listed name are other names."""
    guard = Guard(["/cellward.wire.v1.Link/Sync"], Strangers(1.0, 1))
    assert (await resolve(guard, "/cellward.wire.v1.Link/Sync")).stream_stream is not _deny
    for method in (
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
        "/cellward.wire.v1.Link/Sync/",
        "/cellward.wire.v1.Link/sync",
        "cellward.wire.v1.Link/Sync",
        "",
    ):
        assert (await resolve(guard, method)).stream_stream is _deny, method


async def test_v16_a_shape_of_call_that_no_service_has_is_denied() -> None:
    """A handler the guard cannot wrap is not let through unwrapped."""

    async def registered(_: Any) -> Any:
        return grpc.stream_unary_rpc_method_handler(lambda request, context: request)

    handler: Any = await Guard(["/a/b"], Strangers(1.0, 1)).intercept_service(registered, Details("/a/b"))  # type: ignore[arg-type]
    assert handler.stream_stream is _deny
