"""The one mapping between errors and gRPC status, in both directions.

The code and the hint of an error travel in trailing metadata (``cellward-code``, ``cellward-hint``), the message as
the status details. Only what is public in an error travels; an exception that is not ours becomes INTERNAL without
its text.
"""

from __future__ import annotations

from collections.abc import Iterable
from urllib.parse import quote, unquote

import grpc
import grpc.aio

from cellward.errors import CellwardError, known
from cellward.wire.errors import REMOTE_DENIED, REMOTE_REFUSED, REMOTE_UNAVAILABLE

CODE_KEY = "cellward-code"
HINT_KEY = "cellward-hint"
#: Longest message or hint sent, in characters: trailers share the metadata bound.
MAX_STATUS_TEXT = 512
#: Printable ASCII that needs no escape in metadata; percent itself is escaped.
_PLAIN = "".join(chr(c) for c in range(0x20, 0x7F) if chr(c) != "%")

_UNAVAILABLE = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.ABORTED,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNKNOWN,
    }
)
_DENIED = frozenset({grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED})


def status_of(error: CellwardError) -> tuple[grpc.StatusCode, str, tuple[tuple[str, str], ...]]:
    """Status code, details and trailing metadata of an error."""
    metadata = [(CODE_KEY, error.code)]
    if error.hint:
        metadata.append((HINT_KEY, quote(error.hint[:MAX_STATUS_TEXT], safe=_PLAIN)))
    return grpc.StatusCode[error.grpc_status], error.message[:MAX_STATUS_TEXT], tuple(metadata)


async def abort(context: grpc.aio.ServicerContext[object, object], error: CellwardError) -> None:
    """End the RPC with the status of ``error``; does not return, as ``context.abort`` raises."""
    code, details, metadata = status_of(error)
    await context.abort(code, details, metadata)


def error_of(error: grpc.aio.AioRpcError) -> CellwardError:
    """Error of a failed call: the very code when both ends know it, otherwise one of wire/remote-*."""
    metadata = _texts(error.trailing_metadata())
    message = error.details() or error.code().name
    hint = unquote(metadata.get(HINT_KEY, ""))
    code = metadata.get(CODE_KEY, "")
    entry = known(code)
    if entry is not None:
        return entry(message, hint=hint or None, remote="true")
    if error.code() in _UNAVAILABLE:
        entry = REMOTE_UNAVAILABLE
    elif error.code() in _DENIED:
        entry = REMOTE_DENIED
    else:
        entry = REMOTE_REFUSED
    return entry(message, hint=hint or None, remote="true", remote_code=code, status=error.code().name)


def _texts(metadata: Iterable[tuple[str, str | bytes]] | None) -> dict[str, str]:
    return {key: value for key, value in metadata or () if isinstance(value, str)}
