"""What rows of several parts of the store share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

Json = Mapping[str, Any]
T_co = TypeVar("T_co", covariant=True)


@dataclass(frozen=True, slots=True)
class Page(Generic[T_co]):
    """A page of rows; ``cursor`` continues after it and is empty when there is nothing more."""

    items: tuple[T_co, ...]
    cursor: str = ""
