"""Every kind of tampering with the lines of an export."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import Any

from tests.unit.auditverify.exports import OTHER, OTHER_SPKI, Lines, body, put, records, renumber, resign


def change_byte(lines: Lines) -> None:
    """Change one byte in the middle of a record."""
    line = lines[records(lines)[7]]
    data = bytearray(base64.b64decode(line["record"]))
    data[len(data) // 2] ^= 1
    line["record"] = base64.b64encode(bytes(data)).decode()


def change_field(lines: Lines) -> None:
    """Change a field and keep the record canonical."""
    line = lines[records(lines)[7]]
    put(line, {**body(line), "decision": "allow"})


def drop_first(lines: Lines) -> None:
    """Drop the first record."""
    del lines[records(lines)[0]]


def drop_record(lines: Lines) -> None:
    """Drop a record."""
    del lines[records(lines)[9]]


def drop_and_renumber(lines: Lines) -> None:
    """Drop a record and hide the hole in the indices."""
    drop_record(lines)
    renumber(lines)


def swap(lines: Lines) -> None:
    """Swap two neighbours."""
    a, b = records(lines)[4:6]
    lines[a], lines[b] = lines[b], lines[a]


def swap_and_renumber(lines: Lines) -> None:
    """Swap the contents of two lines."""
    a, b = records(lines)[4:6]
    lines[a]["record"], lines[b]["record"] = lines[b]["record"], lines[a]["record"]


def cut_end(lines: Lines) -> None:
    """Cut off the last lines."""
    del lines[-6:]


def cut_checkpoint(lines: Lines) -> None:
    """Cut off only the checkpoint."""
    del lines[-1]


def cut_records(lines: Lines) -> None:
    """Cut off the last records, keep what follows them."""
    for number in reversed(records(lines)[-5:]):
        del lines[number]


def insert(lines: Lines) -> None:
    """Insert a record that the hub never had."""
    number = records(lines)[3]
    new = dict(lines[number])
    put(new, {**body(new), "object": "Deployment/shop--cart--dev/invented"})
    lines.insert(number, new)
    renumber(lines)


def repeat(lines: Lines) -> None:
    """Insert a record twice."""
    number = records(lines)[3]
    lines.insert(number, dict(lines[number]))
    renumber(lines)


def reorder_origins(lines: Lines) -> None:
    """Put all records of one writer first: each chain stays whole, the log does not."""
    at = records(lines)
    ordered = sorted((lines[number] for number in at), key=lambda line: str(body(line)["origin"]))
    for number, line in zip(at, [dict(line) for line in ordered], strict=True):
        lines[number] = line
    renumber(lines)


def header(name: str, value: Any) -> Callable[[Lines], None]:
    """Return a change of the header."""

    def change(lines: Lines) -> None:
        lines[0][name] = value

    return change


def header_origin(name: str, value: str) -> Callable[[Lines], None]:
    """Return a change of what the header says of an agent."""

    def change(lines: Lines) -> None:
        next(item for item in lines[0]["origins"] if item["origin"] != "hub")[name] = value

    return change


def no_origins(lines: Lines) -> None:
    """Hide the writers."""
    lines[0]["origins"] = []


def more_origins(lines: Lines) -> None:
    """Name a writer that wrote nothing."""
    item = {**lines[0]["origins"][0], "origin": "agent:x", "uid": "x"}
    lines[0]["origins"].append(item)


def change_statement(lines: Lines) -> None:
    """Change what a writer signed."""
    line = next(line for line in lines if "envelope" in line)
    envelope = json.loads(base64.b64decode(line["envelope"]))
    payload = base64.b64decode(envelope["payload"]).replace(b'"seq":', b'"seq":1')
    envelope["payload"] = base64.b64encode(payload).decode()
    line["envelope"] = base64.b64encode(json.dumps(envelope).encode()).decode()


def swap_statements(lines: Lines) -> None:
    """Give one writer's statement to another."""
    first, *_, last = [line for line in lines if "envelope" in line]
    first["envelope"], last["envelope"] = last["envelope"], first["envelope"]


def other_key(lines: Lines) -> None:
    """Sign the checkpoint with another key."""
    resign(lines, OTHER)


def append_line(lines: Lines) -> None:
    """Append a line after the end."""
    lines.append(dict(lines[1]))


def unknown_line(lines: Lines) -> None:
    """Insert a line of a kind nobody knows."""
    lines.insert(1, {"note": "ignore me"})


def no_header(lines: Lines) -> None:
    """Drop the header."""
    del lines[0]


TAMPERINGS = [
    change_byte, change_field, drop_first, drop_record, drop_and_renumber, swap, swap_and_renumber, cut_end,
    cut_checkpoint, cut_records, insert, repeat, reorder_origins, no_origins, more_origins, change_statement,
    swap_statements, other_key, append_line, unknown_line, no_header,
]  # fmt: skip

HEADERS = {
    "realm": header("realm", "sha256:" + "00" * 32),
    "origin": header("logOrigin", "cellward.dev/audit/other"),
    "key": header("treeHeadKey", base64.b64encode(OTHER_SPKI).decode()),
    "format": header("format", "cellward.audit-export/v9"),
    "origins": header("origins", "none"),
    "statement-key": header_origin("statementSpki", base64.b64encode(OTHER_SPKI).decode()),
    "cluster": header_origin("cluster", "eu-1"),
    "uid": header_origin("uid", "00000009-0000-4000-8000-000000000000"),
}
