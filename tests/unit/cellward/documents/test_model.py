"""Kinds: strict parsing, and building what parses."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cellward.documents import canonical
from cellward.documents.facts import Selector
from cellward.documents.model import (
    PREVIOUS,
    SUPPORTED_SCHEMAS,
    Deployment,
    Document,
    build_document,
    environments_of,
    parse_document,
    payload_type_of,
    project_of,
)
from cellward.errors import CellwardError, InvalidInput, TooNew
from tests.fakes.refusals import refused
from tests.vectors.generate import documents

KINDS = ("release", "deployment", "approval", "tombstone", "cluster")
DOCUMENTS = documents()


def body_of(document: Document) -> dict[str, Any]:
    """Return the body of a document as JSON."""
    body = canonical.decode(build_document(document)[1])
    assert isinstance(body, dict)
    return body


def parse(kind: str, body: object) -> Document:
    """Parse a body as a kind."""
    return parse_document(payload_type_of(kind), canonical.encode(body))


def refusal(kind: str, body: object) -> CellwardError:
    """Return what parsing raises."""
    with pytest.raises(CellwardError) as caught:
        parse(kind, body)
    return caught.value


@pytest.mark.parametrize("kind", KINDS)
def test_round_trip(kind: str) -> None:
    """Every kind is read as it was built."""
    document = DOCUMENTS[kind]
    assert parse_document(*build_document(document)) == document
    assert document.kind == kind
    assert f"cellward.{kind}/v1" in SUPPORTED_SCHEMAS


@given(st.sampled_from(KINDS), st.text("abcxyzABC", min_size=1, max_size=12))
def test_any_unknown_field_is_too_new(kind: str, field: str) -> None:
    """A field nobody knows is refused as too new, never ignored."""
    body = body_of(DOCUMENTS[kind])
    if field in body:
        return
    error = refusal(kind, body | {field: 1})
    assert isinstance(error, TooNew)
    assert error.code == "document/unknown-field"


@pytest.mark.parametrize("kind", KINDS)
def test_every_field_is_needed(kind: str) -> None:
    """Nothing has a silent default: without any one field the document is refused."""
    body = body_of(DOCUMENTS[kind])
    for field in body:
        error = refusal(kind, {key: value for key, value in body.items() if key != field})
        assert error.code in {"document/malformed", "document/unknown-schema"}, field


@pytest.mark.parametrize("kind", KINDS)
@given(wrong=st.sampled_from([None, True, -1, 0, "", "x", [], ["x", "x"], {}, {"x": 1}, "*"]))
def test_every_field_has_a_shape(kind: str, wrong: object) -> None:
    """V16: another value in any field either parses to another document or is refused with our error."""
    body = body_of(DOCUMENTS[kind])
    for field in body:
        try:
            found = parse(kind, body | {field: wrong})
        except (InvalidInput, TooNew):
            continue
        assert body_of(found) == body | {field: wrong}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"schema": "cellward.release/v2"}, "document/unknown-schema"),
        ({"schema": None}, "document/unknown-schema"),
        ({"requires": ["hologram"]}, "document/unmet-requirement"),
    ],
)
def test_newer_documents_are_too_new(kind: str, change: dict[str, object], code: str) -> None:
    """An unknown schema and an unmet requirement have their own codes, both of class too-new."""
    error = refusal(kind, body_of(DOCUMENTS[kind]) | change)
    assert isinstance(error, TooNew)
    assert error.code == code


def test_too_new_comes_before_malformed() -> None:
    """A newer document whose other fields changed shape is still told as too new."""
    body = body_of(DOCUMENTS["deployment"]) | {"requires": ["hologram"], "sequence": "seven", "extra": 1}
    assert refusal("deployment", body).code == "document/unmet-requirement"


def test_unknown_type_is_too_new() -> None:
    """A payload type of a later version is refused as too new."""
    with pytest.raises(TooNew) as caught:
        parse_document("application/vnd.cellward.exception.v1+json", b"{}")
    assert caught.value.code == "document/unknown-type"


@pytest.mark.parametrize("kind", KINDS)
def test_a_body_of_another_kind_is_refused(kind: str) -> None:
    """The payload type and the body must agree, so that no signature is taken for another kind."""
    other = next(name for name in KINDS if name != kind)
    with refused("document/unknown-schema"):
        parse_document(payload_type_of(other), build_document(DOCUMENTS[kind])[1])
    assert refusal(kind, body_of(DOCUMENTS[kind]) | {"kind": other}).code == "document/malformed"


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"project": "a" * 21}, "document/malformed"),
        ({"project": "a--b"}, "document/malformed"),
        ({"cell": "Cart"}, "document/malformed"),
        ({"cell": "a" * 25}, "document/malformed"),
        ({"environments": []}, "document/malformed"),
        ({"environments": ["a", "a"]}, "document/malformed"),
        ({"environments": ["a" * 13]}, "document/malformed"),
        ({"environments": ["*"]}, "document/malformed"),
        ({"sequence": 0}, "document/malformed"),
        ({"sequence": True}, "document/malformed"),
        ({"fallback": "Previous"}, "document/malformed"),
        ({"fallback": "previous\n"}, "document/malformed"),
        ({"fallback": "sha256:ab"}, "document/malformed"),
        ({"fallback": False}, "document/malformed"),
        ({"issuedAt": "2026-01-02T03:04:05.000+00:00"}, "document/malformed"),
        ({"issuedAt": "2026-01-02T03:04:05Z"}, "document/malformed"),
        ({"issuedAt": "2026-01-02T03:04:05.0001Z"}, "document/malformed"),
        ({"issuedAt": "2026-13-02T03:04:05.000Z"}, "document/malformed"),
        ({"issuedAt": "٢٠٢٦-01-02T03:04:05.000Z"}, "document/malformed"),
        ({"notAfter": None}, "document/malformed"),
        ({"realm": "sha256:ab"}, "document/malformed"),
        ({"releaseDigest": "md5:0"}, "document/malformed"),
        ({"clusterSelector": {}}, "document/empty-selector"),
        ({"rollout": {"deadlineSeconds": 0}}, "document/malformed"),
        ({"rollout": {"waves": []}}, "document/unknown-field"),
        ({"confirmPrune": -1}, "document/malformed"),
    ],
)
def test_refused_deployments(change: dict[str, object], code: str) -> None:
    """Bounds and forms of a Deployment's fields."""
    assert refusal("deployment", body_of(DOCUMENTS["deployment"]) | change).code == code


