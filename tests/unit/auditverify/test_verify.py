"""The offline verifier against real exports: an honest one passes, every kind of tampering does not."""

from __future__ import annotations

import ast
import base64
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from auditverify.cli import main
from auditverify.report import HUB_ONLY, Report
from auditverify.signatures import Malformed
from auditverify.verify import verify_export, verify_lines
from cellward.audit.chain import ChainState, extend
from cellward.audit.checkpoint import Checkpoint, log_origin, parse_checkpoint, sign_checkpoint
from cellward.audit.statement import STATEMENT_TYPE, sign_statement
from cellward.audit.tree import leaf_hash, root_of
from cellward.documents import canonical
from cellward.documents.dsse import Ed25519Signer, dump_envelope, sign_document
from hub.audit.model import AuditBatchIn
from hub.audit.service import AuditLog
from hub.store.sql.store import open_store
from tests.fakes.audit_writer import REALM, AuditWriter
from tests.fakes.clock import ManualClock
from tests.fakes.store import MemoryStore

ROOT = Path(__file__).parents[3]
KEY = Ed25519PrivateKey.generate()
SPKI = KEY.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
OTHER = Ed25519PrivateKey.generate()
OTHER_SPKI = OTHER.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
Lines = list[dict[str, Any]]


async def fill(log: AuditLog) -> list[AuditWriter]:
    """Write a log with two agents, the hub, a new epoch, and views of the log in records."""
    writers = [AuditWriter(1), AuditWriter(2)]
    for turn in range(3):
        for writer in writers:
            ack = await log.ingest(writer.cluster, writer.uid, writer.spki, writer.batch(4))
            seen = parse_checkpoint(ack.checkpoint)[0]
            writer.view = (seen.size, "sha256:" + seen.root.hex())
        await log.append_hub("alice", "document.upload", f"Release//r{turn}", "done")
    writers[0].new_epoch()
    await log.ingest(writers[0].cluster, writers[0].uid, writers[0].spki, writers[0].batch(2))
    return writers


async def export_of(log: AuditLog) -> bytes:
    """Return the whole export."""
    parts: list[bytes] = []

    async def write(data: bytes) -> None:
        parts.append(data)

    await log.export(write)
    return b"".join(parts)


class Exported:
    """An export and who wrote into it."""

    def __init__(self, data: bytes, writers: list[AuditWriter]) -> None:
        self.data = data
        self.writers = writers

    def lines(self) -> Lines:
        """Return fresh copies of the lines."""
        return [json.loads(line) for line in self.data.splitlines()]


#: Exports are only read, so each kind is made once.
_MADE: dict[str, Exported] = {}


@pytest.fixture(params=["memory", "sqlite"])
async def exported(request: pytest.FixtureRequest, tmp_path: Path) -> Exported:
    """Give an honest export from each kind of store."""
    if request.param not in _MADE:
        store: Any = MemoryStore(ManualClock())
        if request.param == "sqlite":
            store = await open_store(f"sqlite+aiosqlite:///{tmp_path / 'hub.db'}", ManualClock())
        log = AuditLog(store.audit, KEY, lambda: REALM, ManualClock())
        writers: list[AuditWriter] = []
        data = await _filled(log, writers)
        await store.close()
        _MADE[request.param] = Exported(data, writers)
    return _MADE[request.param]


async def _filled(log: AuditLog, writers: list[AuditWriter]) -> bytes:
    writers += await fill(log)
    return await export_of(log)


def dump(lines: Lines) -> bytes:
    """Write lines as the exporter does."""
    return b"".join(json.dumps(line, separators=(",", ":")).encode() + b"\n" for line in lines)


def check(lines: Lines | bytes, **options: Any) -> Report:
    """Verify with the hub's key."""
    data = lines if isinstance(lines, bytes) else dump(lines)
    return verify_lines(data.splitlines(keepends=True), **{"hub_key": SPKI, **options})


def records(lines: Lines) -> list[int]:
    """Return the numbers of the record lines."""
    return [number for number, line in enumerate(lines) if "record" in line]


def body(line: dict[str, Any]) -> dict[str, Any]:
    """Return the record in a line."""
    value: dict[str, Any] = json.loads(base64.b64decode(line["record"]))
    return value


