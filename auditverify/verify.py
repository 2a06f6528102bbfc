"""Verifies an export: every chain, the tree over all records, the hub's checkpoint, and the writers' statements.

What it proves by itself: the records are exactly those the signed tree head covers, each writer's chain is unbroken,
and each agent's key has signed every epoch of its chain up to the last record that is here. Whoever holds the
tree-head key can make a log of which all of that is true. So an export is *verified* only when every record of it is
covered by an anchor that you give (``auditverify.anchors``); otherwise it is consistent, and no more.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from auditverify.anchors import Placed, Witness, read_anchor
from auditverify.merkle import leaf, roots_at
from auditverify.report import ENDORSED, WITNESSED, OriginReport, Report
from auditverify.signatures import Malformed, load_key, read_note, read_statement, spki, unbase64

FORMAT = "cellward.audit-export/v1"
SEGMENT_FORMAT = "cellward.audit-segment/v1"
SCHEMA = "cellward.audit/v1"
NO_RECORD = "sha256:" + "0" * 64
HUB = "hub"
#: Longest line read, bytes.
MAX_LINE = 4 * 1024 * 1024

_TEXTS = (
    "schema", "realm", "origin", "cluster", "prev", "time", "actor", "action", "object", "decision", "code", "reason",
    "rule", "correlationId", "logRoot",
)  # fmt: skip
_NUMBERS = ("epoch", "seq", "revision", "logSize")
_FIELDS = {*_TEXTS, *_NUMBERS, "details"}
_canonical = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode


@dataclass(frozen=True, slots=True)
class Anchors:
    """What the auditor brings.

    Attributes:
        endorsed: statement keys (DER or PEM) known to belong to their clusters.
        checkpoints: signed notes that the auditor kept, or that a witness keeps.
        witnesses: if there are any, a checkpoint counts only with the cosignature of one of them.
    """

    endorsed: Sequence[bytes] = ()
    checkpoints: Sequence[bytes] = ()
    witnesses: Sequence[Witness] = ()


@dataclass(slots=True)
class _Chain:
    """One epoch of one writer while it is read: digests of its records by sequence number, from 1."""

    digests: dict[int, str] = field(default_factory=dict)
    last: int = 0


class _Run:
    """One pass over an export."""

    def __init__(self, hub_key: bytes | None, anchors: Anchors) -> None:
        self.report = Report(key_given=hub_key is not None)
        self._given = load_key(hub_key) if hub_key is not None else None
        self._anchors = anchors
        self._endorsed = {spki(load_key(key)) for key in anchors.endorsed}
        self._key: Ed25519PublicKey | None = self._given
        self._keys: dict[str, list[Ed25519PublicKey]] = {}
        self._uids: dict[str, set[str]] = {}
        self._clusters: dict[str, set[str]] = {}
        # What each writer signed of each of its epochs: up to which record, and with which key.
        self._signed: dict[tuple[str, int], tuple[int, bytes]] = {}
        self._chains: dict[tuple[str, int], _Chain] = {}
        self._epochs: dict[str, int] = {}
        self._leaves: list[bytes] = []
        self._placed = Placed([])
        # Tree sizes that an endorsed agent saw, by the epoch and number of the record that says so.
        self._saw: list[tuple[str, int, int, int]] = []
        self._views: dict[int, dict[str, int]] = {}
        self._hub_has_realm = False
        self._ended = 0
        # Where the export begins, and how many records the last segment says it has.
        self._first = 0
        self._announced = 0

    def segment(self, name: str, lines: Iterable[bytes]) -> None:
        """Take an exported segment: the records before those of the export, after its header."""
        before = len(self._leaves)
        for number, raw in enumerate(lines, start=1):
            try:
                value = json.loads(raw)
                if number == 1:
                    self._segment_header(value)
                elif isinstance(value, dict) and value.keys() == {"index", "record"}:
                    self._record(number, value)
                else:
                    raise Malformed("the line is not a record")  # noqa: TRY301 - one place tells of bad lines
            except Malformed as error:
                self.report.add("segment", f"{name}: {error}", number)
            except (ValueError, RecursionError):
                self.report.add("segment", f"{name}: the line is not JSON", number)
        if before + self._announced != len(self._leaves):
            self.report.add("segment", f"{name} has {len(self._leaves) - before} records, not {self._announced}")

    def _segment_header(self, value: object) -> None:
        if not isinstance(value, dict) or value.get("format") != SEGMENT_FORMAT:
            raise Malformed(f"the format is not {SEGMENT_FORMAT}")
        if (value.get("realm"), value.get("logOrigin")) != (self.report.realm, self.report.log_origin):
            raise Malformed("the segment is of another log")
        first, end = value.get("first"), value.get("end")
        if type(first) is not int or type(end) is not int or first != len(self._leaves):
            raise Malformed(f"the segment begins with record {str(first)[:40]}, not with {len(self._leaves)}")
        self._announced = end - first

    def begun(self) -> None:
        """Compare where the export begins with the segments that were given."""
        if self._first != len(self._leaves):
            text = f"the export begins with record {self._first}, the segments given end with {len(self._leaves)}"
            self.report.add("segment", f"{text}: give every segment that was exported before it was pruned")

    def line(self, number: int, raw: bytes) -> None:
        """Take one line."""
        try:
            value = json.loads(raw)
            if not isinstance(value, dict):
                raise Malformed("the line is not a JSON object")  # noqa: TRY301 - one place tells of bad lines
            if self._ended:
                self.report.add("after-end", "there is a line after the closing checkpoint", number)
            elif number == 1:
                self._header(value)
            elif value.keys() == {"index", "record"}:
                self._record(number, value)
            elif value.keys() == {"origin", "envelope"}:
                self._statement(number, value)
            elif value.keys() == {"checkpoint"}:
                self._checkpoint(number, value)
            else:
                raise Malformed("the line is of no known kind")  # noqa: TRY301 - as above
        except Malformed as error:
            self.report.add("malformed", str(error), number)
        except (ValueError, RecursionError):
            self.report.add("malformed", "the line is not JSON", number)

    def finish(self) -> Report:
        """Compare what can only be compared at the end."""
        report = self.report
        if not self._ended:
            report.add("truncated", "the export has no closing checkpoint: its end was cut off")
        for origin, state in report.origins.items():
            state.epochs = sum(1 for name, _ in self._chains if name == origin)
            # The header is not signed: what it says of a writer must be said by the writer's records, too.
            names = self._clusters.get(origin, set()) - {""}
            if not state.records or (origin != HUB and names and state.cluster not in names):
                report.add("header", f"the header says of {origin} what its records do not", 1)
            if origin != HUB:
                self._judge(origin, state)
        for _ in self._endorsed - {key for _, key in self._signed.values()}:
            report.add("endorsed", "nothing in the export is signed by a key you endorse")
        self._compare_views()
        self._anchor()
        return report

    def _anchor(self) -> None:
        """Say how much of the log the anchors cover."""
        signed = {place: seq for place, (seq, key) in self._signed.items() if key in self._endorsed}
        seen = [size for origin, epoch, seq, size in self._saw if seq <= signed.get((origin, epoch), 0)]
        kept = max(self._kept(), default=0)
        uncovered = list(self._placed.uncovered(max([kept, *seen]), signed))
        self.report.anchored = len(self._placed.records) - len(uncovered)
        self.report.unanchored_from = uncovered[0] if uncovered else None
        last: dict[str, int] = {origin: index for index, (origin, _, _) in enumerate(self._placed.records)}
        for origin, state in self.report.origins.items():
            if state.verdict != ENDORSED and last.get(origin, kept) < kept:
                state.verdict = WITNESSED

    def _kept(self) -> Iterable[int]:
        """Sizes of the checkpoints given, each compared with the records."""
        if self._key is None:
            return
        heads = []
        for number, note in enumerate(self._anchors.checkpoints, start=1):
            try:
                heads.append(read_anchor(note, self._key, self._anchors.witnesses))
            except Malformed as error:
                self.report.add("anchor", f"checkpoint {number} that you give cannot be used: {error}")
        roots = dict(roots_at(self._leaves, [head.size for head in heads]))
        for head in heads:
            if head.origin != self.report.log_origin:
                self.report.add("anchor", f"a checkpoint that you give is of log {head.origin[:120]!r}")
            elif head.size > len(self._leaves):
                text = f"you give a checkpoint of {head.size} records, {len(self._leaves)} are here"
                self.report.add("anchor", f"{text}: some are gone, or the export is older")
            elif roots[head.size] != head.root:
                self.report.add("anchor", f"the first {head.size} records are not those of a checkpoint that you give")
            else:
                yield head.size

    def _judge(self, origin: str, state: OriginReport) -> None:
        """Say who stands for a writer: every one of its epochs must be signed to its very last record.

        A hub can add records behind what a writer signed, or an epoch of its own making under a key of its own; and
        whoever holds the file can take statements away.
        """
        epochs = {epoch: chain.last for (name, epoch), chain in self._chains.items() if name == origin}
        used: set[bytes] = set()
        whole = bool(epochs)
        for epoch, last in sorted(epochs.items()):
            signed, key = self._signed.get((origin, epoch), (0, b""))
            used.add(key)
            state.signed += signed
            if signed != last:
                whole = False
                text = f"{origin} signed {signed} of {last} records of epoch {epoch}; the rest may be anybody's"
                self.report.add("unsigned", text)
        listed = {spki(key) for key in self._keys.get(origin, [])}
        if len(listed) > 1 and not listed <= self._endorsed:
            text = (
                f"{origin} has {len(listed)} statement keys, {len(listed - self._endorsed)} of them not endorsed by you"
            )
            self.report.add("second-key", text, 1)
        if whole and used <= self._endorsed:
            state.verdict = ENDORSED

    def _header(self, value: dict[str, Any]) -> None:
        report = self.report
        if value.get("format") != FORMAT:
            raise Malformed(f"the format is not {FORMAT}")
        report.realm, report.log_origin = str(value.get("realm")), str(value.get("logOrigin"))
        if report.log_origin != f"cellward.dev/audit/{report.realm.removeprefix('sha256:')}":
            report.add("header", "the log origin does not belong to the realm", 1)
        first = value.get("firstIndex", 0)
        if type(first) is not int or first < 0:
            raise Malformed("the first index is not a number")
        self._first = first
        key = load_key(unbase64(value.get("treeHeadKey")))
        if self._given is not None and spki(self._given) != spki(key):
            report.add("wrong-key", "the tree-head key in the export is not the hub key given", 1)
        self._key = self._given or key
        origins = value.get("origins")
        if not isinstance(origins, list):
            raise Malformed("the header names no origins")
        for item in origins:
            self._origin(item)

    def _origin(self, item: object) -> None:
        if not isinstance(item, dict) or not all(isinstance(part, str) for part in item.values()):
            raise Malformed("an origin in the header is malformed")
        origin, uid = item.get("origin", ""), item.get("uid", "")
        if origin not in {HUB, f"agent:{uid}"}:
            raise Malformed(f"origin {origin[:80]!r} does not belong to its uid")
        self.report.origins.setdefault(origin, OriginReport(origin, item.get("cluster", "")))
        if origin != HUB:
            self._keys.setdefault(origin, []).append(load_key(unbase64(item.get("statementSpki"))))
            self._uids.setdefault(origin, set()).add(uid)

    def _record(self, number: int, value: dict[str, Any]) -> None:
        report = self.report
        data = unbase64(value["record"])
        index = len(self._leaves)
        if type(value["index"]) is not int or value["index"] != index:
            report.add("index", f"index {str(value['index'])[:40]} stands where {index} is expected", number)
        self._leaves.append(leaf(data))
        report.records += 1
        self._placed.records.append(("", 0, 1))
        record = json.loads(data)
        if not isinstance(record, dict) or _canonical(record).encode("utf-8", "replace") != data:
            raise Malformed("the record is not canonical")
        _check_fields(record)
        self._realm(number, record)
        state = report.origins.get(record["origin"])
        if state is None:
            report.add("unknown-origin", f"the header does not name {record['origin'][:80]!r}", number)
            state = report.origins[record["origin"]] = OriginReport(record["origin"])
        state.records += 1
        self._placed.records[-1] = (record["origin"], record["epoch"], record["seq"])
        self._clusters.setdefault(record["origin"], set()).add(record["cluster"])
        self._chain(number, record, "sha256:" + hashlib.sha256(data).hexdigest(), state)
        if record["logSize"]:
            self._saw.append((record["origin"], record["epoch"], record["seq"], record["logSize"]))
            self._views.setdefault(record["logSize"], {}).setdefault(record["logRoot"], number)
            if record["logSize"] > index:
                report.add("view", "the record has seen a log that did not exist before it", number)

    def _realm(self, number: int, record: dict[str, Any]) -> None:
        """Check the realm; only the hub's records from before it had one may lack it."""
        early = record["origin"] == HUB and not record["realm"] and not self._hub_has_realm
        if record["origin"] == HUB and record["realm"]:
            self._hub_has_realm = True
        if record["realm"] != self.report.realm and not early:
            self.report.add("realm", "the record is of another realm", number)

    def _chain(self, number: int, record: dict[str, Any], digest: str, state: OriginReport) -> None:
        origin, epoch, seq = record["origin"], record["epoch"], record["seq"]
        if epoch < self._epochs.get(origin, 0):
            self._problem(state, "forks", number, f"epoch {epoch} of {origin} goes on after a later one")
        self._epochs[origin] = max(epoch, self._epochs.get(origin, 0))
        chain = self._chains.setdefault((origin, epoch), _Chain())
        if seq in chain.digests:
            same = chain.digests[seq] == digest
            what = f"record {seq} of {origin}, epoch {epoch}"
            self._problem(state, "duplicates" if same else "forks", number, f"{what} comes twice")
            return
        if seq != chain.last + 1:
            kind = "gaps" if seq > chain.last else "forks"
            self._problem(state, kind, number, f"record {seq} of {origin}, epoch {epoch} follows {chain.last}")
        else:
            before = chain.digests.get(seq - 1, NO_RECORD)
            if record["prev"] != before:
                self._problem(state, "forks", number, f"record {seq} of {origin} does not follow the one before it")
        chain.digests[seq] = digest
        chain.last = max(chain.last, seq)

    def _problem(self, state: OriginReport, kind: str, number: int, message: str) -> None:
        setattr(state, kind, getattr(state, kind) + 1)
        setattr(self.report, kind, getattr(self.report, kind) + 1)
        self.report.add(kind.removesuffix("s"), message, number)

    def _statement(self, number: int, value: dict[str, Any]) -> None:
        origin = str(value["origin"])
        statement, key = read_statement(unbase64(value["envelope"]), self._keys.get(origin, []))
        if statement.realm != self.report.realm or statement.uid not in self._uids.get(origin, set()):
            raise Malformed("the statement is about another writer")
        chain = self._chains.get((origin, statement.epoch), _Chain())
        if chain.digests.get(statement.seq) != statement.head:
            text = f"{origin} signed another record {statement.seq} of epoch {statement.epoch} than is here"
            self.report.add("statement", text, number)
            return
        if (origin, statement.epoch) in self._signed:
            text = f"there is more than one statement of {origin} about epoch {statement.epoch}"
            self.report.add("statement-twice", text, number)
            return
        self.report.statements += 1
        self._signed[origin, statement.epoch] = (statement.seq, spki(key))

    def _checkpoint(self, number: int, value: dict[str, Any]) -> None:
        self._ended = number
        if self._key is None:
            raise Malformed("there is no key to check the checkpoint with")
        report = self.report
        report.checkpoint = unbase64(value["checkpoint"])
        head = read_note(report.checkpoint, self._key)
        report.checkpoint_signed = True
        report.size, report.root = head.size, "sha256:" + head.root.hex()
        if head.origin != report.log_origin:
            report.add("origin", f"the checkpoint is of log {head.origin[:120]!r}", number)
        if head.size != len(self._leaves):
            report.add("size", f"the checkpoint covers {head.size} records, {len(self._leaves)} are here", number)
            return
        report.root_matches = dict(roots_at(self._leaves, [head.size]))[head.size] == head.root
        if not report.root_matches:
            report.add("root", "the records are not those the checkpoint was signed over", number)

    def _compare_views(self) -> None:
        """Compare the tree heads that writers saw with the tree of these records: two faces of one log differ here."""
        roots = dict(roots_at(self._leaves, self._views))
        for size, seen in self._views.items():
            for root, number in seen.items():
                self.report.views_checked += 1
                if size not in roots or "sha256:" + roots[size].hex() != root:
                    self.report.add("another-log", f"a writer was shown another log of {size} records", number)


