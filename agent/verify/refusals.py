"""From errors to refusals (V15), and which errors are worth another try; pure."""

from __future__ import annotations

from typing import Final

from agent.audit.interfaces import RefusalText
from agent.kube.errors import KUBE_STALE
from agent.verify.errors import UNEXPECTED
from cellward.cells.errors import NOT_HOSTED
from cellward.errors import CellwardError, Exhausted, Unavailable
from cellward.policy.errors import NO_VERIFIED_SET

#: Not of class Unavailable, and yet they go away by themselves.
_PASSING: Final = frozenset({NO_VERIFIED_SET.code, KUBE_STALE.code})
#: Refusals that say that somebody tries something, or that something is broken: findings.
FINDINGS: Final = frozenset(
    {
        "document/equal-sequence-other-digest",
        "document/clock-stepped-back",
        "cell/digest-mismatch",
        "cell/document-mismatch",
        NOT_HOSTED.code,
    }
)
_ACTIONS: Final = (
    ("document/", "cell.verify"),
    ("cell/", "cell.verify"),
    ("cells/", "cell.render"),
    ("policy/", "cell.decide"),
)


def is_passing(error: CellwardError) -> bool:
    """Whether the same item may be carried out later without anybody signing anything."""
    full = isinstance(error, Exhausted) and error.code.startswith("spool/")
    return full or isinstance(error, Unavailable) or error.code in _PASSING


def refusal_of(error: CellwardError, subject: str) -> RefusalText:
    """Return the refusal of an error; ``subject`` stands in when the error names neither an object nor a document."""
    return RefusalText(
        code=error.code,
        reason=error.message,
        rule=error.details.get("rule", ""),
        object=error.details.get("object", "") or error.details.get("digest", "") or subject,
        next=error.hint,
    )


def unexpected(error: BaseException) -> CellwardError:
    """Return what is reported of an exception nobody expected: its type, never its text."""
    return UNEXPECTED(f"{type(error).__name__} while working on the cell; the agent's log has the rest")


def action_of(code: str) -> str:
    """Return the audit action a refusal with this code belongs to."""
    return next((action for prefix, action in _ACTIONS if code.startswith(prefix)), "cell.apply")
