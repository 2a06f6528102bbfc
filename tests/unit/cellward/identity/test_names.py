"""SPIFFE names: whole fields, never prefixes (V3)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cellward.errors import CellwardError
from cellward.identity.names import SpiffeId, trust_domain_of
from tests.fakes.refusals import refused

_DOMAIN = "0123456789abcdef0123456789abcdef.cellward"


def test_what_is_printed_is_what_is_parsed() -> None:
    """A name survives a round through its text."""
    name = SpiffeId(_DOMAIN, "agent", "eu-1")
    assert SpiffeId.parse(str(name)) == name


@pytest.mark.parametrize(
    "text",
    [
        "",
        "eu-1",
        f"spiffe://{_DOMAIN}/agent/",
        f"spiffe://{_DOMAIN}/agent/eu-1/",
        f"spiffe://{_DOMAIN}/agent/eu-1\n",
        f"spiffe://{_DOMAIN}/agent/eu-1/more",
        f"spiffe://{_DOMAIN}/agent/eu-1?x=1",
        f"spiffe://{_DOMAIN}/agent/eu-1#x",
        f"spiffe://{_DOMAIN}/agent/EU-1",
        f"spiffe://{_DOMAIN}/agent/eu%2d1",
        f"spiffe://{_DOMAIN}/agent/eu-1-",
        f"spiffe://{_DOMAIN}/agent/\u0435u-1",
        f"spiffe://{_DOMAIN}/agents/eu-1",
        f"spiffe://{_DOMAIN}/admin/eu-1",
        f"spiffe://{_DOMAIN}//eu-1",
        f"spiffe://{_DOMAIN}:443/agent/eu-1",
        f"spiffe://user@{_DOMAIN}/agent/eu-1",
        f"SPIFFE://{_DOMAIN}/agent/eu-1",
        f" spiffe://{_DOMAIN}/agent/eu-1",
        f"spiffe://{_DOMAIN}./agent/eu-1",
        f"spiffe://{_DOMAIN}/agent/{'a' * 64}",
        f"spiffe://{_DOMAIN}/agent/../hub/eu-1",
    ],
)
def test_v3_anything_but_the_whole_form_is_refused(text: str) -> None:
    """V3: near misses are not identities."""
    with pytest.raises(CellwardError) as refusal:
        SpiffeId.parse(text)
    assert refusal.value.code == "identity/bad-name"


@given(st.text(max_size=80))
def test_v16_no_text_does_more_than_be_refused(text: str) -> None:
    """V16: any text is parsed to something that prints as itself, or refused with one code."""
    try:
        outcome = str(SpiffeId.parse(text))
    except CellwardError as error:
        outcome = error.code
    assert outcome in {text, "identity/bad-name"}


@pytest.mark.parametrize("name", ["eu-1x", "eu-", "eu", "xeu-1"])
def test_v3_a_prefix_is_another_name(name: str) -> None:
    """V3: neither prefix nor suffix makes two names equal."""
    if name.endswith("-"):
        with refused("identity/bad-name"):
            SpiffeId(_DOMAIN, "agent", name)
    else:
        assert SpiffeId(_DOMAIN, "agent", name) != SpiffeId(_DOMAIN, "agent", "eu-1")


def test_trust_domain_is_a_prefix_of_the_realm() -> None:
    """The trust domain follows from the realm alone."""
    assert trust_domain_of("sha256:" + "ab" * 32) == "ab" * 16 + ".cellward"


@pytest.mark.parametrize(
    "realm", ["", "sha256:", "ab" * 32, "sha256:" + "AB" * 32, "sha256:" + "ab" * 33, "sha512:" + "ab" * 32]
)
def test_a_malformed_realm_has_no_trust_domain(realm: str) -> None:
    """A realm is a whole digest or nothing."""
    with refused("identity/bad-name"):
        trust_domain_of(realm)