#: Nothing: at best the export is consistent with itself.
NONE = Anchors()


def _check_fields(record: dict[str, Any]) -> None:
    if record.keys() - {"dropped"} != _FIELDS or record["schema"] != SCHEMA:
        raise Malformed(f"the record has not the fields of {SCHEMA}")
    if not all(isinstance(record[name], str) for name in _TEXTS):
        raise Malformed("a field of the record that must be text is not")
    if not all(type(record[name]) is int and record[name] >= 0 for name in _NUMBERS):
        raise Malformed("a field of the record that must be a number is not")
    if record["epoch"] < 1 or record["seq"] < 1:
        raise Malformed("epoch and sequence number start at 1")


def verify_lines(
    lines: Iterable[bytes],
    *,
    hub_key: bytes | None = None,
    anchors: Anchors = NONE,
    segments: Iterable[tuple[str, Iterable[bytes]]] = (),
) -> Report:
    """Verify an export given line by line, with the segments before it, each with its name.

    Raises Malformed when a key given is not one.
    """
    run = _Run(hub_key, anchors)
    for number, raw in enumerate(lines, start=1):
        if len(raw) > MAX_LINE:
            run.report.add("malformed", "the line is too long", number)
            continue
        run.line(number, raw)
        if number == 1:
            for name, content in segments:
                run.segment(name, content)
            run.begun()
    return run.finish()


def verify_export(
    path: str | Path,
    *,
    hub_key: bytes | None = None,
    anchors: Anchors = NONE,
    segments: Sequence[str | Path] = (),
) -> Report:
    """Verify an export file.

    Args:
        path: the NDJSON file.
        hub_key: tree-head key you trust, SubjectPublicKeyInfo in DER or PEM; without it the key inside the export is
            used, which proves only that the export is consistent with itself.
        anchors: what you know of the log that its hub cannot have made up.
        segments: the segments that were exported and pruned before, oldest first: all are verified as one log.

    Raises OSError when a file cannot be read, Malformed when a key given is not one.
    """
    with Path(path).open("rb") as file:
        before = ((str(name), _file_lines(Path(name))) for name in segments)
        return verify_lines(_lines_of(file), hub_key=hub_key, anchors=anchors, segments=before)


def _file_lines(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        yield from _lines_of(file)


def _lines_of(file: BinaryIO) -> Iterator[bytes]:
    # A line without an end must not be read into memory whole.
    return iter(lambda: file.readline(MAX_LINE + 2), b"")
