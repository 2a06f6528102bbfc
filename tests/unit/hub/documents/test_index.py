"""What the hub reads out of a document before anybody verified it: anything else than its form is told, not a crash."""

from __future__ import annotations

import json
from typing import Any

import pytest

from cellward.documents import canonical
from cellward.documents.dsse import Envelope, parse_envelope
from cellward.errors import CellwardError
from hub.documents.index import index_payload
from tests.fakes.signed import new_root


@pytest.mark.parametrize("fallback", [[], {}, [None], {"previous": 1}, 7, True, "", "sha256:x"])
def test_v16_a_fallback_of_any_other_form_is_refused(fallback: Any) -> None:
    """V16: also where it is no text at all."""
    _, author = new_root()
    author.realm = "sha256:" + "1" * 64
    envelope = parse_envelope(author.deployment(author.release()))
    body = {**json.loads(envelope.payload), "fallback": fallback}
    with pytest.raises(CellwardError) as caught:
        index_payload(Envelope(envelope.payload_type, canonical.encode(body), ()))
    assert caught.value.code == "fleet/bad-document"