def put(line: dict[str, Any], value: dict[str, Any]) -> None:
    """Put a record into a line, canonical."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    line["record"] = base64.b64encode(text.encode()).decode()


def renumber(lines: Lines) -> None:
    """Give record lines the indices they would have."""
    for index, number in enumerate(records(lines)):
        lines[number]["index"] = index


def resign(lines: Lines, key: Ed25519PrivateKey = KEY) -> None:
    """Sign a new checkpoint over whatever is there: the hub's key is stolen."""
    leaves = [leaf_hash(base64.b64decode(lines[number]["record"])) for number in records(lines)]
    note = sign_checkpoint(Checkpoint(log_origin(REALM), len(leaves), root_of(leaves)), key)
    lines[-1] = {"checkpoint": base64.b64encode(note).decode()}


def test_honest_export_verifies(exported: Exported) -> None:
    """The control: everything is counted, everything holds, and nobody is called endorsed who was not."""
    report = check(exported.data)
    assert (report.verified, report.problems) == (True, [])
    assert (report.records, report.gaps, report.duplicates, report.forks) == (30, 0, 0, 0)
    assert (report.statements, report.views_checked > 0, report.size) == (3, True, 30)
    origins = {item.origin: item for item in report.origins.values()}
    first, second = exported.writers
    assert (origins[first.origin].records, origins[first.origin].epochs, origins[first.origin].signed) == (14, 2, 14)
    assert (origins[second.origin].records, origins["hub"].records) == (12, 4)
    assert {item.verdict for item in origins.values()} == {"vouched by the hub only"}


def test_endorsed_key_changes_the_verdict_of_its_writer_only(exported: Exported) -> None:
    """A key known out of band makes its cluster endorsed; one that signed nothing here is a problem."""
    first, second = exported.writers
    report = check(exported.data, endorsed=[first.spki])
    assert report.verified
    assert report.origins[first.origin].verdict == "endorsed"
    assert report.origins[second.origin].verdict == "vouched by the hub only"
    assert not check(exported.data, endorsed=[OTHER_SPKI]).verified


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


@pytest.mark.parametrize("tamper", TAMPERINGS, ids=lambda tamper: tamper.__name__)
def test_tampering_is_detected(exported: Exported, tamper: Callable[[Lines], None]) -> None:
    """V13: whatever is done to the lines, the verdict is no, with a reason."""
    lines = exported.lines()
    tamper(lines)
    report = check(lines)
    assert not report.verified
    assert report.problems


@pytest.mark.parametrize("name", HEADERS)
def test_changed_header_is_detected(exported: Exported, name: str) -> None:
    """The header is not signed, so each thing it says is compared with something that is."""
    lines = exported.lines()
    HEADERS[name](lines)
    assert not check(lines).verified


@pytest.mark.parametrize(
    "tamper", [change_field, drop_and_renumber, swap_and_renumber, cut_records, insert, repeat],
    ids=lambda tamper: tamper.__name__,
)  # fmt: skip
def test_stolen_hub_key_does_not_help(exported: Exported, tamper: Callable[[Lines], None]) -> None:
    """A thief with the tree-head key signs a new log: the writers' chains and statements still say no."""
    lines = exported.lines()
    tamper(lines)
    resign(lines)
    report = check(lines)
    assert report.root_matches
    assert report.checkpoint_signed
    assert not report.verified


def test_two_faces_of_one_log_contradict_each_other(exported: Exported) -> None:
    """A hub that reorders its log re-signs it, but agents have written down the heads they saw."""
    lines = exported.lines()
    reorder_origins(lines)
    resign(lines)
    report = check(lines)
    assert report.root_matches
    assert "another-log" in {problem.code for problem in report.problems}


async def test_chain_alone_shows_a_rewritten_record() -> None:
    """No statement, no view, and the hub's own key: a changed record of the hub still breaks its chain."""
    log = AuditLog(MemoryStore(ManualClock()).audit, KEY, lambda: REALM, ManualClock())
    for number in range(4):
        await log.append_hub("alice", "document.upload", f"Release//r{number}", "done")
    lines = [json.loads(line) for line in (await export_of(log)).splitlines()]
    resign(lines)
    assert check(lines).verified
    line = lines[records(lines)[1]]
    put(line, {**body(line), "actor": "mallory"})
    resign(lines)
    report = check(lines)
    assert (report.verified, report.forks, report.root_matches) == (False, 1, True)


