"""Conditions in the status of an object; pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def condition_of(obj: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """Return a condition of an object as the API server has it; an empty one where there is none."""
    for condition in (obj.get("status") or {}).get("conditions") or ():
        if condition.get("type") == name:
            return condition  # type: ignore[no-any-return]
    return {}


def is_ready(obj: Mapping[str, Any]) -> bool:
    """Whether an object says of itself that it is ready."""
    return condition_of(obj, "Ready").get("status") == "True"
