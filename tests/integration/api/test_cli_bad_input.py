"""V16 at the command line before a real API: what is refused has a code and a next step, and changes nothing."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from cli import policy
from cli.commands import app
from tests.fakes.command_line import CALLER, CELL, STARTER, Cli, file_in, set_image
from tests.fakes.live_api import live_api
from tools.parts.model import PARTS


async def test_v16_settings_that_cannot_be_read_stop_an_invitation_before_it_begins(
    installed: Cli, tmp_path: Path
) -> None:
    """V16: an agent.yaml that somebody broke is named; no token is minted and no file written beside it."""
    (tmp_path / "agent").mkdir()
    (tmp_path / "agent" / "agent.yaml").write_text("a: [")
    refused = await installed("clusters", "invite", "eu-1", "--agent-config", str(tmp_path / "agent"), code=2)
    assert "[cli/bad-file]" in refused.stderr
    assert [path.name for path in (tmp_path / "agent").iterdir()] == ["agent.yaml"]


def _bundle(directory: Path, rego: str, roots: str = "base") -> str:
    folder = directory / "base"
    folder.mkdir()
    named = {"cellward": {"name": "base", "version": "1.0.0", "entrypoint": f"{roots}/deny"}}
    manifest = {"revision": "1.0.0", "roots": [roots], "rego_version": 1, "metadata": named}
    (folder / ".manifest").write_text(json.dumps(manifest))
    (folder / "base.rego").write_text(rego)
    return str(folder)


@pytest.mark.real
@pytest.mark.parametrize(
    ("rego", "roots", "code"),
    [
        ("package base\n\ndeny contains x if { input.y }\n", "base", "policy/does-not-compile"),
        ('package base\n\ndeny contains "x" if http.send({}).body\n', "base", "policy/does-not-compile"),
        ("package system.authz\n\nallow := true\n", "system", "policy/bad-roots"),
    ],
    ids=["syntax", "calls-out", "roots-system"],
)
async def test_v16_what_does_not_compile_is_not_even_signed(
    installed: Cli, tmp_path: Path, opa_binary: Path, rego: str, roots: str, code: str
) -> None:
    """V16: publish compiles as agents will; what is refused leaves the served set and the local floors as they were."""
    before = (await installed("policy", "list", "-o", "json")).stdout
    record = (installed.home / "policy-record.json").read_bytes()
    bundle = _bundle(tmp_path, rego, roots)
    refused = await installed("policy", "publish", bundle, "--opa", str(opa_binary), code=2)
    assert f"[{code}]" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert (await installed("policy", "list", "-o", "json")).stdout == before
    assert (installed.home / "policy-record.json").read_bytes() == record


async def test_v16_publish_without_the_engine_signs_nothing(installed: Cli, tmp_path: Path) -> None:
    """V16: where there is no OPA nothing is signed or published, unless somebody says that it need not compile."""
    bare = {"PATH": str(tmp_path), "CELLWARD_CACHE": str(tmp_path), "CELLWARD_OPA": ""}
    before = (await installed("policy", "list", "-o", "json")).stdout
    refused = await installed("policy", "publish", str(STARTER), code=2, **bare)
    assert "[cli/no-engine]" in refused.stderr
    for word in ("--opa", "CELLWARD_OPA", "--skip-compile"):
        assert word in refused.stderr
    for program in (tmp_path / "none", Path("/bin/true"), STARTER):
        wrong = await installed("policy", "publish", str(STARTER), "--opa", str(program), code=2, **bare)
        assert "[cli/bad-option]" in wrong.stderr
    assert (await installed("policy", "list", "-o", "json")).stdout == before
    done = await installed("policy", "publish", str(STARTER), "--skip-compile", **bare)
    assert "not compiled" in done.stderr


@pytest.mark.real
async def test_publish_finds_the_engine_that_the_tools_built(installed: Cli, tmp_path: Path, opa_binary: Path) -> None:
    """Without OPA on PATH the one in the tree's own cache compiles; what does not compile is refused by it."""
    cached = tmp_path / "cache" / "tools" / "opa" / policy.OPA_VERSION / "opa"
    cached.parent.mkdir(parents=True)
    cached.symlink_to(opa_binary)
    bare = {"PATH": str(tmp_path), "CELLWARD_CACHE": str(tmp_path / "cache"), "CELLWARD_OPA": ""}
    bundle = _bundle(tmp_path, "package base\n\ndeny contains x if { input.y }\n")
    refused = await installed("policy", "publish", bundle, code=2, **bare)
    assert "[policy/does-not-compile]" in refused.stderr
    await installed("policy", "publish", str(STARTER), **bare)


