"""What a check says."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Result:
    """Outcome of one check.

    Attributes:
        category: heading it stands under.
        id: stable name, ``category/kebab-case``; for a check per cluster, the cluster follows in ``subject``.
        ok: whether all is well; None when it could not be looked at because an earlier one failed.
        message: what was found, one sentence.
        hint: what to do next, where it is not ok.
        code: stable error code, where there is one.
        relayed: what a hub says is next; nothing this program stands for.
        warning: whether it is well now and will not stay so; hint and code say what to do.
    """

    category: str
    id: str
    ok: bool | None
    message: str
    hint: str = ""
    code: str = ""
    subject: str = ""
    warning: bool = False
    relayed: str = ""


@dataclass(frozen=True, slots=True)
class Check:
    """A named group of checks under one heading; an expected failure is a CellwardError and becomes a red line."""

    category: str
    id: str
    run: Callable[[], Iterable[Result]]
