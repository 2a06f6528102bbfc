"""Options every command shares, against the real API: formats, dry runs, waiting, following."""

from __future__ import annotations

import asyncio
import json
import re
import time
from pathlib import Path

import pytest
import typer.main
import yaml
from typer.testing import CliRunner

from cellward.version import VERSION
from cellward.wire.v1 import link_pb2
from cli import audit
from cli.commands import app
from cli.home import Home
from cli.waiting import wait_cells
from hub.store.log import AuditEvent
from tests.fakes.command_line import CELL, STARTER, Cli, client_of, commands_of, file_in


@pytest.mark.parametrize("form", ["table", "json", "yaml", "name"])
async def test_every_command_prints_in_every_format(installed: Cli, tmp_path: Path, form: str) -> None:
    """`-o` is on every command; JSON and YAML are one document, a name is one line without blanks around it."""
    file, home = file_in(tmp_path, CELL), tmp_path / "again"
    login = (
        "login", "--server", installed.api.server, "--ca-file", str(tmp_path / "ca.pem"),
        "--token-file", str(tmp_path / "admin.token"),
    )  # fmt: skip
    await Cli(home, installed.api)(*login, "-o", form)
    commands = [
        login, ("init",), ("status",), ("apply", "-f", file, "-e", "dev"),
        ("cells", "list"), ("cells", "show", "shop/cart"), ("delete", "shop/cart", "-e", "dev"),
        ("clusters", "list"), ("clusters", "invite", "eu-1", "--agent-config", str(tmp_path / "agent")),
        ("policy", "list"), ("policy", "refresh"), ("policy", "publish", str(STARTER), "--skip-compile"),
        ("tokens", "create", "--name", "ci", "--role", "viewer", "--file", str(tmp_path / "ci.token")),
        ("tokens", "list"), ("tokens", "revoke", "ci"),
        ("audit", "tail"), ("audit", "export", str(tmp_path / "out")),
        ("audit", "witness", str(tmp_path / "witness")),
        ("audit", "witness", str(tmp_path / "w"), str(tmp_path / "out")),
        ("audit", "verify", str(tmp_path / "out"), "--checkpoint", str(tmp_path / "w" / "checkpoint")),
    ]  # fmt: skip
    for words in commands:
        stdout = (await installed(*words, "-o", form)).stdout
        assert stdout.strip(), words
        if form == "json":
            json.loads(stdout)
        elif form == "yaml":
            assert isinstance(yaml.safe_load(stdout), dict | list), words
        elif form == "name":
            assert all(line and line == line.strip() for line in stdout.splitlines()), words
    assert VERSION in CliRunner().invoke(app, ["version", "-o", form]).stdout


def test_every_command_has_the_options_of_every_command() -> None:
    """Design §9: -o on all of them; --dry-run and --wait on what signs and changes what clusters do."""
    options = {
        name: {word for param in command.params for word in param.opts}
        for name, command in commands_of(typer.main.get_command(app))
    }
    assert [name for name, words in options.items() if not {"--output", "-o"} <= words] == []
    for name in ("apply", "delete", "policy publish", "policy refresh"):
        assert {"--dry-run", "--wait", "--timeout"} <= options[name]


