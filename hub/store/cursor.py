"""Cursors of pages: opaque text over the sort key of the last row, checked when it comes back."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Sequence

from hub.store.errors import BAD_CURSOR

#: Longest cursor taken, characters.
MAX_CURSOR = 1024
#: Most rows of one page.
MAX_PAGE = 1000


def encode_cursor(key: Sequence[str | int]) -> str:
    """Return the cursor that continues after the row with this sort key."""
    return base64.urlsafe_b64encode(json.dumps(list(key), separators=(",", ":")).encode()).decode("ascii")


def decode_cursor(cursor: str, types: Sequence[type[str | int]]) -> list[str | int] | None:
    """Return the sort key in a cursor, None for the empty one; raises store/bad-cursor."""
    if not cursor:
        return None
    if len(cursor) > MAX_CURSOR:
        raise BAD_CURSOR("the cursor was not made by this hub")
    try:
        key = json.loads(base64.b64decode(cursor, altchars=b"-_", validate=True))
    except (binascii.Error, ValueError, RecursionError) as error:
        raise BAD_CURSOR("the cursor was not made by this hub") from error
    if not isinstance(key, list) or [type(part) for part in key] != list(types):
        raise BAD_CURSOR("the cursor belongs to another list")
    if any(isinstance(part, int) and not 0 <= part < 2**63 for part in key):
        raise BAD_CURSOR("the cursor was not made by this hub")
    return key


def page_size(limit: int) -> int:
    """Return ``limit`` within the bounds of a page."""
    return max(1, min(limit, MAX_PAGE))
