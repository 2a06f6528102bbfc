"""``cellward isolation test``: what agents measured, edge by edge, with what is wrong first (V9)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from cellward.wire.v1 import link_pb2
from tests.fakes.command_line import CELL, Cli, file_in


def edge(port: int, expected: str, measured: str) -> link_pb2.IsolationEdge:
    """An edge out of the cell."""
    return link_pb2.IsolationEdge(
        direction="egress", component="api", peer="the agent", protocol="TCP", port=port, expected=expected,
        measured=measured, node="n1",
    )  # fmt: skip


async def measures(cli: Cli, state: str, *edges: link_pb2.IsolationEdge, word: str = "") -> None:
    """Let the agent of eu-1 report what it measured of shop/cart/dev; ``word`` is what counts, if that is another."""
    (item,) = await cli.api.clusters.items("eu-1", 0)
    proof = link_pb2.IsolationProof(
        state=state, measured_at_unix=1_780_000_000, prober="pods", text=f"it is {state}", edges=edges,
        egress_lag_ms=1250,
    )  # fmt: skip
    status = link_pb2.CellStatus(
        project="shop", cell="cart", environment="dev", phase=link_pb2.CELL_PHASE_READY, isolation=word or state,
        deployment_digest=item.deployment_digest, proof=proof,
    )  # fmt: skip
    await cli.api.clusters.cell_status("eu-1", status)


@pytest.fixture
async def cart(installed: Cli, tmp_path: Path) -> Cli:
    """A cell in force on eu-1."""
    await installed("apply", "-f", file_in(tmp_path, CELL), "-e", "dev")
    return installed


async def test_v9_what_is_wrong_is_shown_first_and_ends_with_1(cart: Cli) -> None:
    """Whatever order the hub gives; once it is enforced the command ends with 0."""
    assert "nothing was measured" in (await cart("isolation", "test", "shop/cart", code=1)).stdout
    await measures(
        cart, "not-enforced", edge(1, "closed", "closed"), edge(2, "open", "unknown"), edge(3, "closed", "open")
    )
    shown = await cart("isolation", "test", "shop/cart/dev", code=1)
    rows = [line.split() for line in shown.stdout.splitlines() if line.startswith("eu-1")]
    assert [row[6] for row in rows] == ["3/TCP", "2/TCP", "1/TCP"]
    assert [" ".join(row[7:10]) for row in rows] == ["closed open WRONG", "open unknown not", "closed closed as"]
    assert "shop/cart/dev on eu-1: not-enforced" in shown.stdout
    assert "measured: 2026-05-28T20:26:40Z; it is not-enforced" in shown.stdout
    assert "a new pod got through for 1.2 s at first" in shown.stdout
    assert "by way of the hub" in shown.stderr
    assert "cellward audit verify" in shown.stderr
    assert "not-enforced (1/3 wrong)" in (await cart("cells", "show", "shop/cart")).stdout
    await measures(cart, "enforced", edge(1, "closed", "closed"))
    await cart("isolation", "test", "shop/cart", "--cluster", "eu-1")


async def test_what_was_measured_is_data(cart: Cli) -> None:
    """The same as JSON and YAML, each edge judged here, not by the hub."""
    await measures(cart, "enforced", edge(1, "closed", "closed"), edge(3, "closed", "open"), word="not-enforced")
    made = json.loads((await cart("isolation", "test", "shop/cart", "-o", "json", code=1)).stdout)
    assert yaml.safe_load((await cart("isolation", "test", "shop/cart", "-o", "yaml", code=1)).stdout) == made
    (cell,) = made["cells"]
    assert (cell["cell"], cell["cluster"], cell["isolation"], cell["egressLagSeconds"]) == (
        "shop/cart/dev", "eu-1", "not-enforced", 1.25,
    )  # fmt: skip
    assert [(one["port"], one["wrong"]) for one in cell["edges"]] == [(3, True), (1, False)]
    assert (
        await cart("isolation", "test", "shop/cart", "-o", "name", code=1)
    ).stdout == "isolation/eu-1/shop/cart/dev\n"


async def test_v9_of_a_cluster_without_a_link_nothing_is_known(cart: Cli) -> None:
    """Its last word does not count as proof."""
    await measures(cart, "enforced", edge(1, "closed", "closed"))
    await cart.api.clusters.disconnected("eu-1", "s1")
    shown = await cart("isolation", "test", "shop/cart", code=1)
    assert "shop/cart/dev on eu-1: unknown" in shown.stdout
    assert "link is down, it was enforced" in shown.stdout


async def test_v15_what_is_nowhere_is_told(cart: Cli) -> None:
    """An environment or cluster without the cell is an error, not an empty table that ends with 0."""
    for arguments in (("shop/cart/prod",), ("shop/cart", "--cluster", "us-1"), ("shop",), ("shop/cart/dev/x",)):
        refused = await cart("isolation", "test", *arguments, code=2)
        assert "cli/bad-option" in refused.stderr