def test_the_version_looked_for_is_the_one_the_tools_build() -> None:
    """The command line must not import the tools, so the version stands in both."""
    assert PARTS["opa"].version == policy.OPA_VERSION


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("a: [", "cells/not-yaml"),
        (CELL + "extra: 1\n", "cells/bad-field"),
        (CELL.replace("cart", "-cart", 1), "cells/bad-field"),
        (CELL + "---" + CELL, "cells/duplicate"),
        (
            CELL.replace("  endpoints:", "  connections: [{cell: front, endpoint: http, env: F}]\n  endpoints:")
            + "---"
            + CALLER.replace("  connections:", "  endpoints:\n"
                             "    http: {component: web, port: http, visibility: project}\n  connections:"),
            "cells/cycle",
        ),
        ("x" * (1024 * 1024 + 1), "cli/bad-file"),
        ("a: &a [*a]", "cells/yaml-alias"),
    ],
)  # fmt: skip
async def test_bad_files_are_refused_with_a_code(installed: Cli, tmp_path: Path, text: str, code: str) -> None:
    """V16: malformed, oversized, unknown fields, cycles, bad names and duplicates are usage errors; nothing is kept."""
    refused = await installed("apply", "-f", file_in(tmp_path, text), "-e", "dev", code=2)
    assert f"[{code}]" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert not (await installed.api.documents.list()).items


BROKEN = {
    "no text": b"\xff\xfe\x00", "a list": b"[1]", "another map": b'{"a": {"b": []}}',
    "a key that is none": b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
}  # fmt: skip


@pytest.mark.parametrize(
    "file",
    [
        "trust.yaml",
        "root.json",
        "policy-record.json",
        "state/state.json",
        "keys/author.pem",
        "keys/publisher.pem",
    ],
)
async def test_v16_a_broken_home_is_told_by_every_command(installed: Cli, tmp_path: Path, file: str) -> None:
    """V16: whatever stands in a file of the local directory: a code and a next step, no traceback, no mistake."""
    cell = file_in(tmp_path, CELL)
    await installed("apply", "-f", cell, "-e", "dev")
    changed = file_in(tmp_path, CELL.replace("cart:1.0", "cart:1.1"), "changed.yaml")
    commands = (
        ("apply", "-f", changed, "-e", "dev", "--dry-run"), ("delete", "shop/cart", "-e", "dev", "--dry-run"),
        ("policy", "publish", str(STARTER), "--skip-compile", "--dry-run"),
        ("clusters", "invite", "eu-1", "-o", "yaml"), ("check",),
    )  # fmt: skip
    before = (installed.home / file).read_bytes()
    for name, content in BROKEN.items():
        (installed.home / file).write_bytes(content)
        for words in commands:
            result = await asyncio.to_thread(CliRunner().invoke, app, [*words, "--home", str(installed.home)])
            _is_told(result, f"{file} with {name}: {' '.join(words[:2])}", check=words == ("check",))
    (installed.home / file).write_bytes(before)
    await installed("apply", "-f", cell, "-e", "dev")


def _is_told(result: Result, what: str, *, check: bool = False) -> None:
    """A command ended as every command may end."""
    assert result.exception is None or isinstance(result.exception, SystemExit), (what, result.exception)
    assert result.exit_code in {0, 1, 2, 3, 4}, what
    assert "/internal" not in result.output, (what, result.output)
    assert "Traceback" not in result.output, what
    if result.exit_code:
        said = result.stdout if check else result.stderr
        assert re.search(r"(\[[a-z-]+/[a-z-]+\]|code: [a-z-]+/[a-z-]+)\n +next: ", said), (what, result.output)


