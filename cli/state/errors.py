"""Error codes of the local state."""

from __future__ import annotations

from cellward.errors import Conflict, Internal, InvalidInput, Unavailable, define

BAD_STATE = define(
    "cli/bad-state",
    InvalidInput,
    "The local state cannot be read.",
    hint="Restore the directory from a backup, or run `cellward trust repair`; nothing is signed until then.",
)
STATE_FORMAT = define(
    "cli/state-format",
    InvalidInput,
    "The local state was written by another version of this program.",
    hint="Use the version that wrote it, or a newer one.",
)
STATE_BUSY = define(
    "cli/state-busy",
    Unavailable,
    "The local state is in use by another command.",
    hint="Wait until the other command is done, and try again.",
)
FOREIGN_STATE = define(
    "cli/foreign-state",
    Conflict,
    "The local state belongs to another realm than trust.yaml.",
    hint="Use one --home per installation.",
)
NUMBER_USED = define(
    "cli/number-used",
    Internal,
    "Another document was signed with this number already, so nothing was signed.",
    hint="Run the command again; report it when it happens twice.",
)