@pytest.mark.parametrize("realm", ["", "sha256:" + "00" * 32])
async def test_records_of_another_realm_do_not_pass(realm: str) -> None:
    """A log of one installation holds no records of another; without a realm only before the first one with it."""
    current = [""]
    log = AuditLog(MemoryStore(ManualClock()).audit, KEY, lambda: current[0], ManualClock())
    for current[0] in ("", "", REALM):
        await log.append_hub("alice", "hub.start", "Hub", "done")
    lines = [json.loads(line) for line in (await export_of(log)).splitlines()]
    assert check(lines).verified
    current[0] = realm
    await log.append_hub("alice", "hub.start", "Hub", "done")
    current[0] = REALM
    lines = [json.loads(line) for line in (await export_of(log)).splitlines()]
    assert {problem.code for problem in check(lines).problems} == {"realm"}


def test_counts_of_gaps_duplicates_and_forks(exported: Exported) -> None:
    """Each kind is counted for the writer it concerns."""
    dropped, repeated, changed = exported.lines(), exported.lines(), exported.lines()
    drop_record(dropped)
    repeat(repeated)
    insert(changed)
    assert check(dropped).gaps == 1
    assert (check(repeated).duplicates, check(repeated).forks) == (1, 0)
    assert check(changed).forks >= 1


@pytest.mark.parametrize("data", [b"", b"\n", b"null\n", b"{}\n", b"\xff\xfe\n", b"[" * 100_000, b'{"checkpoint":1}\n'])
def test_what_is_no_export_is_not_verified(data: bytes) -> None:
    """V16: garbage is reported, never a traceback."""
    assert not check(data).verified


WRONG = [None, 7, -1, True, [], ["a"], "AAAA", "!", {"a": 1}]


@pytest.mark.parametrize("value", WRONG)
@pytest.mark.parametrize("name", ["record", "envelope", "checkpoint", "index", "origin"])
def test_wrong_types_are_reported(exported: Exported, name: str, value: object) -> None:
    """V16: any value in any line is an answer, never a traceback."""
    places = [number for number, line in enumerate(exported.lines()) if name in line]
    assert places
    for number in places:
        lines = exported.lines()
        if lines[number][name] is not value and (lines[number][name], type(value)) != (value, int):
            lines[number][name] = value
            assert not check(lines).verified, number


@pytest.mark.parametrize("value", WRONG)
def test_wrong_types_in_signed_places_are_reported(exported: Exported, value: object) -> None:
    """V16: the keys are stolen, too: what a record, a statement or the header holds is checked all the same."""
    name: str
    for name in body(exported.lines()[records(exported.lines())[-1]]):
        lines = exported.lines()
        line = lines[records(lines)[-1]]
        if body(line)[name] == value:
            continue
        put(line, {**body(line), name: value})
        resign(lines)
        assert not check(lines).verified, name
    writer = exported.writers[1]
    for name in ("schema", "realm", "uid", "epoch", "seq", "head"):
        lines = exported.lines()
        statement = lines[statement_of(lines, writer)]
        payload = json.loads(base64.b64decode(json.loads(base64.b64decode(statement["envelope"]))["payload"]))
        if payload[name] == value and type(payload[name]) is type(value):
            continue
        envelope = sign_document(canonical.encode({**payload, name: value}), STATEMENT_TYPE, [writer.signer])
        statement["envelope"] = base64.b64encode(dump_envelope(envelope)).decode()
        assert not check(lines).verified, name
    for name in ("origin", "uid", "cluster", "statementSpki"):
        lines = exported.lines()
        lines[0]["origins"][0][name] = value
        assert not check(lines).verified, name


# -- what the writer itself did not sign ------------------------------------------------------------------------------


def statement_of(lines: Lines, writer: AuditWriter) -> int:
    """Return where the last statement of a writer is."""
    return max(n for n, line in enumerate(lines) if line.get("origin") == writer.origin and "envelope" in line)


def add_records(lines: Lines, written: list[bytes]) -> None:
    """Put records at the end of the log and sign it anew: the hub's key is stolen."""
    at = records(lines)[-1] + 1
    lines[at:at] = [{"index": 0, "record": base64.b64encode(data).decode()} for data in written]
    renumber(lines)
    resign(lines)