@pytest.mark.parametrize("fallback", [None, PREVIOUS, "sha256:" + "a" * 64])
def test_where_a_deployment_may_return_to(fallback: str | None) -> None:
    """Nowhere, to what the agent itself knows as settled, or to a release by digest."""
    deployment = DOCUMENTS["deployment"]
    assert isinstance(deployment, Deployment)
    found = parse_document(*build_document(replace(deployment, fallback=fallback)))
    assert found == replace(deployment, fallback=fallback)


def test_what_would_be_refused_is_not_built() -> None:
    """The authoring side meets the same walls."""
    deployment = DOCUMENTS["deployment"]
    assert isinstance(deployment, Deployment)
    for changed, code in (
        (replace(deployment, cluster_selector=Selector()), "document/empty-selector"),
        (replace(deployment, sequence=0), "document/malformed"),
        (replace(deployment, issued_at=datetime(2026, 1, 1)), "document/malformed"),  # noqa: DTZ001 - the point
        (replace(deployment, requires=("hologram",)), "document/unmet-requirement"),
    ):
        with refused(code):
            build_document(changed)


def test_too_large_a_release_is_refused() -> None:
    """V16: the payload bound holds when reading."""
    body = body_of(DOCUMENTS["release"])
    body["spec"] = {"a": "x" * (600 * 1024)}
    assert refusal("release", body).code == "document/too-large"


def test_endorsement_is_about_one_cluster() -> None:
    """Name and uid of the document and of its facts agree."""
    body = body_of(DOCUMENTS["cluster"])
    assert refusal("cluster", body | {"name": "us-1"}).code == "document/malformed"
    assert refusal("cluster", body | {"project": "boutique"}).code == "document/malformed"


def test_what_a_document_reaches() -> None:
    """Scope is checked against every environment and the project that the document names."""
    assert environments_of(DOCUMENTS["deployment"]) == ("development", "production")
    assert environments_of(DOCUMENTS["approval"]) == ("production",)
    assert environments_of(DOCUMENTS["cluster"]) == ("development", "production")
    assert environments_of(DOCUMENTS["release"]) == ()
    assert project_of(DOCUMENTS["tombstone"]) == "boutique"
    assert project_of(DOCUMENTS["cluster"]) is None


def test_times_are_whole_milliseconds_in_utc() -> None:
    """Two documents of one second are told apart; what is finer than a millisecond is cut, and it is read as UTC."""
    deployment = DOCUMENTS["deployment"]
    assert isinstance(deployment, Deployment)
    precise = replace(deployment, issued_at=datetime(2026, 1, 2, 3, 4, 5, 999_999, tzinfo=UTC))
    found = parse_document(*build_document(precise))
    assert found.issued_at == datetime(2026, 1, 2, 3, 4, 5, 999_000, tzinfo=UTC)
