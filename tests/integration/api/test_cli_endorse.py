"""An endorsement is read from the cluster and signed; receipts count as evidence by endorsed keys alone."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from agent.audit.statement import StatementKey
from agent.platform import manifest_of
from cellward.documents.facts import ClusterFacts
from cellward.documents.names import CellKey
from hub.store.interfaces import ReceiptRow
from tests.fakes.command_line import Cli

KEY = CellKey("shop", "cart", "dev")
DEPLOYMENT = "sha256:" + "a" * 64


@pytest.fixture
def statement(tmp_path: Path) -> StatementKey:
    """The agent's statement key."""
    return StatementKey.load_or_create(tmp_path / "agent")


def cluster_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str) -> Path:
    """Put a kubectl on the PATH that finds this in the cluster of one kubeconfig; returns the kubeconfig."""
    tools, kubeconfig = tmp_path / "tools", tmp_path / "eu-1.kubeconfig"
    tools.mkdir(exist_ok=True)
    kubeconfig.write_text("of eu-1")
    (tmp_path / "said.json").write_text(said)
    script = f'#!/bin/sh\n[ "$1 $2" = "--kubeconfig {kubeconfig}" ] || exit 9\nexec cat {tmp_path}/said.json\n'
    (tools / "kubectl").write_text(script)
    (tools / "kubectl").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    return kubeconfig


async def published(cli: Cli, statement: StatementKey, **change: object) -> str:
    """What the agent of eu-1 publishes."""
    row = await cli.api.store.clusters.get("eu-1")
    assert row is not None
    facts = ClusterFacts(
        name="eu-1", uid=row.uid, environments=("dev",), production=False, labels={}, region="eu", projects=("*",)
    )
    realm = (await cli.api.services.realm.require()).realm
    manifest = manifest_of(
        "cellward-system",
        realm=realm,
        facts=replace(facts, **change),
        statement_spki=statement.spki_der,  # type: ignore[arg-type]
    )
    return str(manifest["data"]["identity.json"])


async def acknowledged(cli: Cli, statement: StatementKey) -> None:
    """Let the hub have a receipt of eu-1 for the cell, and the key it says is the agent's."""
    store = cli.api.store
    row = await store.clusters.get("eu-1")
    assert row is not None
    await store.clusters.bind("eu-1", row.uid, "0" * 64, statement.spki_der, 1, "1")
    revision = await store.desired.upsert("eu-1", KEY, DEPLOYMENT)
    signed = statement.receipt(
        realm=(await cli.api.services.realm.require()).realm, uid=row.uid, revision=revision, project="shop",
        cell="cart", environment="dev", deployment_digest=DEPLOYMENT, accepted=True, refusals=(),
        at=datetime(2026, 11, 30, tzinfo=UTC),
    )  # fmt: skip
    await store.desired.put_receipt(ReceiptRow("eu-1", KEY, revision, DEPLOYMENT, accepted=True, statement=signed))


async def evidence(cli: Cli) -> str:
    """What the CLI says the receipt is worth."""
    states = json.loads((await cli("cells", "show", "shop/cart", "-o", "json")).stdout)["states"]
    return str(states[0]["evidence"])


async def test_receipts_count_as_evidence_once_the_cluster_is_endorsed(
    installed: Cli, statement: StatementKey, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before: the hub's word. After: what the endorsed key signed, and nothing of another key, result or document."""
    await acknowledged(installed, statement)
    assert await evidence(installed) == "vouched by the hub only"
    kubeconfig = str(cluster_says(tmp_path, monkeypatch, await published(installed, statement)))
    tried = await installed("clusters", "endorse", "eu-1", "--kubeconfig", kubeconfig, "--dry-run")
    assert "nothing was signed" in tried.stderr
    assert await evidence(installed) == "vouched by the hub only"
    done = await installed("clusters", "endorse", "eu-1", "--kubeconfig", kubeconfig, "-o", "json")
    said = json.loads(done.stdout)
    assert (said["statementKeyid"], said["region"], said["labels"]) == (statement.keyid, "eu", {})
    assert await evidence(installed) == "endorsed"
    assert "endorsed" in (await installed("cells", "show", "shop/cart")).stdout
    # The hub turns the refusal of an agent into a success, or shows a receipt made with a key of its own.
    store = installed.api.store
    rows = (await store.desired.statuses("eu-1", "shop", "cart")).items
    receipt = rows[0].receipt
    assert receipt is not None
    await store.desired.put_receipt(replace(receipt, accepted=False))
    assert await evidence(installed) == "vouched by the hub only"
    forged = StatementKey.load_or_create(tmp_path / "hubs-own")
    await acknowledged(installed, forged)
    assert await evidence(installed) == "vouched by the hub only"


async def test_an_endorsement_is_refused_for_another_realm_cluster_or_facts(
    installed: Cli, statement: StatementKey, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is signed is what the cluster says and what it was invited as; nothing is signed otherwise."""
    good = await published(installed, statement)
    bad = {
        "another cluster": await published(installed, statement, name="us-1"),
        "other facts": await published(installed, statement, production=True),
        "another realm": good.replace(json.loads(good)["realm"], "sha256:" + "0" * 64),
        "a key that is not its id": good.replace(statement.keyid, "0" * 64),
        "more than we know": json.dumps({**json.loads(good), "admin": True}),
        "twice": good.replace('{"facts"', '{"realm": "x", "facts"'),
        "nothing": "",
    }
    for case, said in bad.items():
        kubeconfig = str(cluster_says(tmp_path, monkeypatch, said))
        refused = await installed("clusters", "endorse", "eu-1", "--kubeconfig", kubeconfig, code=4)
        assert "[cli/bad-identity]" in refused.stderr, case
    missing = await installed("clusters", "endorse", "eu-1", "--kubeconfig", str(tmp_path / "none"), code=2)
    assert "[cli/bad-file]" in missing.stderr
    other = tmp_path / "other.kubeconfig"
    other.write_text("of another cluster")
    away = await installed("clusters", "endorse", "eu-1", "--kubeconfig", str(other), code=3)
    assert "[cli/cluster-unreachable]" in away.stderr
    assert await evidence_documents(installed) == 0


async def evidence_documents(cli: Cli) -> int:
    """How many endorsements the hub was given."""
    return len((await cli.api.documents.list(kind="cluster")).items)


async def test_v4_receipts_of_a_locked_agent_are_no_evidence(
    installed: Cli, statement: StatementKey, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """V4: whoever stole the statement key signs receipts with it; a signed lock takes the endorsement's word away."""
    await acknowledged(installed, statement)
    kubeconfig = str(cluster_says(tmp_path, monkeypatch, await published(installed, statement)))
    await installed("clusters", "endorse", "eu-1", "--kubeconfig", kubeconfig)
    row = await installed.api.store.clusters.get("eu-1")
    assert row is not None
    for whom in (f"key/{statement.keyid}", "cluster/eu-1", f"agent/{row.uid}"):
        assert await evidence(installed) == "endorsed"
        await installed("lock", whom, "--reason", "stolen", "--signed")
        assert await evidence(installed) == "vouched by the hub only"
        await installed("unlock", whom, "--signed")
