"""Runs checks in order and keeps their results; a failure is a red line with a hint, never a traceback."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from cellward.checks.model import Check, Result
from cellward.errors import CellwardError


@dataclass(frozen=True, slots=True)
class Report:
    """All results in order; ``exit_code`` is 0 when all is well, otherwise that of what failed."""

    results: tuple[Result, ...]
    exit_code: int

    @property
    def ok(self) -> bool:
        """Whether nothing is red."""
        return all(result.ok is not False for result in self.results)

    def to_json(self) -> dict[str, object]:
        """Return the machine form; fields may be added, never renamed."""
        return {
            "ok": self.ok,
            "checks": [
                {
                    "category": result.category,
                    "id": result.id,
                    "subject": result.subject,
                    "status": status_of(result),
                    "message": result.message,
                    "hint": result.hint,
                    "relayed": result.relayed,
                    "code": result.code,
                }
                for result in self.results
            ],
        }


def run_checks(checks: Iterable[Check]) -> Report:
    """Run each check; one that fails as a whole becomes one red result, and its error's exit code the report's."""
    results: list[Result] = []
    code = 0
    for check in checks:
        try:
            for result in check.run():
                results.append(result)  # noqa: PERF402 - what was found before a failure is kept
        except CellwardError as error:
            relayed = error.details.get("relayed", "")
            results.append(
                Result(
                    check.category,
                    check.id,
                    ok=False,
                    message=error.message,
                    hint=error.hint,
                    code=error.code,
                    relayed=relayed,
                )
            )
            code = max(code, error.exit_code)
    red = any(result.ok is False for result in results)
    return Report(tuple(results), max(code, 1) if red else 0)


def status_of(result: Result) -> str:
    """``ok``, ``warning``, ``failed`` or ``skipped``."""
    if result.ok and result.warning:
        return "warning"
    return {True: "ok", False: "failed", None: "skipped"}[result.ok]


def table_lines(results: Sequence[Result]) -> list[str]:
    """Return the human form, one heading per category, as `linkerd check` made familiar."""
    lines: list[str] = []
    heading = None
    for result in results:
        if result.category != heading:
            lines += [*([""] if heading is not None else []), result.category, "-" * len(result.category)]
            heading = result.category
        mark = {"ok": "✓", "warning": "!", "failed": "✗", "skipped": "-"}[status_of(result)]
        subject = f"{result.subject}: " if result.subject else ""
        name = result.id.partition("/")[2].replace("-", " ")
        lines.append(f"{mark} {subject}{name}: {result.message}")
        if result.ok is False or result.warning:
            told = (("code", result.code), ("next", result.hint), ("the hub says", result.relayed))
            lines += [f"    {kind}: {text}" for kind, text in told if text]
    return lines
