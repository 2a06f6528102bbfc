"""Conversions between messages and values, and the digest a link resumes by."""

from __future__ import annotations

import dataclasses
import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cellward.documents.facts import ClusterFacts
from cellward.errors import CellwardError
from cellward.wire.codec import (
    DesiredItem,
    facts_from_wire,
    facts_to_wire,
    item_from_wire,
    item_to_wire,
    items_digest,
    refusal_of,
)
from cellward.wire.errors import BAD_MESSAGE
from cellward.wire.v1 import link_pb2, types_pb2
from tests.fakes.refusals import refused

_LABELS = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,10}[a-z0-9])?", fullmatch=True).filter(lambda name: "--" not in name)
_DIGESTS = st.binary(min_size=32, max_size=32).map(lambda data: f"sha256:{data.hex()}")
_ITEMS = st.builds(
    DesiredItem,
    revision=st.integers(0, 2**53 - 1),
    project=_LABELS,
    cell=_LABELS,
    environment=_LABELS,
    deployment_digest=_DIGESTS,
    evidence=st.lists(_DIGESTS, max_size=5).map(tuple),
    hub_state=st.sampled_from(["run", "hold", "quarantine"]),
)
ITEM = DesiredItem(3, "shop", "cart", "dev", "sha256:" + "1" * 64, ("sha256:" + "2" * 64,), "hold")


@given(_ITEMS)
def test_an_item_survives_the_wire(item: DesiredItem) -> None:
    """To the wire and back is the same item, through bytes."""
    message = link_pb2.DesiredItem.FromString(item_to_wire(item).SerializeToString())
    assert item_from_wire(message) == item


def test_v2_an_unknown_hub_state_is_read_as_hold() -> None:
    """A state this version does not know can only narrow."""
    message = item_to_wire(dataclasses.replace(ITEM, hub_state="run"))
    message.hub_state = 99  # type: ignore[assignment]
    assert item_from_wire(message).hub_state == "hold"


@pytest.mark.parametrize(
    "change",
    [
        {"project": ""},
        {"cell": "Cart"},
        {"environment": "dev/../prod"},
        {"deployment_digest": ""},
        {"deployment_digest": "sha256:" + "1" * 63},
        {"evidence": ["md5:1"]},
        {"evidence": ["sha256:" + "2" * 64] * 65},
    ],
)
def test_v16_items_outside_their_bounds_are_refused(change: dict[str, object]) -> None:
    """V16: names and digests are whole, lists have an end."""
    message = item_to_wire(ITEM)
    message.ClearField("evidence")
    message.MergeFrom(link_pb2.DesiredItem(**change))  # type: ignore[arg-type]
    for name, value in change.items():
        if value == "":
            message.ClearField(name)  # type: ignore[arg-type]
    with pytest.raises(CellwardError) as refusal:
        item_from_wire(message)
    assert refusal.value.code == "wire/bad-message"


@given(st.lists(_ITEMS, max_size=6, unique_by=lambda item: item.key))
def test_the_digest_of_items_knows_neither_order_nor_revision(items: list[DesiredItem]) -> None:
    """Both ends compute it over what they hold, in whatever order they got it."""
    shuffled = [dataclasses.replace(item, revision=0, evidence=item.evidence[::-1]) for item in items[::-1]]
    assert items_digest(shuffled) == items_digest(items)


@pytest.mark.parametrize(
    "change",
    [
        {"project": "x"},
        {"cell": "x"},
        {"environment": "x"},
        {"deployment_digest": "sha256:" + "3" * 64},
        {"evidence": ()},
        {"hub_state": "run"},
    ],
)
def test_the_digest_of_items_knows_everything_else(change: dict[str, str]) -> None:
    """Whatever an item asks for is in the digest."""
    assert items_digest([dataclasses.replace(ITEM, **change)]) != items_digest([ITEM])  # type: ignore[arg-type]
    assert items_digest([]) != items_digest([ITEM])


def test_the_digest_of_items_is_what_it_always_was() -> None:
    """Golden: both ends of one minor of skew must agree."""
    row = f'["shop","cart","dev","sha256:{"1" * 64}",["sha256:{"2" * 64}"],"hold"]'
    for items, text in (([], ""), ([ITEM], row)):
        written = f'{{"items":[{text}],"schema":"cellward.items/v1"}}'.encode()
        assert items_digest(items) == f"sha256:{hashlib.sha256(written).hexdigest()}"


def test_v3_facts_take_their_name_from_the_caller() -> None:
    """V3: the wire has no field for a name."""
    facts = ClusterFacts("eu-1", "uid", ("dev",), production=False, labels={"a": "b"}, region="eu", projects=("*",))
    assert facts_from_wire("us-1", facts_to_wire(facts)) == dataclasses.replace(facts, name="us-1")


@pytest.mark.parametrize(
    "message",
    [
        types_pb2.ClusterFacts(region="x" * 2000),
        types_pb2.ClusterFacts(environments=["e"] * 65),
        types_pb2.ClusterFacts(labels={str(n): "x" for n in range(65)}),
        types_pb2.ClusterFacts(labels={"x" * 2000: ""}),
    ],
)
def test_v16_facts_outside_their_bounds_are_refused(message: types_pb2.ClusterFacts) -> None:
    """V16: a Hello cannot make the hub keep as much as it likes."""
    with refused("wire/bad-message"):
        facts_from_wire("eu-1", message)


def test_v15_a_refusal_carries_code_rule_object_reason_and_next_step() -> None:
    """V15: all five parts."""
    refusal = refusal_of(BAD_MESSAGE("it is bad", rule="r1", object="Cell/a/b"))
    assert (refusal.code, refusal.rule, refusal.object, refusal.reason) == (
        "wire/bad-message",
        "r1",
        "Cell/a/b",
        "it is bad",
    )
    assert refusal.next == BAD_MESSAGE.hint
