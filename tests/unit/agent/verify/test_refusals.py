"""From errors to refusals: what a person is told the refusal is about."""

from __future__ import annotations

from agent.verify.errors import ENVIRONMENT_NOT_HERE
from agent.verify.refusals import refusal_of
from cellward.documents.errors import EXPIRED, NO_VALID_SIGNATURE


def test_v15_a_refusal_names_the_document_that_is_refused() -> None:
    """V15: a release that nobody signed is named, not the Deployment that names it."""
    release, deployment = "sha256:release", "sha256:deployment"
    assert refusal_of(NO_VALID_SIGNATURE("no signature counts", digest=release), deployment).object == release
    assert refusal_of(ENVIRONMENT_NOT_HERE("not here", object="p/c/e"), deployment).object == "p/c/e"
    assert refusal_of(EXPIRED("too late"), deployment).object == deployment
