"""Error codes of audit records, chains, trees and checkpoints."""

from __future__ import annotations

from cellward.errors import Conflict, Exhausted, InvalidInput, Refused, TooNew, define

BAD_RECORD = define(
    "audit/bad-record",
    InvalidInput,
    "An audit record is malformed.",
    hint="Records are canonical JSON of schema cellward.audit/v1; the writer is damaged or not one of ours.",
)
RECORD_TOO_NEW = define(
    "audit/record-too-new",
    TooNew,
    "An audit record has a schema or field this version does not know.",
    hint="Upgrade the reader; it never takes a record it understands by half.",
)
GAP = define(
    "audit/gap",
    Conflict,
    "Audit records are missing before this one.",
    hint="Send again from the sequence number that is expected.",
)
FORK = define(
    "audit/fork",
    Refused,
    "Two different audit records claim the same place in a chain.",
    hint="The writer's state was copied or restored from an older backup, or its key is used twice; "
    "start it with a new epoch.",
)
DUPLICATE = define(
    "audit/duplicate",
    Conflict,
    "This audit record is in the chain already.",
    hint="Send only what follows the last acknowledged record.",
)
WRONG_CHAIN = define(
    "audit/wrong-chain",
    Refused,
    "An audit record belongs to another realm, writer or epoch than its chain.",
    hint="A writer can only extend its own chain, in the epoch it announced.",
)
BAD_CHECKPOINT = define(
    "audit/bad-checkpoint",
    Refused,
    "A checkpoint is malformed, not signed by the key it must be signed by, or about something else.",
    hint="Compare the key and the log origin with those given out of band.",
)
BAD_PROOF = define(
    "audit/bad-proof",
    Refused,
    "Verification of a Merkle proof failed.",
    hint="The log has shown two different histories; keep both checkpoints and tell the auditors.",
)
OUT_OF_TREE = define(
    "audit/out-of-tree",
    InvalidInput,
    "A proof was asked for an index or a size outside the tree.",
    hint="Ask within the size of the newest checkpoint.",
)
BAD_RECEIPT = define(
    "audit/bad-receipt",
    Refused,
    "A receipt is malformed, not signed by the key it must be signed by, or about something else.",
    hint="It proves nothing. Endorse the cluster (cellward clusters endorse), or find out who changed the receipt.",
)
TOO_FAST = define(
    "audit/too-fast",
    Exhausted,
    "An agent sends more audit records than the hub takes from one cluster.",
    hint="The records wait in the agent's spool. Find out what it records; limits.audit_bytes_per_second is the bound.",
)
NO_ROOM = define(
    "audit/no-room",
    Exhausted,
    "The hub keeps its last room for locks, bindings and its own records, and takes no audit records of agents.",
    hint="Free space on the volume of the hub's data directory; what agents recorded waits in their spools.",
)