@pytest.mark.parametrize(
    "text",
    [
        "bindings: 7", "bindings: [7]", "bindings: [{}]", "bindings: [{name: starter}]", "more: 1\nbindings: []",
        "bindings: [{name: starter, selector: 7}]", "bindings: [{name: starter, selector: {all: maybe}}]",
        "bindings: [{name: other, selector: {all: true}}]",
        "bindings: [{name: starter, selector: {all: true}, mode: x}]",
        "bindings: [{name: starter, selector: {all: true}, parameters: {a: 1.5}}]",
        "bindings: [{name: starter, selector: {all: true}, parameters: {a: 2020-01-01}}]",
        "bindings: [{name: starter, selector: {all: true}, parameters: {a: yes}}]",
        "bindings: [{name: starter, selector: {all: true}, parameters: [1]}]",
        "bindings: [{name: starter, selector: {all: true}, stalenessSeconds: soon}]",
        "bindings: []\npruneLimit: many", "bindings: []\nthresholds: [1]", "bindings: []\nhubAttestation: 7",
        "bindings: []\nhubAttestation: {environments: 7}", "a: [", "[]",
    ],
)  # fmt: skip
async def test_v16_bindings_that_cannot_be_are_refused(installed: Cli, tmp_path: Path, text: str) -> None:
    """V16: bindings of any shape are signed or refused with a code; what is refused changes nothing."""
    before = (await installed("policy", "list", "-o", "json")).stdout
    words = [
        "policy",
        "publish",
        str(STARTER),
        "--skip-compile",
        "--bindings",
        file_in(tmp_path, text, "bindings.yaml"),
    ]
    result = await asyncio.to_thread(CliRunner().invoke, app, [*words, "--home", str(installed.home)])
    _is_told(result, text)
    assert result.exit_code == 2
    assert (await installed("policy", "list", "-o", "json")).stdout == before


@pytest.mark.parametrize(("image", "code"), [("", "cli/no-image"), ("registry.example/agent:1.0", "cli/bad-file")])
async def test_line_that_cannot_work_is_not_printed(installed: Cli, image: str, code: str) -> None:
    """Without an image by digest the chart installs nothing: told before a token is minted, with what to set."""
    set_image(installed, image)
    before = (installed.home / "trust.yaml").read_bytes()
    refused = await installed("clusters", "invite", "ap-1", "--environment", "dev", "--no-production", code=2)
    assert refused.stdout == ""
    assert f"[{code}]\n  next: " in refused.stderr
    assert (installed.home / "trust.yaml").read_bytes() == before
    assert "ap-1" not in (await installed("clusters", "list", "-o", "name")).stdout
    records = json.loads((await installed("audit", "tail", "-o", "json")).stdout)
    assert [item for item in records if item["object"].endswith("ap-1")] == []
    if not image:
        assert "--agent-config" in refused.stderr
        values = await installed("clusters", "invite", "eu-1", "-o", "yaml")
        assert "image.repository" in values.stderr


@pytest.mark.parametrize(
    "words",
    [
        ("--name", "Ada L", "--role", "viewer"),
        ("--name", "ada", "--role", "root"),
        ("--name", "ada", "--role", "viewer", "--expires", "soon"),
        ("--name", "ada", "--role", "viewer", "--expires", "367d"),
        ("--name", "ada", "--role", "viewer", "--expires", "0d"),
        ("--name", "ada", "--role", "viewer", "-o", "name"),
    ],
    ids=" ".join,
)
async def test_tokens_that_cannot_be_are_usage_errors(cli: Cli, words: tuple[str, ...]) -> None:
    """A name, role or life that none can have is told before the hub is asked."""
    refused = await cli("tokens", "create", *words, code=2)
    assert "[cli/bad-option]\n  next: " in refused.stderr
    assert (await cli("tokens", "list", "-o", "name")).stdout == ""


async def test_unreachable_hub_is_a_red_line(installed: Cli) -> None:
    """A hub that is down is one red line with a hint and exit code 3, never a traceback."""
    red = await installed("check", code=3, CELLWARD_SERVER="https://127.0.0.1:1")
    assert "cli/hub-unreachable" in red.stdout
    assert "Traceback" not in red.stdout + red.stderr
    await installed("status", code=3, CELLWARD_SERVER="https://127.0.0.1:1")


async def test_server_of_another_ca_is_not_talked_to(installed: Cli, tmp_path: Path) -> None:
    """The CLI trusts the CA it was given and nothing else."""
    async with live_api(tmp_path / "..") as other:
        refused = await installed("status", code=3, CELLWARD_SERVER=other.server)
    assert "cli/hub-untrusted" in refused.stderr
