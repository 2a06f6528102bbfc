"""The default bounds fit what machines commonly allow."""

from __future__ import annotations

from hub.front.limits import API, ENROLMENT, LINK, METRICS, shared

_DEFAULTS = {"link": LINK, "enrolment": ENROLMENT, "api": API, "metrics": METRICS}


def test_defaults_are_not_cut_at_twenty_thousand_descriptors() -> None:
    """A hub with nothing set shows no red line for want of descriptors on such a machine."""
    assert shared(_DEFAULTS, 20_000) == _DEFAULTS
