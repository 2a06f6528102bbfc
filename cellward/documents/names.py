"""Names: RFC 1123 labels, short enough that a cell's namespace fits, without ``--`` because that separates them."""

from __future__ import annotations

import re
from typing import NamedTuple

from cellward.documents.errors import BAD_NAME

PROJECT_MAX = 20
CELL_MAX = 24
ENVIRONMENT_MAX = 12
LABEL_MAX = 63

_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?\Z")
_VERSION = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?\Z")


class CellKey(NamedTuple):
    """A cell in an environment: what deployments, floors, desired items and receipts are about."""

    project: str
    cell: str
    environment: str


def is_label(value: object, limit: int = LABEL_MAX) -> bool:
    """Whether ``value`` is an RFC 1123 label of at most ``limit`` characters."""
    return isinstance(value, str) and 0 < len(value) <= limit and _LABEL.match(value) is not None


def is_name(value: object, limit: int) -> bool:
    """Whether ``value`` may name a project, cell or environment."""
    return is_label(value, limit) and "--" not in str(value)


def is_version(value: object) -> bool:
    """Whether ``value`` may be the version of a cell; it also becomes a label, so it has a label's form."""
    return isinstance(value, str) and _VERSION.match(value) is not None


def check_project(value: object) -> str:
    """Return a project's name, or raise document/bad-name."""
    return _check(value, "project", PROJECT_MAX)


def check_cell(value: object) -> str:
    """Return a cell's name, or raise document/bad-name."""
    return _check(value, "cell", CELL_MAX)


def check_environment(value: object) -> str:
    """Return an environment's name, or raise document/bad-name."""
    return _check(value, "environment", ENVIRONMENT_MAX)


def _check(value: object, what: str, limit: int) -> str:
    if not is_name(value, limit):
        raise BAD_NAME(
            f"{what} {str(value)[:80]!r} is not an RFC 1123 label of at most {limit} characters without '--'"
        )
    return str(value)