def add_statement(lines: Lines, batch: AuditBatchIn, writer: AuditWriter) -> None:
    """Put a statement before the end."""
    lines.insert(-1, {"origin": writer.origin, "envelope": base64.b64encode(batch.checkpoint).decode()})


def codes(report: Report) -> set[str]:
    """Return the codes of the problems."""
    return {problem.code for problem in report.problems}


def test_records_added_behind_the_statement_are_not_the_writers(exported: Exported) -> None:
    """A thief with the hub's key invents records of an agent: they follow its chain, but its key never saw them."""
    lines, writer = exported.lines(), exported.writers[1].clone()
    add_records(lines, writer.write(3, reason="invented"))
    report = check(lines, endorsed=[writer.spki])
    assert report.root_matches
    assert (codes(report), report.verified) == ({"unsigned"}, False)
    assert report.origins[writer.origin].verdict != "endorsed"
    assert report.origins[writer.origin].signed == 12


def test_a_statement_counts_once(exported: Exported) -> None:
    """The same line twice says nothing more than once."""
    lines, writer = exported.lines(), exported.writers[1]
    lines.insert(-1, dict(lines[statement_of(lines, writer)]))
    report = check(lines)
    assert codes(report) == {"statement-twice"}
    assert report.origins[writer.origin].signed == 12


@pytest.mark.parametrize("signed", [True, False])
def test_an_epoch_under_a_key_of_the_hubs_own_is_not_the_writers(exported: Exported, signed: bool) -> None:
    """A stolen hub key invents a new epoch under a key of its own, beside the key you know to be the cluster's."""
    lines, writer = exported.lines(), exported.writers[1]
    thief = writer.clone()
    thief.signer = Ed25519Signer.generate()
    thief.new_epoch()
    batch = thief.batch(2, reason="invented")
    add_records(lines, list(batch.records))
    if signed:
        known = next(item for item in lines[0]["origins"] if item["origin"] == writer.origin)
        lines[0]["origins"].append({**known, "statementSpki": base64.b64encode(thief.spki).decode()})
        add_statement(lines, batch, thief)
    report = check(lines, endorsed=[writer.spki])
    assert codes(report) == ({"second-key"} if signed else {"unsigned"})
    assert report.origins[writer.origin].verdict != "endorsed"
    if signed:
        both = check(lines, endorsed=[writer.spki, thief.spki])
        assert (both.verified, both.origins[writer.origin].verdict) == (True, "endorsed")
        assert codes(check(lines)) == {"second-key"}


def test_an_export_without_statements_is_not_verified(exported: Exported) -> None:
    """No key is needed to take lines away: what nobody signed is told."""
    lines = [line for line in exported.lines() if "envelope" not in line]
    report = check(lines)
    assert codes(report) == {"unsigned"}
    assert len(report.problems) == 3, "one for each epoch"
    assert {item.signed for item in report.origins.values()} == {0}


def test_an_older_statement_is_not_enough(exported: Exported) -> None:
    """What a writer signed of its first records says nothing of those after them."""
    lines, writer = exported.lines(), exported.writers[1]
    mine = [data for data in (base64.b64decode(lines[n]["record"]) for n in records(lines)) if writer.uid in str(data)]
    state = ChainState(1)
    for data in mine[:3]:
        state = extend(state, data)
    older = sign_statement(REALM, writer.uid, state, writer.signer)
    lines[statement_of(lines, writer)]["envelope"] = base64.b64encode(older).decode()
    report = check(lines, endorsed=[writer.spki])
    assert codes(report) == {"unsigned"}
    assert (report.origins[writer.origin].signed, report.origins[writer.origin].verdict) == (3, HUB_ONLY)


