"""The verifier as its user runs it: the command line, the keys given to it, a copy that stands alone."""

from __future__ import annotations

import ast
import base64
import json
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from auditverify.cli import main
from auditverify.signatures import Malformed
from auditverify.verify import verify_export
from tests.unit.auditverify.exports import KEY, OTHER_SPKI, SPKI, Exported, dump
from tests.unit.auditverify.tampering import change_byte

ROOT = Path(__file__).parents[3]


def test_command(exported: Exported, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 0 only for an export that anchors cover, JSON as agreed, keys as base64 or PEM."""
    good, bad, pem = tmp_path / "good.ndjson", tmp_path / "bad.ndjson", tmp_path / "key.pem"
    good.write_bytes(exported.data)
    lines = exported.lines()
    change_byte(lines)
    bad.write_bytes(dump(lines))
    pem.write_bytes(KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    for more in ([], ["--hub-key", str(pem)]):
        assert main([str(good), *more]) == 1
        assert capsys.readouterr().out.endswith("\nCONSISTENT, NOT ANCHORED\n")
        assert main([str(good), *more, "--accept-unanchored"]) == 0
        assert capsys.readouterr().out.endswith("\nCONSISTENT, NOT ANCHORED\n")
    kept = tmp_path / "checkpoint"
    kept.write_bytes(base64.b64decode(exported.lines()[-1]["checkpoint"]))
    assert main([str(good), "--checkpoint", str(kept), "--accept-unanchored"]) == 0
    assert "\nCONSISTENT, NOT ANCHORED\n" in capsys.readouterr().out
    assert main([str(good), "--hub-key", str(pem), "--checkpoint", str(kept)]) == 0
    assert capsys.readouterr().out.endswith("\nVERIFIED\n")
    assert main([str(good), "--hub-key", str(pem), "--checkpoint", str(kept), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["records"], result["gaps"], result["duplicates"], result["verified"], result["problems"]) == (
        30, 0, 0, True, [],
    )  # fmt: skip
    assert (result["anchored"], result["unanchoredFrom"], result["verdict"]) == (30, None, "VERIFIED")
    assert main([str(good), "--hub-key", base64.b64encode(OTHER_SPKI).decode()]) == 1
    assert main([str(bad), "--accept-unanchored"]) == 1
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
        (["GOOD", "--checkpoint", "/nowhere/none"], "auditverify/bad-file"),
        (["GOOD", "--witness", "name+00000000+AAAA"], "auditverify/bad-key"),
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
    assert said.startswith(
        "usage: python -m auditverify [-h] [--hub-key KEY] [--endorsed KEY] [--checkpoint FILE] [--witness KEY]"
    )
    assert "exit codes: 0 " in said


def test_bad_key_is_the_callers_mistake(exported: Exported, tmp_path: Path) -> None:
    """A key that is none is told apart from an export that does not verify."""
    file = tmp_path / "export.ndjson"
    file.write_bytes(exported.data)
    with pytest.raises(Malformed):
        verify_export(file, hub_key=b"nonsense")
    assert verify_export(file, hub_key=SPKI).consistent


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
        1, b"CONSISTENT, NOT ANCHORED",
    )  # fmt: skip
