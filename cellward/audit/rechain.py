"""A record in another place: what a log refused is chained again, so that nothing of it is lost.

Invariants: what the record says, when and by whom stays as it was; where it stood first is added (``oldEpoch``,
``oldSeq``) and never changed by a second move; what it says of the log is what its new place may say.
"""

from __future__ import annotations

import json
from typing import Any

from cellward.audit.errors import BAD_RECORD
from cellward.audit.record import parse_record

# As in ``record``: what it writes is canonical for what a record may hold, and ``parse_record`` checks that it is.
_encode = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode


def rechain(data: bytes, *, epoch: int, seq: int, prev: str, log_size: int, log_root: str) -> bytes:
    """Return the bytes of a record at another place of its writer's chain.

    Raises what ``parse_record`` raises, also for a record that has no room for the place it had before.
    """
    try:
        body: Any = json.loads(data)
        details: dict[str, str] = {"oldEpoch": str(body["epoch"]), "oldSeq": str(body["seq"]), **body["details"]}
        body |= {"epoch": epoch, "seq": seq, "prev": prev, "logSize": log_size, "logRoot": log_root}
        moved = _encode({**body, "details": details}).encode("utf-8")
    except (ValueError, TypeError, LookupError, RecursionError) as error:
        raise BAD_RECORD("the record cannot be read") from error
    parse_record(moved)
    return moved