def test_command(exported: Exported, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 0 only for a verified export, JSON as agreed, keys as base64 or PEM."""
    good, bad, pem = tmp_path / "good.ndjson", tmp_path / "bad.ndjson", tmp_path / "key.pem"
    good.write_bytes(exported.data)
    lines = exported.lines()
    change_byte(lines)
    bad.write_bytes(dump(lines))
    pem.write_bytes(KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    assert main([str(good)]) == 0
    assert capsys.readouterr().out.endswith("\nVERIFIED, vouched by the key in the export only\n")
    assert main([str(good), "--hub-key", str(pem)]) == 0
    assert capsys.readouterr().out.endswith("\nVERIFIED\n")
    assert main([str(good), "--hub-key", str(pem), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["records"], result["gaps"], result["duplicates"], result["verified"], result["problems"]) == (
        30, 0, 0, True, [],
    )  # fmt: skip
    assert main([str(good), "--hub-key", base64.b64encode(OTHER_SPKI).decode()]) == 1
    assert main([str(bad)]) == 1
    assert "NOT VERIFIED" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["/nowhere/none"], "auditverify/bad-file"),
        (["/"], "auditverify/bad-file"),
        (["x" * 300], "auditverify/bad-file"),
        (["GOOD", "--hub-key", "?"], "auditverify/bad-key"),
        (["GOOD", "--hub-key", "bm9uc2Vuc2U="], "auditverify/bad-key"),
        (["GOOD", "--endorsed", "a\0b"], "auditverify/bad-key"),
        ([], "auditverify/usage"),
        (["GOOD", "--bogus"], "auditverify/usage"),
    ],
    ids=str,
)
def test_what_cannot_be_read_is_told_on_stderr_with_a_next_step(
    exported: Exported, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], code: str
) -> None:
    """V15, V16: exit code 2, nothing where a program reads the report, a code and what to do on stderr."""
    (tmp_path / "good.ndjson").write_bytes(exported.data)
    assert main([str(tmp_path / "good.ndjson") if word == "GOOD" else word for word in words]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert f"[{code}]\n  next: " in said.err


def test_help_names_the_command_as_it_is_typed(capsys: pytest.CaptureFixture[str]) -> None:
    """The usage line can be copied, and says what the exit codes mean."""
    assert main(["--help"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert said.startswith("usage: python -m auditverify [-h] [--hub-key KEY] [--endorsed KEY] [--json] EXPORT")
    assert "exit codes: 0 " in said


def test_bad_key_is_the_callers_mistake(exported: Exported, tmp_path: Path) -> None:
    """A key that is none is told apart from an export that does not verify."""
    file = tmp_path / "export.ndjson"
    file.write_bytes(exported.data)
    with pytest.raises(Malformed):
        verify_export(file, hub_key=b"nonsense")
    assert verify_export(file, hub_key=SPKI).verified


def test_stands_alone(exported: Exported, tmp_path: Path) -> None:
    """It runs as a module from a copy of its directory, with nothing of ours beside it."""
    allowed = {*sys.stdlib_module_names, "cryptography", "auditverify"}
    copy = tmp_path / "auditverify"
    copy.mkdir()
    for file in (ROOT / "auditverify").glob("*.py"):
        (copy / file.name).write_bytes(file.read_bytes())
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert {name.split(".")[0] for name in names} <= allowed
    (tmp_path / "export.ndjson").write_bytes(exported.data)
    done = subprocess.run(
        [sys.executable, "-m", "auditverify", "export.ndjson"], cwd=tmp_path, capture_output=True, check=False, env={}
    )
    assert (done.returncode, done.stdout.splitlines()[-1]) == (
        0, b"VERIFIED, vouched by the key in the export only",
    )  # fmt: skip


def test_root_mismatch_is_a_problem_of_its_own(exported: Exported) -> None:
    """Records other than those that were signed are named as such, beside what else is wrong."""
    lines = exported.lines()
    change_field(lines)
    assert "root" in {problem.code for problem in check(lines).problems}


def test_ended_epoch_and_view_of_the_future_are_found(exported: Exported) -> None:
    """What an honest log cannot hold: an epoch that goes on after a later one, a record that saw what came after it."""
    lines = exported.lines()
    at = records(lines)
    moved = next(
        number for number in at if body(lines[number])["epoch"] == 2 and body(lines[number])["origin"] != "hub"
    )
    lines.insert(1, lines.pop(moved))
    renumber(lines)
    resign(lines)
    assert any("goes on after a later one" in problem.message for problem in check(lines).problems)
    early = exported.lines()
    record = body(early[at[0]])
    put(early[at[0]], {**record, "logSize": 9, "logRoot": "sha256:" + "00" * 32})
    assert any("did not exist before it" in problem.message for problem in check(early).problems)
