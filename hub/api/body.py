"""From the bytes of a body to a request.

Invariant: nothing is built of a body before its size and the number of its parts are known to be small. What takes
longer than a moment is read in a thread, few at a time, so that nobody waits for somebody else's body.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from pydantic import BaseModel, ValidationError

from cellward.documents import canonical
from cellward.errors import CellwardError
from hub.api.errors import BAD_REQUEST
from hub.api.routing import explain

if TYPE_CHECKING:
    from hub.api.interfaces import Services
    from hub.api.routing import Route

#: Largest body of a route that takes no documents, bytes; settings may be lower.
SMALL_BODY = 64 * 1024
#: Most values, names and escapes in one body. An upload has two or three for each document.
MAX_PARTS = 8_192
#: Bodies beyond so many bytes are read in a thread, so many at a time.
_MOMENT, _THREADS = 64 * 1024, 2
#: Each of these begins or ends a value or a name, or makes one more piece of a text.
_SIGNS = (b",", b":", b"[", b"{", b"\\")


def limit_of(route: Route, services: Services) -> int:
    """Most bytes of the body of a route."""
    return services.max_body if route.large else min(SMALL_BODY, services.max_body)


class Parser:
    """Reads bodies; one per process."""

    def __init__(self) -> None:
        self._threads = asyncio.Semaphore(_THREADS)

    async def parse(self, body: bytes, model: type[BaseModel]) -> BaseModel:
        """Check a body; raises api/bad-request, naming each field unless they are many."""
        if len(body) <= _MOMENT:
            return parse(body, model)
        async with self._threads:
            return await asyncio.to_thread(parse, body, model)


def parse(body: bytes, model: type[BaseModel]) -> BaseModel:
    """``Parser.parse``, here and now."""
    if sum(body.count(sign) for sign in _SIGNS) > MAX_PARTS:
        raise BAD_REQUEST(f"the body has more than {MAX_PARTS} parts")
    body = body or b"{}"
    try:
        # Two programs read two values from one body where a key comes twice.
        canonical.parse(body, limit=len(body))
    except CellwardError as error:
        raise BAD_REQUEST(f"body: {error.message}") from error
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        raise BAD_REQUEST(explain(error)) from error
