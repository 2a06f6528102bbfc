"""``cellward isolation``: what may talk to what, by releases that the CLI verified, and what only a hub says (V10)."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from agent.audit.statement import StatementKey
from cellward.documents.dsse import parse_envelope
from cellward.documents.model import Deployment, parse_document
from cellward.wire.v1 import link_pb2
from hub.store.interfaces import ReceiptRow
from tests.fakes.command_line import CALLER, CELL, Cli, file_in
from tests.integration.api.test_cli_endorse import cluster_says, published

CART, FRONT = "shop/cart/dev", "shop/front/dev"


@pytest.fixture
def statement(tmp_path: Path) -> StatementKey:
    """The agent's statement key."""
    return StatementKey.load_or_create(tmp_path / "agent")


async def runs(cli: Cli, key: str, like: str = "", **changes: Any) -> None:
    """Let the agent of eu-1 report a cell with what was placed of it, or of the cell ``like``."""
    project, cell, environment = key.split("/")
    item = next(one for one in await cli.api.clusters.items("eu-1", 0) if one.key.cell == (like or cell))
    row = await cli.api.documents.get(item.deployment_digest)
    assert row is not None
    envelope = parse_envelope(row.envelope)
    deployment = parse_document(envelope.payload_type, envelope.payload)
    assert isinstance(deployment, Deployment)
    status = link_pb2.CellStatus(
        project=project, cell=cell, environment=environment, phase=link_pb2.CELL_PHASE_READY,
        deployment_digest=item.deployment_digest, release_digest=deployment.release_digest,
        isolation="enforced", version="1.0",
    )  # fmt: skip
    for name, value in changes.items():
        setattr(status, name, value)
    await cli.api.clusters.cell_status("eu-1", status)


async def receive(cli: Cli, statement: StatementKey) -> None:
    """Let the hub have the receipt of eu-1 for what is placed there of the cart, and the key of its agent."""
    store, realm = cli.api.store, (await cli.api.services.realm.require()).realm
    row = await store.clusters.get("eu-1")
    assert row is not None
    await store.clusters.bind("eu-1", row.uid, "0" * 64, statement.spki_der, 1, "1")
    item = next(one for one in await cli.api.clusters.items("eu-1", 0) if one.key.cell == "cart")
    signed = statement.receipt(
        realm=realm, uid=row.uid, revision=item.revision, project="shop", cell="cart", environment="dev",
        deployment_digest=item.deployment_digest, accepted=True, refusals=(), at=datetime(2026, 11, 30, tzinfo=UTC),
    )  # fmt: skip
    receipt = ReceiptRow("eu-1", item.key, item.revision, item.deployment_digest, accepted=True, statement=signed)
    await store.desired.put_receipt(receipt)


@pytest.fixture
async def shop(installed: Cli, tmp_path: Path) -> Cli:
    """A callee and its caller in force on eu-1."""
    await installed("apply", "-f", file_in(tmp_path, CELL), "-f", file_in(tmp_path, CALLER, "caller.yaml"), "-e", "dev")
    await runs(installed, CART)
    await runs(installed, FRONT)
    return installed


async def matrix(cli: Cli, *arguments: str) -> tuple[dict[str, Any], dict[tuple[str, str], str]]:
    """The matrix as JSON, and its verdicts by pair."""
    made = json.loads((await cli("isolation", "matrix", *arguments, "-o", "json")).stdout)
    return made, {(pair["source"], pair["destination"]): pair["verdict"] for pair in made["pairs"]}


async def test_v10_the_matrix_has_every_pair_and_every_open_port(shop: Cli) -> None:
    """As data and as a table; nothing is left unsaid about what only the hub says."""
    made, verdicts = await matrix(shop)
    assert verdicts == {(FRONT, CART): "open", (CART, FRONT): "closed"}
    edge = next(pair for pair in made["pairs"] if pair["verdict"] == "open")["edges"][0]
    assert (edge["source"], edge["destination"], edge["port"], edge["protocol"]) == ("web", "api", 8080, "TCP")
    assert "connection.shop.cart.http egress[0]" in edge["egress"]
    assert "endpoint.http ingress[0]" in edge["ingress"]
    assert {cell["evidence"] for cell in made["cells"]} == {"vouched by the hub only"}
    assert [line.split(":")[0] for line in made["unverified"]] == [f"{CART} on eu-1", f"{FRONT} on eu-1"]
    shown = await shop("isolation", "matrix")
    lines = [line.split() for line in shown.stdout.splitlines()]
    assert ["1", CART, "=", "-"] in [line[:4] for line in lines]
    assert ["2", FRONT, "8080", "="] in [line[:4] for line in lines]
    assert "hub's word only" in shown.stderr


