"""The command: reads an export and keys, prints the report, exits 0 only if all of it holds."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from auditverify.report import Report
from auditverify.signatures import Malformed, unbase64
from auditverify.terminal import shown, shown_json
from auditverify.verify import verify_export

_COMMAND = "python -m auditverify"
_KEY_HINT = "Give the base64 of its SubjectPublicKeyInfo (treeHeadKey of trust.yaml), or a PEM file."
_EXIT_CODES = "exit codes: 0 all of it holds; 1 something does not; 2 the file or a key cannot be read"


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(_tell(message, "usage", f"See `{_COMMAND} --help`."))


def main(argv: Sequence[str]) -> int:
    """Run; returns 0 verified, 1 not verified, 2 usage or unreadable input. The report is all that goes to stdout."""
    try:
        options = _parser().parse_args(argv)
    except SystemExit as error:
        return error.code if isinstance(error.code, int) else 2
    try:
        report = verify(options.export, options.hub_key, options.endorsed)
    except OSError as error:
        return _tell(f"{options.export} cannot be read: {error.strerror}", "bad-file", "Name a file that was exported.")
    except Malformed as error:
        return _tell(str(error), "bad-key", _KEY_HINT)
    print(shown_json(json.dumps(report.to_json(), indent=2)) if options.json else report.to_text())
    return 0 if report.verified else 1


def verify(export: Path, hub_key: str | None, endorsed: Sequence[str] = ()) -> Report:
    """Verify with keys as they are typed; raises OSError for the file, Malformed for a key."""
    return verify_export(
        export,
        hub_key=read_key(hub_key) if hub_key is not None else None,
        endorsed=[read_key(value) for value in endorsed],
    )


def read_key(value: str) -> bytes:
    """Return a key from a PEM or DER file, or from base64; raises Malformed."""
    path = Path(value)
    try:
        if path.is_file():
            return path.read_bytes()
    except (OSError, ValueError):
        pass
    try:
        return unbase64(value)
    except Malformed as error:
        raise Malformed(f"{value[:40]!r} is neither a file nor a key in base64") from error


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog=_COMMAND,
        description="Verify an audit export without the hub and without Cellward: chains, tree, tree head, statements.",
        epilog=_EXIT_CODES,
    )
    parser.add_argument("export", type=Path, metavar="EXPORT", help="NDJSON file made by `cellward audit export`")
    parser.add_argument(
        "--hub-key",
        metavar="KEY",
        help="tree-head key you trust: base64 of its DER (treeHeadKey of trust.yaml), or a PEM file; "
        "without it the export is only compared with itself",
    )
    parser.add_argument(
        "--endorsed",
        metavar="KEY",
        action="append",
        default=[],
        help="statement key of a cluster that you know to be its own: base64 of its DER, or a PEM file; repeatable",
    )
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    return parser


def _tell(message: str, code: str, hint: str) -> int:
    print(f"error: {shown(message)} [auditverify/{code}]\n  next: {shown(hint)}", file=sys.stderr)
    return 2
