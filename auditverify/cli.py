"""The command: reads an export and keys, prints the report, exits 0 only if all of it holds."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from auditverify.anchors import parse_witness
from auditverify.report import Report
from auditverify.signatures import Malformed, unbase64
from auditverify.terminal import shown, shown_json
from auditverify.verify import Anchors, verify_export

_COMMAND = "python -m auditverify"
_KEY_HINT = "Give the base64 of its SubjectPublicKeyInfo (treeHeadKey of trust.yaml), or a PEM file."
_EXIT_CODES = (
    "exit codes: 0 all of it holds and is covered by what you give; 1 something does not hold, or is not covered; "
    "2 a file or a key cannot be read"
)
#: Largest checkpoint read, bytes.
_MAX_NOTE = 64 * 1024


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
        report = verify(
            options.export, options.hub_key, options.endorsed, options.checkpoint, options.witness, options.segment
        )
    except OSError as error:
        named = options.export if error.filename is None else error.filename
        return _tell(f"{named} cannot be read: {error.strerror}", "bad-file", "Name a file that was exported, or kept.")
    except Malformed as error:
        return _tell(str(error), "bad-key", _KEY_HINT)
    print(shown_json(json.dumps(report.to_json(), indent=2)) if options.json else report.to_text())
    return 0 if report.verified or (options.accept_unanchored and report.consistent) else 1


def verify(
    export: Path,
    hub_key: str | None,
    endorsed: Sequence[str] = (),
    checkpoints: Sequence[Path] = (),
    witnesses: Sequence[str] = (),
    segments: Sequence[Path] = (),
) -> Report:
    """Verify with keys as they are typed; raises OSError for a file, Malformed for a key."""
    anchors = Anchors(
        [read_key(value) for value in endorsed],
        [path.read_bytes()[:_MAX_NOTE] for path in checkpoints],
        [parse_witness(_text(value)) for value in witnesses],
    )
    key = read_key(hub_key) if hub_key is not None else None
    return verify_export(export, hub_key=key, anchors=anchors, segments=segments)


def _text(value: str) -> str:
    """What stands in a file, or what was typed."""
    try:
        path = Path(value)
        return path.read_bytes()[:_MAX_NOTE].decode("utf-8", "replace") if path.is_file() else value
    except (OSError, ValueError):
        return value


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
    parser.add_argument(
        "--checkpoint",
        metavar="FILE",
        type=Path,
        action="append",
        default=[],
        help="signed checkpoint of this log that you kept, or that a witness keeps; repeatable",
    )
    parser.add_argument(
        "--witness",
        metavar="KEY",
        action="append",
        default=[],
        help="verifier key of a witness you trust, or a file with it: then a checkpoint counts only if one of these "
        "co-signed it; repeatable",
    )
    parser.add_argument(
        "--segment",
        metavar="FILE",
        type=Path,
        action="append",
        default=[],
        help="segment of the log that was exported and pruned before; repeatable, oldest first",
    )
    parser.add_argument(
        "--accept-unanchored",
        action="store_true",
        help="exit 0 also for a log that is only consistent with itself",
    )
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    return parser


def _tell(message: str, code: str, hint: str) -> int:
    print(f"error: {shown(message)} [auditverify/{code}]\n  next: {shown(hint)}", file=sys.stderr)
    return 2
