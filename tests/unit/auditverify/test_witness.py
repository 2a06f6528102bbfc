"""A witness keeps the tree heads of a log elsewhere, and signs none that contradicts what it signed before."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from auditverify.anchors import parse_witness
from cli.commands import app
from tests.unit.auditverify.exports import SPKI, Exported, Lines, dump, records, resign
from tests.unit.auditverify.test_anchors import rewritten, without_agent

_KEY = base64.b64encode(SPKI).decode()


def run(tmp_path: Path, lines: Lines, *words: str) -> Result:
    """Let the witness see an export."""
    file = tmp_path / "export.ndjson"
    file.write_bytes(dump(lines))
    words = ("audit", "witness", str(tmp_path / "w"), str(file), "--hub-key", _KEY, *words)
    return CliRunner().invoke(app, [*words, "--home", str(tmp_path / "home")])


def shorter(lines: Lines, size: int) -> Lines:
    """The log as it was; statements about what came later were not there yet."""
    kept = [line for line in lines if "envelope" not in line and ("record" not in line or line["index"] < size)]
    names = {json.loads(base64.b64decode(kept[number]["record"]))["origin"] for number in records(kept)}
    kept[0]["origins"] = [item for item in kept[0]["origins"] if item["origin"] in names]
    resign(kept)
    return kept


def kept(tmp_path: Path) -> dict[str, bytes]:
    """Everything the witness keeps."""
    return {path.name: path.read_bytes() for path in (tmp_path / "w").iterdir()}


def verified(tmp_path: Path, lines: Lines) -> int:
    """What an auditor is told who trusts the witness: the exit code of the verifier."""
    file, place = tmp_path / "export.ndjson", tmp_path / "w"
    file.write_bytes(dump(lines))
    words = ["audit", "verify", str(file), "--hub-key", _KEY, "--witness", str(place / "witness.vkey")]
    words += ["--checkpoint", str(place / "checkpoint"), "--home", str(tmp_path / "home")]
    return CliRunner().invoke(app, words).exit_code


def test_what_a_witness_signed_verifies(exported: Exported, tmp_path: Path) -> None:
    """Its own key, made here and its alone; the newest checkpoint and each one before."""
    done = run(tmp_path, exported.lines(), "--name", "ada.example", "-o", "json")
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)["size"] == 30
    assert (tmp_path / "w" / "witness.key").stat().st_mode & 0o077 == 0
    assert set(kept(tmp_path)) == {".lock", "witness.key", "witness.vkey", "checkpoint", "checkpoint-30"}
    assert kept(tmp_path)["witness.vkey"].startswith(b"ada.example+")
    assert verified(tmp_path, exported.lines()) == 0
    before = kept(tmp_path)["witness.key"]
    assert run(tmp_path, exported.lines()).exit_code == 0
    assert kept(tmp_path)["witness.key"] == before


def test_lines_that_a_hub_adds_to_its_checkpoint_spoil_no_cosignature(exported: Exported, tmp_path: Path) -> None:
    """The hub knows name and hint of the witness: it puts a bogus line of that name beside its own signature."""
    assert run(tmp_path, exported.lines()).exit_code == 0
    known = parse_witness(kept(tmp_path)["witness.vkey"].decode())
    line = f"\u2014 {known.name} {base64.b64encode(known.hint + bytes(72)).decode()}\n".encode()
    lines = exported.lines()
    lines[-1]["checkpoint"] = base64.b64encode(base64.b64decode(lines[-1]["checkpoint"]) + line * 70).decode()
    assert run(tmp_path, lines).exit_code == 0
    assert line not in kept(tmp_path)["checkpoint"]
    assert verified(tmp_path, exported.lines()) == 0


@pytest.mark.parametrize("how", ["rewritten", "tail", "dropped", "smaller", "record changed", "unsigned"])
def test_a_log_that_contradicts_what_was_signed_is_refused(exported: Exported, tmp_path: Path, how: str) -> None:
    """Signed anew by who holds the tree-head key; nothing is signed, nothing kept is changed, and auditors see it."""
    assert run(tmp_path, exported.lines()).exit_code == 0
    before, lines = kept(tmp_path), exported.lines()
    if how in {"rewritten", "tail"}:
        lines = rewritten(lines, -1 if how == "tail" else 0)
    elif how == "dropped":
        lines = without_agent(lines, exported.writers[1].origin)
    elif how == "smaller":
        lines = shorter(lines, 20)
    elif how == "record changed":
        lines = rewritten(lines, -1)
        lines[-1] = exported.lines()[-1]
    else:
        lines[-1]["checkpoint"] = base64.b64encode(b"x\n1\ny\n\n").decode()
    refused = run(tmp_path, lines)
    assert refused.exit_code == 4
    assert "[cli/not-witnessed]" in refused.stderr
    assert kept(tmp_path) == before
    assert verified(tmp_path, lines) == 1


def test_a_witness_without_the_hubs_key_or_its_own_signs_nothing(exported: Exported, tmp_path: Path) -> None:
    """A key inside an export says nothing; and a witness that lost its key does not quietly become another one."""
    file = tmp_path / "export.ndjson"
    file.write_bytes(exported.data)
    words = ["audit", "witness", str(tmp_path / "w"), str(file), "--home", str(tmp_path / "home")]
    refused = CliRunner().invoke(app, words)
    assert refused.exit_code == 2
    assert not (tmp_path / "w").exists()
    assert run(tmp_path, exported.lines()).exit_code == 0
    (tmp_path / "w" / "witness.key").unlink()
    before = kept(tmp_path)
    assert run(tmp_path, exported.lines()).exit_code == 1
    assert kept(tmp_path) == before
