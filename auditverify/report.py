"""What the verifier found, as data and as text."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from auditverify.terminal import shown

#: Verdicts on a writer: who stands for its statement key.
ENDORSED = "endorsed"
WITNESSED = "witnessed"
HUB_ONLY = "vouched by the hub only"
#: Problems shown one by one; the rest are counted.
MAX_PROBLEMS = 100


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that does not hold: a stable code, and where it was seen."""

    code: str
    message: str
    line: int = 0


@dataclass(slots=True)
class OriginReport:
    """What is known of one writer.

    Attributes:
        signed: records of all epochs up to the last one that a valid statement of the writer's key covers.
        verdict: who stands for the keys of all its epochs.
    """

    origin: str
    cluster: str = ""
    records: int = 0
    gaps: int = 0
    duplicates: int = 0
    forks: int = 0
    epochs: int = 0
    signed: int = 0
    verdict: str = HUB_ONLY


@dataclass(slots=True)
class Report:
    """The result.

    ``consistent`` is true when the export is whole and nothing in it contradicts anything else; ``verified`` when
    besides the hub's key was given and every record is covered by an anchor that the auditor gave.
    """

    realm: str = ""
    log_origin: str = ""
    key_given: bool = False
    records: int = 0
    gaps: int = 0
    duplicates: int = 0
    forks: int = 0
    size: int = 0
    root: str = ""
    root_matches: bool = False
    checkpoint_signed: bool = False
    statements: int = 0
    views_checked: int = 0
    #: The closing checkpoint, a signed note.
    checkpoint: bytes = b""
    anchored: int = 0
    unanchored_from: int | None = None
    origins: dict[str, OriginReport] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    problem_count: int = 0

    @property
    def consistent(self) -> bool:
        """True when nothing contradicts anything; whoever holds the tree-head key can make such an export."""
        return not self.problem_count and self.root_matches and self.checkpoint_signed

    @property
    def verified(self) -> bool:
        """True when all of it holds, for what the hub cannot have made up."""
        return self.consistent and self.key_given and bool(self.records) and self.anchored == self.records

    @property
    def verdict(self) -> str:
        """The last line."""
        if self.verified:
            return "VERIFIED"
        return "CONSISTENT, NOT ANCHORED" if self.consistent else "NOT VERIFIED"

    def add(self, code: str, message: str, line: int = 0) -> None:
        """Note a problem."""
        self.problem_count += 1
        if len(self.problems) < MAX_PROBLEMS:
            self.problems.append(Problem(code, message, line))

    def to_json(self) -> dict[str, Any]:
        """Return the report for machines."""
        return {
            "realm": self.realm,
            "logOrigin": self.log_origin,
            "hubKeyGiven": self.key_given,
            "records": self.records,
            "gaps": self.gaps,
            "duplicates": self.duplicates,
            "forks": self.forks,
            "treeSize": self.size,
            "treeRoot": self.root,
            "rootMatches": self.root_matches,
            "checkpointSigned": self.checkpoint_signed,
            "statements": self.statements,
            "viewsChecked": self.views_checked,
            "anchored": self.anchored,
            "unanchoredFrom": self.unanchored_from,
            "consistent": self.consistent,
            "verified": self.verified,
            "verdict": self.verdict,
            "origins": [
                {
                    "origin": item.origin,
                    "cluster": item.cluster,
                    "records": item.records,
                    "epochs": item.epochs,
                    "gaps": item.gaps,
                    "duplicates": item.duplicates,
                    "forks": item.forks,
                    "signed": item.signed,
                    "verdict": item.verdict,
                }
                for item in self.origins.values()
            ],
            "problemCount": self.problem_count,
            "problems": [{"code": p.code, "message": p.message, "line": p.line} for p in self.problems],
        }

    def to_text(self) -> str:
        """Return the report for people."""
        lines = [
            f"log         {self.log_origin or '(unknown)'}",
            f"records     {self.records} (gaps {self.gaps}, duplicates {self.duplicates}, forks {self.forks})",
            f"tree        size {self.size}, root {'matches' if self.root_matches else 'DOES NOT MATCH'}",
            f"checkpoint  {'signature holds' if self.checkpoint_signed else 'SIGNATURE DOES NOT HOLD'}"
            + ("" if self.key_given else " for the key inside the export; give --hub-key to compare with your own"),
            f"statements  {self.statements} of writers verified, {self.views_checked} views of the log compared",
            f"anchors     {self.anchored} of {self.records} records covered by what you gave"
            + ("" if self.unanchored_from is None else f", record {self.unanchored_from} is the first that is not"),
        ]
        lines += [
            f"  {item.origin} {item.cluster}: {item.records} records in {item.epochs} epoch(s), "
            f"{item.signed} signed by the writer, {item.verdict}"
            for item in self.origins.values()
        ]
        lines += [f"problem     {p.code}: {p.message}" + (f" (line {p.line})" if p.line else "") for p in self.problems]
        if self.problem_count > len(self.problems):
            lines.append(f"            and {self.problem_count - len(self.problems)} more")
        lines.append(self.verdict)
        return "\n".join(map(shown, lines))
