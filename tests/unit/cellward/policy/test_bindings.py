"""The bindings target: strict both ways."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from cellward.documents import canonical
from cellward.documents.facts import Selector
from cellward.errors import CellwardError
from cellward.policy.bindings import dump_bindings, parse_bindings
from cellward.policy.model import Binding, BindingSet

GOOD = BindingSet(
    realm="sha256:" + "a" * 64,
    bindings=(
        Binding(
            "base",
            "bundles/base-1.0.0.tar.gz",
            "sha256:" + "b" * 64,
            Selector(environments=("dev",)),
            "warn",
            3600,
            "keep",
            {"isolation": {"tolerate": ["unknown"]}},
        ),
    ),
    prune_limit=7,
    thresholds={"release": 2},
    hub_attestation=("dev",),
)


def test_round_trip() -> None:
    """What is written is read back unchanged, and has one form."""
    data = dump_bindings(GOOD)
    assert parse_bindings(data) == GOOD
    assert dump_bindings(parse_bindings(data)) == data


Change = Callable[[dict[str, Any]], object]


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda top: top.update(schema="cellward.bindings/v2"), "policy/bindings-too-new"),
        (lambda top: top.update(extra=1), "policy/bindings-too-new"),
        (lambda top: top["bindings"][0].update(extra=1), "policy/bindings-too-new"),
        (lambda top: top["hubAttestation"].update(extra=1), "policy/bindings-too-new"),
        (lambda top: top.pop("pruneLimit"), "policy/bad-bindings"),
        (lambda top: top.update(pruneLimit=-1), "policy/bad-bindings"),
        (lambda top: top.update(pruneLimit=True), "policy/bad-bindings"),
        (lambda top: top.update(realm="x"), "policy/bad-bindings"),
        (lambda top: top.update(bindings={}), "policy/bad-bindings"),
        (lambda top: top.update(bindings=top["bindings"] * 2), "policy/bad-bindings"),
        (lambda top: top.update(bindings=top["bindings"] * 65), "policy/bad-bindings"),
        (lambda top: top.update(thresholds={"release": 0}), "policy/bad-bindings"),
        (lambda top: top.update(hubAttestation={"environments": "dev"}), "policy/bad-bindings"),
        (lambda top: top["bindings"][0].update(mode="off"), "policy/bad-bindings"),
        (lambda top: top["bindings"][0].update(mode=["enforce"]), "policy/bad-bindings"),
        (lambda top: top["bindings"][0].update(onStale="allow"), "policy/bad-bindings"),
        (lambda top: top["bindings"][0].update(stalenessSeconds="1"), "policy/bad-bindings"),
        (lambda top: top["bindings"][0].update(selector={}), "policy/bad-bindings"),
        (lambda top: top["bindings"][0].update(selector=None), "policy/bad-bindings"),
        (lambda top: top["bindings"][0].update(selector={"all": True, "newer": 1}), "policy/bindings-too-new"),
        (lambda top: top["bindings"][0].update(bundle="bundles/../x.tar.gz"), "policy/bad-bindings"),
        (lambda top: top["bindings"][0].update(bundleDigest="sha256:1"), "policy/bad-bindings"),
        (lambda top: top["bindings"][0].update(name='x"]'), "policy/bad-bindings"),
        (lambda top: top["bindings"][0].update(name="x\n"), "policy/bad-bindings"),
        (lambda top: top["bindings"][0].update(parameters=[]), "policy/bad-bindings"),
    ],
)
def test_refuses(change: Change, code: str) -> None:
    """V16: a binding is understood whole or not at all; what is new to us is too new, not ignored."""
    document = json.loads(dump_bindings(GOOD))
    change(document)
    with pytest.raises(CellwardError) as caught:
        parse_bindings(canonical.encode(document))
    assert caught.value.code == code


@pytest.mark.parametrize("data", [b"", b"[]", b"null", b"{}", b'{"a": 1}', b'{"schema":1.5}', b"\xff"])
def test_refuses_garbage(data: bytes) -> None:
    """Bytes that are no bindings are refused with a code of this room."""
    with pytest.raises(CellwardError) as caught:
        parse_bindings(data)
    assert caught.value.code.startswith("policy/b")
