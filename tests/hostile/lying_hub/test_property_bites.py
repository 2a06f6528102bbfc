"""The property of ``test_property`` finds what it is for: each mistake, made on purpose, is found within some examples.

A mutant is compared with itself: its own runs for a truthful hub are the truth, so that nothing but a hub's lie tells
it from the command line that we have. Derandomised, so that it is found each time or never.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from cellward.api import schemas
from cellward.documents.keyring import Keyring
from cellward.policy.record import Record
from cli import apply as apply_module
from cli import invitation, planning, records
from cli.door.documents import HubDocuments
from cli.peers import Peers
from cli.records import Base
from tests.hostile.lying_hub.commands import COMMANDS, Line
from tests.hostile.lying_hub.hub import Lie
from tests.hostile.lying_hub.installation import Installation
from tests.hostile.lying_hub.lies import ALWAYS, LIES, named, truth
from tests.hostile.lying_hub.oracle import Stage, staged

pytestmark = [pytest.mark.xdist_group("lying_hub"), pytest.mark.timeout(600)]
Mutant = Callable[[pytest.MonkeyPatch], None]
#: Examples within which each mutant has to be found.
EXAMPLES = 150


@pytest.fixture(scope="module")
def stage(installation: Installation, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """The stage of the property."""
    with staged(installation, tmp_path_factory.mktemp("stage")) as ready:
        yield ready


def peer_of_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    """A peer's port comes from what the hub shows as newest, not from memory."""
    honest = Peers.need

    def need(self: Peers, key: Any, asked_by: Any, environments: tuple[str, ...]) -> bool:
        shown = self._hub.shown(*key)
        if shown is None:
            return honest(self, key, asked_by, environments)
        self.specs[key] = shown.document.spec
        return True

    monkeypatch.setattr(Peers, "need", need)


def fallback_of_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    """The way back is the release of the newest Deployment that the hub shows."""
    honest = planning.plan_cell
    shown: dict[Any, str] = {}
    numbered = HubDocuments.numbered

    def look(self: HubDocuments, project: str, cell: str) -> Any:
        found = numbered(self, project, cell)
        placed = [one for one in found if one.kind == "deployment"]
        newest = max(placed, key=lambda one: one.sequence, default=None)
        shown[(project, cell)] = getattr(newest, "release_digest", "")
        return found

    def plan(key: Any, spec: Any, target: Any, wish: Any, *rest: Any) -> Any:
        return honest(key, spec, target, dataclasses.replace(wish, fallback=shown.get(key) or None), *rest)

    monkeypatch.setattr(HubDocuments, "numbered", look)
    monkeypatch.setattr(planning, "plan_cell", plan)


def number_of_the_listing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A number is one above what is listed, verified or not, and no clock bounds it."""
    listed = HubDocuments._listed
    highest: list[int] = []

    def spied(self: HubDocuments, *words: str) -> Any:
        found = list(listed(self, *words))
        highest.extend(one.sequence for one in found if 0 < one.sequence < 2**53 - 1)
        return iter(found)

    def following(*_: Any) -> int:
        return max([*highest, 0]) + 1

    monkeypatch.setattr(HubDocuments, "_listed", spied)
    monkeypatch.setattr(planning, "next_number", following)


def refresh_of_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    """A refresh puts its snapshot over the targets and the keyring that the hub shows."""
    honest = records.base_of

    def base_of(*words: Any, **more: Any) -> Base:
        base = honest(*words, **more)
        served = base.client.get("/policy/metadata", schemas.PolicyMetadata)
        record: Record = base.record
        if served.targets is not None and served.keyring is not None:
            record = dataclasses.replace(record, targets=served.targets, keyring_metadata=served.keyring)
        return dataclasses.replace(base, record=record)

    monkeypatch.setattr("cli.policy.base_of", base_of)
    monkeypatch.setattr(Record, "check", lambda *_, **__: None)


def unchanged_as_the_hub_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the hub lists as the newest Deployment of a cell is what stands, so nothing is signed anew."""
    honest = apply_module._Batch.run

    def run(self: Any, author: Any, peers: Any, specs: Any, targets: Any) -> None:
        known = {key: order for key, order in self._orders.items() if order.numbers}
        if known and all(max(order.numbers) < 2**52 for order in known.values()) and not self._wish.replace:
            newest = max(max(order.numbers) for order in known.values())
            if newest < max((one.sequence for one in self._store.read().documents), default=newest):
                return
        honest(self, author, peers, specs, targets)

    monkeypatch.setattr(apply_module._Batch, "run", run)


def address_as_it_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The enrolment address of an invitation goes into values and settings as text."""
    monkeypatch.setattr(invitation, "parse_address", lambda text: text)


def keyring_of_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who adds an author begins from the keyring that the hub shows."""
    honest = records.base_of

    def base_of(*words: Any, **more: Any) -> Base:
        base = honest(*words, **more)
        served = base.client.get("/policy/metadata", schemas.PolicyMetadata)
        for data in served.contents:
            body = json.loads(data)
            if isinstance(body, dict) and str(body.get("schema", "")).startswith("cellward.keyring"):
                found = Keyring.from_json(body)
                return dataclasses.replace(base, record=dataclasses.replace(base.record, keyring=found))
        return base

    monkeypatch.setattr("cli.author.base_of", base_of)


def line(text: str, home: str = "author") -> Line:
    """A line of the property."""
    return next(one for one in COMMANDS if one.home == home and " ".join(one.words) == text)


MUTANTS: dict[Mutant, Line] = {
    peer_of_the_hub: line("apply -f {front_1} -e dev"),
    fallback_of_the_hub: line("apply -f {cart_1} -e dev"),
    number_of_the_listing: line("apply -f {cart_1} -e dev"),
    refresh_of_the_hub: line("policy refresh"),
    keyring_of_the_hub: line("author add carol --key {carol}"),
    unchanged_as_the_hub_says: line("apply -f {cart_1} -e dev"),
    address_as_it_comes: line("clusters invite eu-1"),
}


#: Lies about the one field that a mutant takes as it comes, where others would seldom meet it.
AIMED: dict[Mutant, st.SearchStrategy[list[Lie]]] = {
    address_as_it_comes: st.text(max_size=12).map(lambda text: [truth, truth, named("enrolmentAddress", text)]),
}


def hunt(stage: Stage, chosen: Line, lies_told: st.SearchStrategy[list[Lie]]) -> None:
    """Tell one line lies, as the property does; raises what the property raises."""

    @settings(
        max_examples=EXAMPLES, deadline=None, derandomize=True, database=None, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck), report_multiple_bugs=False,
    )  # fmt: skip
    @given(present=st.integers(0, 1), lies=lies_told, always=ALWAYS if chosen.words[0] != "clusters" else st.none())
    def told(present: int, lies: list[Lie], always: Lie | None) -> None:
        stage.check(chosen, present, lies, always)

    told()


@pytest.mark.filterwarnings("ignore:Generating overly large repr")
@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.__name__)
def test_v1_the_property_finds_it(stage: Stage, monkeypatch: pytest.MonkeyPatch, mutant: Mutant) -> None:
    """V1: made on purpose, it breaks the property."""
    fresh, lies = dataclasses.replace(stage, _truths={}), AIMED.get(mutant, st.lists(LIES, max_size=10))
    with monkeypatch.context() as made:
        mutant(made)
        fresh.truth(MUTANTS[mutant])
        with pytest.raises(AssertionError):
            hunt(fresh, MUTANTS[mutant], lies)
