"""The examples: the boutique hangs together, and each refused cell is loadable and names a rule."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from cellward.cells.conditions import conditions
from cellward.cells.load import load_manifests
from cellward.cells.network import intent
from cellward.cells.resolve import resolve_cells
from tests.vectors.generate import BOUTIQUE, boutique, boutique_releases

REFUSED = sorted((BOUTIQUE.parent / "refused").glob("*.yaml"))
SERVICES = {
    "adservice", "cartservice", "checkoutservice", "currencyservice", "emailservice", "frontend", "loadgenerator",
    "paymentservice", "productcatalogservice", "recommendationservice", "redis-cart", "shippingservice",
}  # fmt: skip


def test_the_boutique_is_whole() -> None:
    """Eleven services and a redis in four cells, all of them placed."""
    cells = boutique()
    assert sorted(item.cell.metadata.name for item in cells) == ["cart", "catalogue", "checkout", "storefront"]
    names = [name for item in cells for name in item.cell.spec.components]
    assert len(names) == len(SERVICES) == 12
    assert set(names) == SERVICES
    placement = load_manifests((BOUTIQUE / "placement.yaml").read_bytes(), "placement.yaml").placements[0]
    assert sorted(placement.cells) == sorted(item.cell.metadata.name for item in cells)


def test_every_image_of_the_boutique_is_a_whole_version() -> None:
    """Three numbers: a tag of fewer moves with each patch, and what was tried is not what runs."""
    images = [component.image or "" for item in boutique() for component in item.cell.spec.components.values()]
    assert [image for image in images if not re.search(r":v?\d+\.\d+\.\d+(-[a-z]+)?$", image)] == []


def test_two_services_keep_their_other_port() -> None:
    """Only frontend 80 → 8080 and emailservice 5000 → 8080 differ."""
    differing = {
        name: (port.exposed, port.port)
        for item in boutique()
        for name, component in item.cell.spec.components.items()
        for port in component.ports.values()
        if port.exposed != port.port
    }
    assert differing == {"frontend": (80, 8080), "emailservice": (5000, 8080)}


def test_the_only_condition_is_the_missing_gateway() -> None:
    """Nothing in the boutique is silently less than it says, but for the public endpoint, which is told."""
    told = {cell: [item.code for item in conditions(release)] for cell, release in boutique_releases().items()}
    assert told == {
        "cart": [],
        "catalogue": [],
        "checkout": [],
        "storefront": ["cells/public-endpoint-without-gateway"],
    }


def test_redis_is_reached_from_its_cell_only() -> None:
    """No edge of the cart's intent leads to redis from outside."""
    edges = intent(boutique_releases()["cart"], "production").edges
    inward = [edge for edge in edges if edge.direction == "ingress" and edge.name != "allow-within-cell"]
    assert [(edge.components, [port.port for port in edge.ports]) for edge in inward] == [(("cartservice",), [7070])]


@pytest.mark.parametrize("file", REFUSED, ids=lambda file: file.stem)
def test_refused_examples_are_good_cells(file: Path) -> None:
    """Each is one cell that loads and resolves, so that it is the rule that refuses it and not the loader."""
    text = file.read_text()
    assert text.startswith("# refused-by: starter/")
    manifests = load_manifests(text, file.name)
    assert [item.cell.metadata.name for item in manifests.cells] == [file.stem]
    assert resolve_cells(manifests.cells, {})


def test_every_rule_has_its_example() -> None:
    """A file for each rule of the starter bundle, but for the proof of isolation, which no cell can break."""
    rules = [file.read_text().splitlines()[0].removeprefix("# refused-by: ") for file in REFUSED]
    known = {
        line.split("id:")[1].strip()
        for rego in (BOUTIQUE.parents[1] / "policies" / "starter" / "rules").glob("*.rego")
        for line in rego.read_text().splitlines()
        if line.startswith("#   id:")
    }
    assert set(rules) == known - {"starter/isolation/proof"}
