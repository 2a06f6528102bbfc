"""The command: reads an export and keys, prints the report, exits 0 only if all of it holds."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from auditverify.signatures import Malformed, unbase64
from auditverify.verify import verify_export


def main(argv: Sequence[str]) -> int:
    """Run; returns 0 verified, 1 not verified, 2 usage or unreadable input."""
    parser = argparse.ArgumentParser(prog="auditverify", description="Verify an audit export without the hub.")
    parser.add_argument("export", type=Path, help="NDJSON file made by `cellward audit export`")
    parser.add_argument("--hub-key", help="tree-head key you trust: base64 of its DER, or a PEM file")
    parser.add_argument(
        "--endorsed",
        action="append",
        default=[],
        help="statement key of a cluster that you know to be its own: base64 of its DER, or a PEM file; repeatable",
    )
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    try:
        options = parser.parse_args(argv)
    except SystemExit as error:
        return error.code if isinstance(error.code, int) else 2
    try:
        hub_key = _key(options.hub_key) if options.hub_key is not None else None
        endorsed = [_key(value) for value in options.endorsed]
        report = verify_export(options.export, hub_key=hub_key, endorsed=endorsed)
    except (OSError, Malformed) as error:
        print(f"auditverify: {error}")
        return 2
    print(json.dumps(report.to_json(), indent=2) if options.json else report.to_text())
    return 0 if report.verified else 1


def _key(value: str) -> bytes:
    path = Path(value)
    try:
        if path.is_file():
            return path.read_bytes()
    except OSError:
        pass
    try:
        return unbase64(value)
    except Malformed as error:
        raise Malformed(f"{value[:40]!r} is neither a file nor a key in base64") from error
