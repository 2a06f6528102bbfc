"""The architecture page speaks of what is there, and of every room."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "explanation" / "architecture.md"
_ROOTS = ("cellward", "hub", "agent")


def _named() -> set[str]:
    """Paths that the page names."""
    return set(re.findall(r"`((?:cellward|hub|agent|cli|tools|policies)/[\w/.]+)`", PAGE.read_text()))


def test_what_the_page_names_is_there() -> None:
    """A walk that leads to a file that was moved leads nowhere."""
    assert [path for path in sorted(_named()) if not (ROOT / path).exists()] == []


def test_every_room_is_on_the_page() -> None:
    """A room that nobody speaks of has no place."""
    rooms = {f"{root}/{one.parent.name}" for root in _ROOTS for one in (ROOT / root).glob("*/__init__.py")}
    assert len(rooms) > 20
    assert sorted(rooms - _named()) == []
