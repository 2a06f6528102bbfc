"""Which refusals of a cell the API shows, while its receipt and its state come one after the other."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from cellward.documents.names import CellKey
from hub.api.resources.convert import cell_state
from hub.store.interfaces import CellRow, DesiredRow, ReceiptRow, StatusRow

KEY = CellKey("shop", "cart", "dev")
WANTED, BEFORE = "sha256:" + "2" * 64, "sha256:" + "1" * 64
NOON = datetime(2026, 12, 1, 12, tzinfo=UTC)
LATER = NOON + timedelta(milliseconds=50)


def refused(code: str) -> list[dict[str, str]]:
    """One refusal."""
    return [{"code": code, "rule": "r", "object": "o", "reason": "why", "next": "do"}]


def shown(receipt: ReceiptRow | None, status: StatusRow | None) -> list[str]:
    """Codes the API shows."""
    desired = DesiredRow("eu-1", KEY, 2, WANTED, (), "run", NOON)
    return [one.code for one in cell_state(CellRow(desired, status, receipt), {}).refusals]


def receipt(*, accepted: bool, at: datetime, digest: str = WANTED) -> ReceiptRow:
    """An answer."""
    said = [] if accepted else refused("in/receipt")
    return ReceiptRow("eu-1", KEY, 2, digest, accepted, {"refusals": said}, b"", at)


def state(code: str, at: datetime) -> StatusRow:
    """A state."""
    return StatusRow("eu-1", KEY, {"refusals": refused(code) if code else []}, at)


@pytest.mark.parametrize(
    ("answer", "status", "codes"),
    [
        (receipt(accepted=False, at=LATER), state("of/the-one-before", NOON), ["in/receipt"]),
        (receipt(accepted=False, at=NOON), state("in/state", LATER), ["in/state"]),
        (receipt(accepted=False, at=NOON), state("", LATER), ["in/receipt"]),
        (receipt(accepted=False, at=LATER), None, ["in/receipt"]),
        (receipt(accepted=True, at=LATER), state("in/state", NOON), ["in/state"]),
        (receipt(accepted=False, at=LATER, digest=BEFORE), state("in/state", NOON), ["in/state"]),
        (None, state("in/state", NOON), ["in/state"]),
        (None, None, []),
    ],
)
def test_v15_what_was_said_last_is_shown(answer: ReceiptRow | None, status: StatusRow | None, codes: list[str]) -> None:
    """V15: a newest wish is never shown with the refusals of the one before."""
    assert shown(answer, status) == codes