async def test_followed_records_are_one_json_object_per_line(installed: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """`audit tail -f -o json` can be read line by line as it comes; a table has one heading."""
    await installed.api.services.audit.append(AuditEvent("ada", "cluster.create", "Cluster//x", "done"))
    looks = 0

    def later(seconds: float) -> None:
        nonlocal looks
        looks += 1
        if looks % 3 == 0:
            raise KeyboardInterrupt
        event = AuditEvent("ada", "cluster.create", f"Cluster//{looks}", "done")
        # The command runs in a thread of its own: the record is in the log before it looks again.
        asyncio.run_coroutine_threadsafe(append(event), loop).result(30)

    loop, append = asyncio.get_running_loop(), installed.api.services.audit.append
    monkeypatch.setattr(audit.time, "sleep", later)
    lines = (await installed("audit", "tail", "-f", "-n", "2", "-o", "json", code=130)).stdout.splitlines()
    assert [json.loads(line)["object"] for line in lines][-2:] == ["Cluster//1", "Cluster//2"]
    assert len(lines) == 4
    table = (await installed("audit", "tail", "-f", "-n", "2", code=130)).stdout
    assert table.count("INDEX") == 1
    assert table.count("Cluster//") == 4


async def test_wait_ends_when_every_cluster_is_ready(installed: Cli, tmp_path: Path) -> None:
    """--wait looks for the very deployment applied, not for an older one that is ready."""
    file = file_in(tmp_path, CELL)
    await installed("apply", "-f", file, "-e", "dev")
    item = (await installed.api.clusters.items("eu-1", 0))[0]
    status = link_pb2.CellStatus(
        project="shop", cell="cart", environment="dev", phase=link_pb2.CELL_PHASE_READY,
        deployment_digest="sha256:" + "0" * 64,
    )  # fmt: skip
    await installed.api.clusters.cell_status("eu-1", status)
    await installed("apply", "-f", file, "-e", "dev", "--wait", "--timeout", "1", code=1)
    status.deployment_digest = item.deployment_digest
    await installed.api.clusters.cell_status("eu-1", status)
    await installed("apply", "-f", file, "-e", "dev", "--wait", "--timeout", "5")


async def test_wait_for_no_cluster_ends_at_once(installed: Cli, tmp_path: Path) -> None:
    """Where no cluster matches there is nothing to wait for: a code and a next step, not five minutes."""
    file = file_in(tmp_path, CELL)
    for attempt in ("changed", "unchanged"):
        began = time.monotonic()
        refused = await installed("apply", "-f", file, "-e", "nowhere", "--wait", code=1)
        assert time.monotonic() - began < 60, attempt
        assert "[cli/no-cluster]\n  next: " in refused.stderr
        assert "shop/cart" in refused.stderr


async def test_delete_waits_until_every_cluster_has_removed_it(installed: Cli, tmp_path: Path) -> None:
    """--wait of a deletion looks for this very tombstone; where no cluster has the cell, it ends at once."""
    await installed("apply", "-f", file_in(tmp_path, CELL), "-e", "dev")
    late = await installed("delete", "shop/cart", "-e", "dev", "--wait", "--timeout", "1", code=1)
    assert "[cli/not-ready]" in late.stderr
    item = (await installed.api.clusters.items("eu-1", 0))[-1]
    status = link_pb2.CellStatus(
        project="shop", cell="cart", environment="dev", phase=link_pb2.CELL_PHASE_REMOVED,
        deployment_digest=item.deployment_digest,
    )  # fmt: skip
    await installed.api.clusters.cell_status("eu-1", status)
    await asyncio.to_thread(wait_cells, client_of(installed), {("shop", "cart"): item.deployment_digest}, "removed", 5)
    await installed("delete", "shop/nobody", "-e", "nowhere", "--wait", "--timeout", "1")


async def test_dry_run_of_a_publication_keeps_nothing(installed: Cli) -> None:
    """--dry-run says which versions would be served; the hub and the local floors stay as they were."""
    before = (await installed("policy", "list", "-o", "json")).stdout
    kept = _kept(installed)
    served = json.loads(before)["published"]
    for words in (("publish", str(STARTER), "--skip-compile"), ("refresh",)):
        made = json.loads((await installed("policy", *words, "--dry-run", "-o", "json")).stdout)
        assert made["dryRun"] is True
        assert made["versions"]["snapshot"] > served["snapshotVersion"]
    assert (await installed("policy", "list", "-o", "json")).stdout == before
    assert _kept(installed) == kept


def _kept(cli: Cli) -> list[bytes]:
    """The publishers' record and the local state."""
    return [(cli.home / name).read_bytes() for name in ("policy-record.json", "state/state.json")]


async def test_publication_waits_for_every_cluster_that_joined(installed: Cli) -> None:
    """--wait of a publication ends when the last cluster decides on it, and names those that do not."""
    publish = ("policy", "publish", str(STARTER), "--skip-compile", "--wait")
    late = await installed(*publish, "--timeout", "1", code=1)
    assert re.search(
        r"timed out waiting for eu-1, us-1 to be on snapshot \d{13} \(1 s\) \[cli/not-ready\]", late.stderr
    )
    for name in ("eu-1", "us-1"):
        report = link_pb2.AgentStatus(policy=link_pb2.PolicyVersions(root=1, snapshot=2**50, targets=1))
        await installed.api.clusters.agent_status(name, report)
    await installed(*publish, "--timeout", "5")


async def test_verification_is_printed_in_every_format(installed: Cli, tmp_path: Path) -> None:
    """The report is data, on stdout and in the format asked for; what cannot be read is told on stderr with a code."""
    file = tmp_path / "export.ndjson"
    await installed("audit", "export", str(file))
    await installed("audit", "witness", str(tmp_path / "witness"), str(file))
    anchor = ("--checkpoint", str(tmp_path / "witness/checkpoint"))
    table = (await installed("audit", "verify", str(file), *anchor)).stdout
    assert table.endswith("\nVERIFIED\n")
    as_json = json.loads((await installed("audit", "verify", str(file), *anchor, "-o", "json")).stdout)
    as_yaml = yaml.safe_load((await installed("audit", "verify", str(file), *anchor, "-o", "yaml")).stdout)
    assert as_json == as_yaml
    assert as_json["verified"] is True
    name = (await installed("audit", "verify", str(file), *anchor, "-o", "name")).stdout
    assert name == f"log/{as_json['logOrigin']}\n"
    for words, code in (([str(tmp_path / "none")], "cli/bad-file"), ([str(file), "--hub-key", "?"], "cli/bad-option")):
        refused = await installed("audit", "verify", *words, code=2)
        assert refused.stdout == ""
        assert f"[{code}]\n  next: " in refused.stderr


async def test_dry_run_keeps_nothing(installed: Cli, tmp_path: Path) -> None:
    """--dry-run tells which clusters would change and leaves no document and no counter."""
    done = await installed("apply", "-f", file_in(tmp_path, CELL), "-e", "dev", "--dry-run", "-o", "json")
    assert json.loads(done.stdout)[0]["change"] == "would-deploy"
    assert "eu-1" in done.stderr
    assert not (await installed.api.documents.list()).items
    home = Home(installed.home)
    assert not home.state(home.trust()).read().documents
