"""Facts and selectors: what a cluster is, and which clusters a document means."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cellward.documents.canonical import JSON
from cellward.documents.facts import ClusterFacts, Selector
from cellward.errors import CellwardError, TooNew
from tests.fakes.refusals import refused
from tests.vectors.generate import FACTS


def test_facts_round_trip() -> None:
    """Facts survive their JSON, and the digest follows every field."""
    assert ClusterFacts.from_json(FACTS.to_json()) == FACTS
    assert replace(FACTS, production=True).digest() != FACTS.digest()
    assert replace(FACTS, uid="other").digest() != FACTS.digest()


@pytest.mark.parametrize(("field", "value"), [("production", "no"), ("environments", ["a--b"]), ("labels", {"a": 1})])
def test_malformed_facts(field: str, value: JSON) -> None:
    """A malformed fact is named."""
    with pytest.raises(CellwardError) as caught:
        ClusterFacts.from_json(FACTS.to_json() | {field: value})
    assert caught.value.details["field"] == field


def test_unknown_fact_is_too_new() -> None:
    """A fact nobody knows is not ignored."""
    with pytest.raises(TooNew):
        ClusterFacts.from_json(FACTS.to_json() | {"owner": "x"})


def test_projects_a_cluster_allows() -> None:
    """``*`` allows every project, otherwise the list does, and nothing allows nothing."""
    assert FACTS.allows_project("boutique")
    assert not FACTS.allows_project("other")
    assert replace(FACTS, projects=("*",)).allows_project("other")
    assert not replace(FACTS, projects=()).allows_project("boutique")


@pytest.mark.parametrize(
    ("selector", "matches"),
    [
        (Selector(), False),
        (Selector(all=True), True),
        (Selector(names=("eu-1",)), True),
        (Selector(names=("eu-10",)), False),
        (Selector(names=("eu",)), False),
        (Selector(environments=("production", "staging")), True),
        (Selector(environments=("staging",)), False),
        (Selector(production=False), True),
        (Selector(production=True), False),
        (Selector(regions=("eu-west",)), True),
        (Selector(regions=("us-east",)), False),
        (Selector(labels={"tier": "edge"}), True),
        (Selector(labels={"tier": "edge", "other": "x"}), False),
        (Selector(production=False, names=("us-1",)), False),
        (Selector(labels={"missing": ""}), False),
    ],
)
def test_matching(selector: Selector, *, matches: bool) -> None:
    """Everything that is said must hold; whole values are compared; an empty selector matches nothing."""
    assert selector.matches(FACTS) is matches


@pytest.mark.parametrize(
    "selector",
    [Selector(all=True), Selector(production=False), Selector(names=("a", "b"), labels={"x": "y"}, regions=("r",))],
)
def test_selector_round_trip(selector: Selector) -> None:
    """A selector survives its JSON."""
    assert Selector.from_json(selector.to_json()) == selector


@pytest.mark.parametrize(
    ("value", "code"),
    [
        ({}, "document/empty-selector"),
        ({"all": False}, "document/empty-selector"),
        ({"names": []}, "document/empty-selector"),
        ({"names": [], "production": True}, "document/malformed"),
        ({"all": True, "production": False}, "document/malformed"),
        ({"all": False, "production": False}, "document/malformed"),
        ({"all": "yes"}, "document/malformed"),
        ({"names": ["a", "a"]}, "document/malformed"),
        ({"uids": ["a"]}, "document/unknown-field"),
        (["all"], "document/malformed"),
    ],
)
def test_refused_selectors(value: JSON, code: str) -> None:
    """What says nothing, contradicts itself or says something unknown is refused."""
    with pytest.raises(CellwardError) as caught:
        Selector.from_json(value)
    assert caught.value.code == code


def test_an_empty_selector_cannot_be_signed() -> None:
    """The authoring side refuses it too."""
    with refused("document/empty-selector"):
        Selector().to_json()