async def test_what_an_endorsed_key_signed_is_evidence(
    shop: Cli, statement: StatementKey, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only of the Deployment that the receipt is about: the hub may report another as in force."""
    await receive(shop, statement)
    kubeconfig = str(cluster_says(tmp_path, monkeypatch, await published(shop, statement)))
    await shop("clusters", "endorse", "eu-1", "--kubeconfig", kubeconfig)
    made, _ = await matrix(shop)
    assert [cell["evidence"] for cell in made["cells"]] == ["endorsed", "vouched by the hub only"]
    assert [line.split(":")[0] for line in made["unverified"]] == [f"{FRONT} on eu-1"]
    # What another Deployment of the cell placed is not what the receipt is about.
    state = json.loads((await shop("cells", "show", "shop/cart", "-o", "json")).stdout)["states"][0]
    await shop("apply", "-f", file_in(tmp_path, CELL.replace('version: "1.0"', 'version: "1.1"')), "-e", "dev")
    await receive(shop, statement)
    await runs(shop, CART, deployment_digest=state["deploymentDigest"], release_digest=state["releaseDigest"])
    made, _ = await matrix(shop)
    assert [(cell["version"], cell["evidence"]) for cell in made["cells"]] == [("1.0", "vouched by the hub only")] * 2
    await runs(shop, CART)
    assert [cell["evidence"] for cell in (await matrix(shop))[0]["cells"]] == ["endorsed", "vouched by the hub only"]


async def test_the_matrix_is_of_what_is_asked_for(shop: Cli) -> None:
    """By cluster and by environment."""
    for option, there, away in (("--cluster", "eu-1", "us-1"), ("--environment", "dev", "prod")):
        assert len((await matrix(shop, option, there))[1]) == 2
        assert (await matrix(shop, option, away))[1] == {}


async def test_a_hub_cannot_open_an_edge_in_the_matrix(shop: Cli) -> None:
    """Documents of another cell, and ones that nobody signed, count for nothing and are told."""
    await runs(shop, FRONT, like="cart")
    made, verdicts = await matrix(shop)
    assert verdicts == {}
    assert (
        f"{FRONT} on eu-1: the hub shows a Deployment of another cell or environment for it; it is left out"
        in made["unverified"]
    )
    await runs(shop, FRONT, release_digest="sha256:" + "0" * 64)
    made, verdicts = await matrix(shop)
    assert verdicts == {}
    assert any(line.startswith(f"{FRONT} on eu-1: ") and line.endswith("it is left out") for line in made["unverified"])


async def test_a_cell_in_quarantine_is_closed(shop: Cli) -> None:
    """The hub may narrow; that it did is its word."""
    await shop("quarantine", "shop/cart", "--cluster", "eu-1", "-e", "dev")
    made, verdicts = await matrix(shop)
    assert verdicts == {(FRONT, CART): "closed", (CART, FRONT): "closed"}
    assert f"{CART} on eu-1: that it is in quarantine is the hub's word only" in made["unverified"]


async def explained(cli: Cli, *words: str, code: int) -> dict[str, Any]:
    """What explain says, as JSON."""
    found: dict[str, Any] = json.loads((await cli("isolation", "explain", *words, "-o", "json", code=code)).stdout)
    return found


async def test_v10_an_open_edge_is_explained_from_both_sides(shop: Cli) -> None:
    """Exit code 0; release, policy and rule of each side, and whose word it is."""
    made = await explained(shop, "shop/front", "shop/cart", code=0)
    (answer,) = made["answers"]
    assert (answer["verdict"], answer["port"], answer["toOpen"]) == ("open", 8080, [])
    assert answer["caller"]["rules"] == ["shop--front--dev/connection.shop.cart.http egress[0]"]
    assert answer["callee"]["rules"] == ["shop--cart--dev/endpoint.http ingress[0]"]
    assert (answer["callee"]["version"], answer["callee"]["signers"]) == ("1.0", ["ada"])
    assert len(made["unverified"]) == 2
    shown = await shop("isolation", "explain", "shop/front/dev:web", "shop/cart/dev:api", "--port", "8080")
    assert "eu-1: shop/front/dev:web to shop/cart/dev:api 8080/TCP: open" in shown.stdout
    assert "hub's word only" in shown.stderr


CLOSED: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...] = (
    (
        ("shop/front", "shop/cart", "--port", "8081"),
        ("add to spec.components.api.ports: PORT: {port: 8081}", "component: api, port: PORT, visibility: project"),
    ),
    (
        ("shop/cart", "shop/front"),
        (
            "in the file of shop/front (owner team-front), add to spec.endpoints: NAME: {component: web, port: http, ",
            "in the file of shop/cart (owner team-cart), add to spec.connections: {cell: front, endpoint: NAME}",
        ),
    ),
    (
        ("shop/cart", "203.0.113.9:443"),
        ("spec.connections: external: {cidr: '203.0.113.9/32', ports: [{port: 443, protocol: TCP}]}",),
    ),
    (("shop/cart", "169.254.169.254:80"), ("metadata services stay closed",)),
    (("203.0.113.9", "shop/cart"), ("endpoints reach cells only",)),
)


async def test_v10_a_closed_edge_says_what_opens_it(shop: Cli) -> None:
    """Exit code 1, and whose file needs what."""
    for words, steps in CLOSED:
        made = await explained(shop, *words, code=1)
        assert (made["verdict"], len(made["answers"])) == ("closed", 1)
        found = made["answers"][0]["toOpen"]
        assert [step for step in steps if not any(step in line for line in found)] == [], found


async def test_what_explain_says_opens_an_edge_opens_it(shop: Cli, tmp_path: Path) -> None:
    """The steps are followed as they are written, and the same question is answered with open."""
    await explained(shop, "shop/cart", "203.0.113.9:443", code=1)
    external = '  connections:\n    - external: {cidr: "203.0.113.9/32", ports: [{port: 443, protocol: TCP}]}\n'
    text = CELL.replace('version: "1.0"', 'version: "1.1"') + external
    await shop("apply", "-f", file_in(tmp_path, text), "-e", "dev")
    await runs(shop, CART)
    made = await explained(shop, "shop/cart", "203.0.113.9", code=0)
    assert [(answer["port"], answer["caller"]["version"]) for answer in made["answers"]] == [(443, "1.1")]
    # The edge of the caller is the same still.
    await explained(shop, "shop/front", "shop/cart", code=0)


async def test_an_edge_signed_for_another_port_is_explained(shop: Cli, tmp_path: Path) -> None:
    """ADR 0016: the caller is to be released again, and why."""
    moved = CELL.replace('version: "1.0"', 'version: "1.1"').replace("8080", "9090")
    await shop("apply", "-f", file_in(tmp_path, moved), "-e", "dev")
    await runs(shop, CART)
    made = await explained(shop, "shop/front", "shop/cart", code=1)
    (answer,) = made["answers"]
    assert "connection.shop.cart.http is closed: it was signed for port 8080/TCP" in answer["caller"]["reason"]
    assert answer["toOpen"][0].startswith("in the file of shop/front (owner team-front), raise spec.version")


async def test_what_cannot_be_asked_is_an_error(shop: Cli) -> None:
    """Exit code 2, which is neither open nor closed."""
    for words in (
        "shop shop/cart", "shop/cart: shop/front", "shop/none shop/cart", "192.0.2.1 192.0.2.2",
        "shop/cart:none shop/front", "shop/cart 192.0.2.1:99999", "shop/cart/prod shop/front",
    ):  # fmt: skip
        refused = await shop("isolation", "explain", *words.split(), code=2)
        assert "cli/bad-option" in refused.stderr
