"""Error codes of the hub's audit log; those of records and proofs are in ``cellward.audit.errors``."""

from __future__ import annotations

from cellward.errors import Conflict, Exhausted, NotFound, Refused, define

NO_REALM = define(
    "audit/no-realm",
    Conflict,
    "This hub has no root of trust yet, so its log has no name to be signed under.",
    hint="Run `cellward init` once against this hub.",
)
TOO_LARGE = define(
    "audit/batch-too-large",
    Exhausted,
    "A batch of audit records is larger than the hub takes at once.",
    hint="Send fewer records in one batch.",
)
FOREIGN_REALM = define(
    "audit/foreign-realm",
    Refused,
    "An audit record belongs to another installation.",
    hint="The agent was installed for another hub; its records cannot be in this log.",
)
OLD_EPOCH = define(
    "audit/old-epoch",
    Refused,
    "An audit chain goes on in an epoch that a later one has ended.",
    hint="Two copies of one agent are running, or its state was restored from an older backup; start "
    "it with a new epoch.",
)
LOG_BEHIND = define(
    "audit/log-behind",
    Refused,
    "The hub's audit log is shorter than what the agent has already seen.",
    hint="The hub's store was restored from an older backup; agents begin a new epoch when they "
    "reconnect, and the log records it.",
)
KEY_CHANGED = define(
    "audit/key-changed",
    Refused,
    "The statement key of an agent changed within an epoch of its chain.",
    hint="A new statement key begins a new epoch.",
)
GONE = define(
    "audit/pruned",
    NotFound,
    "The records are not in the hub's log any more: they were exported and pruned.",
    hint="Read them in the exported segment; its hashes are still in the log.",
)
UNKNOWN_SEGMENT = define(
    "audit/unknown-segment",
    NotFound,
    "There is no such segment of the log that can be exported.",
    hint="A segment is sealed when the log has grown past its end; list them with GET /v1/audit/segments.",
)
NOT_OLDEST = define(
    "audit/not-oldest-segment",
    Conflict,
    "Segments are pruned from the oldest on.",
    hint="Export and prune the segment that is named first.",
)
SEGMENT_DIFFERS = define(
    "audit/segment-differs",
    Refused,
    "What was exported is not this segment, so nothing was pruned.",
    hint="Export the segment again, and compare the SHA-256 of the file.",
)
