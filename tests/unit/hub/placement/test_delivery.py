"""What an invite and an agent's own word come to: never more than either, and a difference is said."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cellward.documents.facts import ClusterFacts
from hub.placement.delivery import Invited, deliverable, differences, withheld

SAID = ClusterFacts(
    name="eu-1", uid="11111111-1111-4111-8111-111111111111", environments=("dev", "prod"), production=False,
    region="eu", projects=("shop", "bank"),
)  # fmt: skip
INVITED = Invited(("dev", "test"), projects=("bank", "till"), region="eu")


def test_only_what_both_name_is_delivered() -> None:
    """Environments and projects of both; a star stands for what the other one names."""
    found = deliverable(INVITED, SAID)
    assert (found.environments, found.projects) == (("dev",), ("bank",))
    assert deliverable(replace(INVITED, projects=("*",)), SAID).projects == SAID.projects
    assert deliverable(INVITED, replace(SAID, projects=("*",))).projects == INVITED.projects


@pytest.mark.parametrize("production", [False, True])
def test_nothing_is_delivered_where_the_two_disagree_on_production(production: bool) -> None:
    """Whichever of them says so; and nothing that was placed before is given either."""
    invited, said = replace(INVITED, production=production), replace(SAID, production=not production)
    found = deliverable(invited, said)
    assert (found.environments, found.projects) == ((), ())
    assert withheld(invited, said, "bank", "dev")
    assert not withheld(replace(invited, production=not production), said, "bank", "dev")
    word = "yes" if production else "no"
    assert [one for one in differences(invited, said) if one.startswith(f"production: the invite says {word}")]


def test_agreement_has_no_difference() -> None:
    """Whatever the order."""
    same = Invited(("prod", "dev"), projects=("bank", "shop"), region="eu")
    assert differences(same, SAID) == ()
    assert len(differences(INVITED, SAID)) == 2
