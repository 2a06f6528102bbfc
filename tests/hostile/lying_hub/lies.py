"""Lies for Hypothesis to choose from: each is made of a truthful answer, and of everything that was ever recorded."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import strategies as st

from cellward.documents.dsse import Ed25519Signer
from cellward.policy.publisher import MetadataFile, sign_timestamp
from tests.hostile.lying_hub.hub import Answer, Asked, Lie, LyingHub

_OTHER_KEY = (
    "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEaxfR8uEsQkf4vOblY6RA8ncDfYEt6zOg9KE5RdiYwpZP40Li/hp/m47n60p8D54WK84zV2"
    "sxXs7LtkBoN79R9Q=="
)
#: Values for any place of an answer.
VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**63),
    st.text(max_size=12),
    st.sampled_from(
        [
            "previous",
            "sha256:" + "0" * 64,
            "2026-01-01T00:00:00.000Z",
            "2026-01-01T00:00:00",
            "A" * 5000,
            1e308,
            "{realm=evil}:7441",
            "hub.example:7441,realm=evil",
            "[::1]:443",
            "cwj_" + "0" * 64,
            "\x1b]52;c;aGk=\x07",
            # A key in which anybody's signature verifies, and one of another kind.
            "MCowBQYDK2VwAyEAAQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",
            _OTHER_KEY,
        ]
    ),
    st.lists(st.integers(0, 3), max_size=3),
    st.dictionaries(st.sampled_from(["items", "code", "digest"]), st.text(max_size=4), max_size=2),
)
_CODES = [
    "cli/bad-answer", "cli/hub-unreachable", "fleet/unknown-document", "document/expired", "api/not-found",
    "policy/rollback", "fleet/sequence-taken", "new/code", "",
]  # fmt: skip


class _HubSigner(Ed25519Signer):
    """Signs for the hub; nobody spies on it."""

    sign = Ed25519Signer.sign


def truth(_: LyingHub, __: Asked, answer: Answer) -> Answer:
    """Say what is."""
    return answer


def stale(moment: int) -> Lie:
    """Say what was."""
    return lambda hub, asked, _: hub.truth(asked, moment % len(hub.moments))


def foreign(index: int) -> Lie:
    """Answer another question."""

    def lie(hub: LyingHub, _: Asked, __: Answer) -> Answer:
        known = hub.everything()
        return known[index % len(known)]

    return lie


def alike(index: int) -> Lie:
    """Answer as to another question of the same form: another document, cell or cluster, now or once."""

    def lie(hub: LyingHub, asked: Asked, answer: Answer) -> Answer:
        known = hub.alike(asked)
        return known[index % len(known)] if known else answer

    return lie


def recombined(picks: tuple[int, int, int, int], ahead: int | None) -> Lie:
    """Show policy put together from several moments, under a timestamp of its own key or under one of those it made.

    ``picks`` are the moments of roots, targets, keyring and snapshot; ``ahead`` is the timestamp's number beyond the
    clock in milliseconds, None for the timestamp that went with the snapshot.
    """

    def lie(hub: LyingHub, asked: Asked, answer: Answer) -> Answer:
        shown = [one.json() for moment in hub.moments if (one := moment.get(asked)) is not None]
        if asked[1] != "/v1/policy/metadata" or not shown:
            return answer
        roots, targets, keyring, snapshot = (shown[pick % len(shown)] for pick in picks)
        mixed = {
            **snapshot, "roots": roots["roots"], "targets": targets["targets"], "keyring": keyring["keyring"],
            "contents": [one for part in shown for one in part["contents"]],
        }  # fmt: skip
        if ahead is not None:
            data, now = base64.b64decode(snapshot["snapshot"]), datetime.now(UTC)
            version = json.loads(data)["signed"]["version"]
            signer, number = _HubSigner(hub.real.keys.timestamp), int(now.timestamp() * 1000) + ahead
            named = MetadataFile("snapshot", version, data)
            stamp = sign_timestamp(number, named, signer, now=now, life=timedelta(hours=12))
            mixed["timestamp"] = base64.b64encode(stamp).decode()
        return Answer(answer.status, json.dumps(mixed).encode())

    return lie


def error(status: int, code: str, text: str) -> Lie:
    """Refuse, in whatever words."""
    body = {"code": code, "title": text, "detail": text, "hint": text, "details": {"rule": text}}
    return lambda *_: Answer(status, json.dumps(body).encode())


def garbage(status: int, data: bytes) -> Lie:
    """Answer with anything."""
    return lambda *_: Answer(status, data)


def silent(*_: object) -> Answer:
    """Take it, and close the connection."""
    return Answer(0, b"")


def of_json(change: Callable[[Any], Any]) -> Lie:
    """Change a truthful answer."""

    def lie(_: LyingHub, __: Asked, answer: Answer) -> Answer:
        value = answer.json()
        return answer if value is None else Answer(answer.status, json.dumps(change(value)).encode())

    return lie


def hide(mask: int) -> Lie:
    """Leave items of a list out."""
    return of_json(
        lambda value: (
            {**value, "items": [one for at, one in enumerate(value["items"]) if not mask >> (at % 16) & 1]}
            if isinstance(value, dict) and isinstance(value.get("items"), list)
            else value
        )
    )


def renumber(number: int) -> Lie:
    """Lie about every sequence in a list, and turn the list around."""

    def change(value: Any) -> Any:
        if not isinstance(value, dict) or not isinstance(value.get("items"), list):
            return value
        turned = value["items"][::-1]
        return {
            **value,
            "items": [
                {**one, "sequence": number - at} if isinstance(one, dict) else one for at, one in enumerate(turned)
            ],
        }

    return of_json(change)


def circle(cursor: str) -> Lie:
    """Let a list lead on."""
    return of_json(lambda value: {**value, "nextCursor": cursor} if isinstance(value, dict) else value)


def mutate(where: int, new: Any) -> Lie:
    """Put any value at any place."""

    def change(value: Any) -> Any:
        places = list(_places(value))
        if not places:
            return new
        inner, key = places[where % len(places)]
        inner[key] = new
        return value

    return of_json(change)


def named(field: str, new: Any) -> Lie:
    """Put a value into one field of an answer that has it."""
    return of_json(lambda value: {**value, field: new} if isinstance(value, dict) and field in value else value)


def _places(value: Any) -> Any:
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in list(children):
        yield value, key
        yield from _places(child)


#: One lie.
LIES: st.SearchStrategy[Lie] = st.one_of(
    st.just(truth),
    st.integers(0, 3).map(stale),
    st.integers(0, 2**16).map(foreign),
    st.integers(0, 2**16).map(alike),
    st.integers(0, 2**16).map(hide),
    st.sampled_from([0, 1, -5, 2**53 - 1, 2**62, 1_796_000_000_000]).map(renumber),
    st.sampled_from(["", "x", "0"]).map(circle),
    st.builds(mutate, st.integers(0, 2**16), VALUES),
    st.builds(recombined, st.tuples(*[st.integers(0, 3)] * 4), st.sampled_from([None, -1000, 0, 500_000, 2_000_000])),
    st.builds(
        error,
        st.sampled_from([400, 401, 403, 404, 409, 422, 429, 500, 503, 600]),
        st.sampled_from(_CODES),
        st.text(max_size=8),
    ),
    st.builds(garbage, st.sampled_from([200, 201, 404, 500]), st.binary(max_size=64)),
    st.just(silent),
)
#: What is made of every answer before the lies: nothing, or it is all of one moment, short of something, or turned.
ALWAYS: st.SearchStrategy[Lie | None] = st.one_of(
    st.none(), st.integers(0, 3).map(stale), st.integers(0, 2**16).map(hide), st.just(renumber(1)),
    st.integers(0, 2**16).map(alike),
)  # fmt: skip
