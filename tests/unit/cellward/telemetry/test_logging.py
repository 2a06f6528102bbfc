"""Structured logging: JSON lines, and nothing that is not on the list."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator

import pytest
import structlog

from cellward.telemetry.logfields import MAX_VALUE, REDACTED
from cellward.telemetry.logging import configure_logging


@pytest.fixture
def lines() -> Iterator[io.StringIO]:
    """What is logged during a test; the process's set-up is put back."""
    stream = io.StringIO()
    configure_logging("info", stream=stream)
    yield stream
    structlog.reset_defaults()


def test_a_field_that_is_not_allowed_is_never_printed(lines: io.StringIO) -> None:
    """A token handed to a log call by mistake does not leave the process; its name shows where to look."""
    structlog.get_logger().info("join-refused", code="authority/bad-token", token="cwj_secret")
    entry = json.loads(lines.getvalue())
    assert (entry["event"], entry["code"], entry["token"]) == ("join-refused", "authority/bad-token", REDACTED)
    assert "cwj_secret" not in lines.getvalue()


def test_long_values_are_cut_and_levels_hold(lines: io.StringIO) -> None:
    """One line stays one line of bounded length."""
    structlog.get_logger().debug("unseen")
    structlog.get_logger().warning("long", reason="x" * 10_000)
    entry = json.loads(lines.getvalue())
    assert (entry["level"], len(entry["reason"])) == ("warning", MAX_VALUE + 1)


def test_an_exception_is_printed_as_text(lines: io.StringIO) -> None:
    """A traceback is one field of the line."""
    try:
        int("boom")
    except ValueError:
        structlog.get_logger().exception("failed")
    assert "ValueError: invalid literal" in json.loads(lines.getvalue())["exception"]
