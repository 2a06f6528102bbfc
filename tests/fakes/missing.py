"""What a test needs and this machine has not: a reason to skip it, and in CI a failure."""

from __future__ import annotations

import os
from typing import NoReturn

import pytest


def in_ci() -> bool:
    """Whether ``CI`` says that nothing may be missing."""
    return os.environ.get("CI", "").lower() in {"true", "1"}


def skip(reason: str) -> NoReturn:
    """Skip the test for this reason; with ``CI=true`` fail it."""
    if in_ci():
        pytest.fail(f"{reason}; CI never goes without")
    pytest.skip(reason)
