"""The record: exported, verified offline by code that shares nothing with the writer, and tampered with."""

from __future__ import annotations

import base64
import json
import re
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tools.demo.narrate import StepFailedError, wait_for
from tools.demo.stage import Stage
from tools.demo.summary import Summary

Lines = list[bytes]
Report = Mapping[str, Any]


def _records(lines: Lines) -> list[int]:
    return [number for number, line in enumerate(lines) if b'"record"' in line]


def _record(line: bytes) -> bytes:
    return base64.b64decode(json.loads(line)["record"])


def _chain(line: bytes) -> tuple[str, int]:
    record = json.loads(_record(line))
    return record["origin"], record["epoch"]


def _followed(lines: Lines) -> int:
    """Number of a record near the middle that another one of the same chain follows."""
    numbers = _records(lines)
    for at in range(len(numbers) // 2, -1, -1):
        if _chain(lines[numbers[at]]) in {_chain(lines[later]) for later in numbers[at + 1 : at + 50]}:
            return numbers[at]
    raise StepFailedError("no record of the export is followed by one of its own chain")


def one_byte_changed(lines: Lines) -> Lines:
    """Change one letter of what a record says was done; it stays the well-formed record it was."""
    number = _followed(lines)
    record = bytearray(_record(lines[number]))
    said = re.search(rb'"action":"([a-z])', record)
    if said is None:
        raise StepFailedError("the record does not say what was done")
    record[said.start(1)] ^= 1
    body = json.loads(lines[number]) | {"record": base64.b64encode(bytes(record)).decode()}
    return [*lines[:number], json.dumps(body).encode() + b"\n", *lines[number + 1 :]]


def one_dropped(lines: Lines) -> Lines:
    """Leave one record out."""
    number = _followed(lines)
    return lines[:number] + lines[number + 1 :]


def two_swapped(lines: Lines) -> Lines:
    """Exchange two neighbouring records."""
    numbers = _records(lines)
    first, second = numbers[len(numbers) // 2 : len(numbers) // 2 + 2]
    changed = list(lines)
    changed[first], changed[second] = lines[second], lines[first]
    return changed


def end_cut_off(lines: Lines) -> Lines:
    """Cut the last records off, and keep everything that is not a record."""
    gone = set(_records(lines)[-3:])
    return [line for number, line in enumerate(lines) if number not in gone]


def file_cut_short(lines: Lines) -> Lines:
    """Cut the file itself off in the last records; statements and closing checkpoint are gone with them."""
    return lines[: _records(lines)[-3]]


@dataclass(frozen=True)
class Tampering:
    """A way to tamper with an export, and what the verifier must have found of it: not just that something is odd."""

    change: Callable[[Lines], Lines]
    noticed: Callable[[Report], bool]


def _told(code: str) -> Callable[[Report], bool]:
    return lambda report: code in {problem["code"] for problem in report["problems"]}


def _counted(what: str) -> Callable[[Report], bool]:
    return lambda report: bool(report[what] > 0) and not _told("malformed")(report)


TAMPERINGS: dict[str, Tampering] = {
    "one byte changed": Tampering(one_byte_changed, _counted("forks")),
    "one record dropped": Tampering(one_dropped, _counted("gaps")),
    "two records swapped": Tampering(two_swapped, _told("index")),
    "the end cut off": Tampering(end_cut_off, _told("size")),
    "the file cut short": Tampering(file_cut_short, _told("truncated")),
}


def audit(stage: Stage, summary: Summary) -> None:
    """Export, verify, tamper, verify again."""
    narrator = stage.narrator
    wait_for("the agents' spools to be empty", lambda: _spools_empty(stage), 60, narrator)
    file = stage.directory / "audit.ndjson"
    stage.cli.run("audit", "export", str(file))
    code, report = _verify(stage, file)
    alone = code == 1 and report.get("consistent") is True and report.get("verified") is False
    narrator.verdict(
        alone,
        "with the hub's key alone the export is consistent, and no more: whoever holds that key can make one",
        f"with the hub's key alone the verifier says {report.get('verdict')}",
    )
    stage.cli.run("audit", "witness", str(_witness(stage)), str(file))
    code, report = _verify(stage, file, witnessed=True)
    summary.put("audit_records", report.get("records", 0))
    summary.put("audit_gaps", report.get("gaps", -1))
    summary.put("audit_duplicates", report.get("duplicates", -1))
    verified = alone and code == 0 and report.get("verified") is True and report.get("hubKeyGiven") is True
    summary.put("audit_verified", verified)
    narrator.verdict(
        verified,
        f"{report.get('records')} records verified offline, with the key in trust.yaml and a witness's checkpoint: "
        "no gap, no duplicate, tree head and statement keys match",
        f"the export does not verify: {report.get('problems')}",
    )
    lines = file.read_bytes().splitlines(keepends=True)
    found: dict[str, bool] = {}
    for name, tampering in TAMPERINGS.items():
        tampered = stage.directory / "tampered.ndjson"
        tampered.write_bytes(b"".join(tampering.change(lines)))
        code, report = _verify(stage, tampered, witnessed=True)
        found[name] = code == 1 and report["verified"] is False and tampering.noticed(report)
        narrator.verdict(found[name], f"{name}: found out", f"{name}: not noticed for what it is")
    summary.put("tampered_audit_detected", found)


def metrics(stage: Stage, summary: Summary) -> None:
    """Read the fleet's Prometheus endpoint."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(f"http://{stage.metrics_address}/metrics", timeout=20) as answer:
        text = answer.read().decode()
    series = [line for line in text.splitlines() if not line.startswith("#") and 'cluster="' in line]
    clusters = {line.split('cluster="')[1].split('"')[0] for line in series}
    summary.put("metrics_series", len(series))
    stage.narrator.verdict(
        clusters == {"eu-1", "us-1"},
        f"http://{stage.metrics_address}/metrics serves {len(series)} series of {' and '.join(sorted(clusters))}",
        f"series only of {sorted(clusters)}",
    )


def _spools_empty(stage: Stage) -> bool:
    return all(cluster["spoolDepth"] == 0 for cluster in stage.api.get("/clusters")["items"])


def _witness(stage: Stage) -> Path:
    return stage.directory / "witness"


def _verify(stage: Stage, file: Path, *, witnessed: bool = False) -> tuple[int, dict[str, Any]]:
    """Verify as an auditor does: offline, by the stand-alone verifier, with the key that ``init`` wrote down."""
    place = _witness(stage)
    anchors = ["--checkpoint", str(place / "checkpoint"), "--witness", str(place / "witness.vkey")] if witnessed else []
    done = stage.cli.run("audit", "verify", str(file), *anchors, "-o", "json", accept=(0, 1))
    report: dict[str, Any] = json.loads(done.stdout)
    return done.returncode, report
