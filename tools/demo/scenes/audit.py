"""The record: exported, verified offline by code that shares nothing with the writer, and tampered with."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tools.demo.narrate import StepFailedError, wait_for
from tools.demo.processes import environment
from tools.demo.stage import Stage
from tools.demo.summary import Summary

Lines = list[bytes]


def _records(lines: Lines) -> list[int]:
    return [number for number, line in enumerate(lines) if b'"record"' in line]


def one_byte_changed(lines: Lines) -> Lines:
    """Change one byte inside a record in the middle."""
    number = _records(lines)[len(_records(lines)) // 2]
    body = json.loads(lines[number])
    record = bytearray(base64.b64decode(body["record"]))
    record[len(record) // 2] ^= 1
    body["record"] = base64.b64encode(bytes(record)).decode()
    return [*lines[:number], json.dumps(body).encode() + b"\n", *lines[number + 1 :]]


def one_dropped(lines: Lines) -> Lines:
    """Leave one record out."""
    number = _records(lines)[len(_records(lines)) // 2]
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


TAMPERINGS: dict[str, Callable[[Lines], Lines]] = {
    "one byte changed": one_byte_changed,
    "one record dropped": one_dropped,
    "two records swapped": two_swapped,
    "the end cut off": end_cut_off,
}


def audit(stage: Stage, summary: Summary) -> None:
    """Export, verify, tamper, verify again."""
    narrator = stage.narrator
    wait_for("the agents' spools to be empty", lambda: _spools_empty(stage), 60, narrator)
    file = stage.directory / "audit.ndjson"
    stage.cli.run("audit", "export", str(file))
    code, report = _verify(stage, file)
    summary.put("audit_records", report.get("records", 0))
    summary.put("audit_gaps", report.get("gaps", -1))
    summary.put("audit_duplicates", report.get("duplicates", -1))
    summary.put("audit_verified", code == 0 and report.get("verified") is True)
    narrator.verdict(
        code == 0,
        f"{report.get('records')} records verified offline: no gap, no duplicate, tree head and statement keys match",
        f"the export does not verify: {report.get('problems')}",
    )
    lines = file.read_bytes().splitlines(keepends=True)
    found: dict[str, bool] = {}
    for name, change in TAMPERINGS.items():
        tampered = stage.directory / "tampered.ndjson"
        tampered.write_bytes(b"".join(change(lines)))
        code, report = _verify(stage, tampered)
        found[name] = code != 0 and report.get("verified") is False
        narrator.verdict(found[name], f"{name}: found out", f"{name}: not noticed")
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


def _verify(stage: Stage, file: Path) -> tuple[int, dict[str, Any]]:
    """Run the stand-alone verifier in a process of its own, with the key that ``init`` wrote down."""
    key = stage.api.get("/trust")["treeHeadSpki"]
    done = subprocess.run(
        [sys.executable, "-m", "auditverify", str(file), "--json", "--hub-key", key],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env=environment(stage.home),
    )
    try:
        report: dict[str, Any] = json.loads(done.stdout)
    except ValueError as error:
        raise StepFailedError(f"the verifier said {done.stdout[-300:]} {done.stderr[-300:]}") from error
    return done.returncode, report
