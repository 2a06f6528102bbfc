"""Errors of the durable state."""

from __future__ import annotations

from cellward.errors import Conflict, Exhausted, Internal, Refused, TooNew, Unavailable, define

FULL = define(
    "spool/full",
    Exhausted,
    "The agent's durable state is full.",
    hint="Free space on the agent's volume, raise spool.max_bytes or spool.audit_max_bytes, or bring the hub back.",
)
UNWRITABLE = define(
    "spool/unwritable",
    Unavailable,
    "The agent's durable state cannot be written.",
    hint="Check the agent's volume: permissions, read-only mounts, disk errors.",
)
#: Codes of a state file that cannot be written for now: whoever can go on without it does.
CANNOT_WRITE = frozenset({FULL.code, UNWRITABLE.code})
CLOSED = define("spool/closed", Internal, "The durable state is closed.", hint="The agent is stopping.")
LOCKED = define(
    "spool/locked",
    Conflict,
    "Another process uses this state directory.",
    hint="Run one agent per state directory; find the other process and stop it.",
)
TOO_NEW = define(
    "spool/too-new",
    TooNew,
    "The state file was written by a newer agent.",
    hint="Start an agent at least as new as the one that wrote it.",
)
FOREIGN = define(
    "spool/foreign-state",
    Refused,
    "The state directory belongs to another cluster.",
    hint="Give the agent its own volume; a uid is never reused.",
)
FLOOR_WOULD_FALL = define(
    "spool/floor-would-fall",
    Refused,
    "A sequence floor may not fall.",
    hint="Publish a Deployment with a higher sequence.",
)

STATE_MISSING = define(
    "spool/state-missing",
    Refused,
    "The agent started without the state it had before.",
    hint="Keep the agent's volume. Its floors came back from their copy; deploy cells again, for "
    "they have no automatic rollback until then.",
)
STATE_OLDER = define(
    "spool/state-older",
    Refused,
    "The agent's state was restored from an older backup.",
    hint="Do not restore the agent's volume from a snapshot. What its cells run stays; deliver them again, for nothing"
    " in them is repaired until the hub names them.",
)
ANCHOR_MISSING = define(
    "spool/anchor-missing",
    Refused,
    "The anchor of the agent's state is gone.",
    hint="Keep the anchor Secret in the agent's namespace; without it lost state cannot be noticed.",
)
FLOORS_LOWER = define(
    "spool/floors-copy-lower",
    Refused,
    "The copy of the floors was restored from an older backup or emptied; it has been written again.",
    hint="Find out who changed Secret cellward-agent-anchor; the agent's own state still holds the floors.",
)
FLOORS_DIFFER = define(
    "spool/floors-differ",
    Refused,
    "The agent's state and the copy of its floors know two documents of one sequence.",
    hint="Find out who changed the agent's volume or Secret cellward-agent-anchor, then deploy the cells again.",
)
FLOORS_TOO_LARGE = define(
    "spool/floors-too-large",
    Exhausted,
    "The copy of the floors does not fit into its Secret, so nothing new is accepted.",
    hint="A cluster keeps floors of about 15,000 cells; spread the cells over more clusters.",
)
STATEMENT_KEY_CHANGED = define(
    "spool/statement-key-changed",
    Refused,
    "The agent's statement key has changed.",
    hint="Keep the agent's volume whole; invite the cluster again with --replace, and endorse the new key.",
)
ANCHOR_DAMAGED = define(
    "spool/anchor-damaged",
    Refused,
    "The anchor of the agent's state could not be read and was recreated.",
    hint="Find out who changed Secret cellward-agent-anchor; state lost before that moment would not be noticed.",
)
STATE_CORRUPT = define(
    "spool/state-corrupt",
    Refused,
    "The state file was damaged and has been set aside.",
    hint="The damaged file lies beside the new one; check the volume.",
)
ANCHOR_UNAVAILABLE = define(
    "spool/anchor-unavailable",
    Unavailable,
    "The copy of the floors in the agent's namespace cannot be written.",
    hint="Look at the agent's log and at the cluster's API server; it is tried again.",
)
