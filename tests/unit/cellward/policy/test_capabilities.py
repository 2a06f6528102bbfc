"""The allow-list of built-ins."""

from __future__ import annotations

import pytest

from cellward.errors import CellwardError
from cellward.policy import capabilities

FORBIDDEN = ("http.send", "net.lookup_ip_addr", "opa.runtime", "time.now_ns", "rand.intn", "uuid.rfc4122", "uuid.parse")


@pytest.mark.parametrize("name", FORBIDDEN)
def test_impure_names_are_not_allowed(name: str) -> None:
    """Decisions replay exactly: no network, clock, environment or chance."""
    assert name not in capabilities.allowed()["builtins"]
    current = {"builtins": [{"name": name}, {"name": "count"}], "features": ["rego_v1", "rego_v2"]}
    restricted = capabilities.restrict(current)
    assert restricted["builtins"] == [{"name": "count"}]
    assert restricted["features"] == ["rego_v1"]
    assert restricted["allow_net"] == []


def test_new_builtins_of_a_newer_engine_are_not_allowed() -> None:
    """An allow-list: what nobody looked at is not there."""
    assert capabilities.restrict({"builtins": [{"name": "shiny.new"}], "features": []})["builtins"] == []


@pytest.mark.parametrize("current", [{}, {"builtins": 1}, {"builtins": [], "features": None}])
def test_something_else_than_an_engine(current: dict[str, object]) -> None:
    """A binary that does not state capabilities is not used."""
    with pytest.raises(CellwardError) as caught:
        capabilities.restrict(current)
    assert caught.value.code == "policy/does-not-compile"


def test_digest_is_of_the_content() -> None:
    """Hello tells which capabilities an agent has."""
    assert capabilities.digest({"a": 1, "b": 2}) == capabilities.digest({"b": 2, "a": 1})
    assert capabilities.digest({"a": 1}) != capabilities.digest({"a": 2})
