"""``cellward isolation``: what may talk to what, by releases that the CLI verified, and what only a hub says (V10)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cellward.documents.dsse import parse_envelope
from cellward.documents.model import Deployment, parse_document
from cellward.wire.v1 import link_pb2
from tests.fakes.command_line import CALLER, CELL, Cli, file_in

CART, FRONT = "shop/cart/dev", "shop/front/dev"


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
