"""The door's reading of answers: one JSON value with one meaning and typed, or refused."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cellward.api import schemas
from cellward.errors import CellwardError
from cli.door.answers import parse_answer, problem
from cli.door.pages import MAX_PAGES, every
from cli.door.steps import split_step

GOOD = b'{"name": "eu", "role": "viewer", "expiresAt": "2026-01-01T00:00:00Z", "more": 1}'


def test_an_answer_becomes_a_typed_value() -> None:
    """What a newer hub adds is ignored."""
    assert parse_answer(GOOD, schemas.ApiToken, "hub").name == "eu"


@pytest.mark.parametrize(
    "data",
    [
        GOOD.replace(b'"more"', b'"name"'),
        GOOD.replace(b"1}", b"NaN}"),
        GOOD.replace(b"00Z", b"00"),
        GOOD.replace(b"1}", b"[" * 80 + b"]" * 80 + b"}"),
        GOOD.replace(b"eu", b"\\ud800"),
        GOOD.replace(b"eu", b"\xff"),
        b"[" * 100_000,
        b"",
    ],
    ids=["twice", "nan", "no-zone", "deep", "surrogate", "not-utf8", "deeper", "empty"],
)
def test_v16_an_answer_with_two_meanings_or_none_is_refused(data: bytes) -> None:
    """V16: keys twice, numbers that are none, times without zone, text that is none."""
    with pytest.raises(CellwardError) as caught:
        parse_answer(data, schemas.ApiToken, "hub")
    assert caught.value.code == "cli/bad-answer"


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=80))
def test_v16_any_bytes_are_read_or_refused(data: bytes) -> None:
    """V16: whatever a hub sends is a value or cli/bad-answer."""
    code = "cli/bad-answer"
    try:
        parse_answer(data, schemas.WhoAmI, "hub")
    except CellwardError as error:
        code = error.code
    assert code == "cli/bad-answer"


@pytest.mark.parametrize("code", ["cli/hub-unreachable", "cli/bad-answer", "cli/number-used"])
def test_a_hub_does_not_speak_for_the_command_line(code: str) -> None:
    """A hub cannot send a code by which commands here go on or stop."""
    body = b'{"code": "%s", "detail": "d"}' % code.encode()
    assert problem(404, body, "/v1/x").code == "cli/hub-not-found"


def _list(follow: Callable[[int], str]) -> Callable[[str], schemas.ApiTokenList]:
    asked = iter(range(2 * MAX_PAGES))
    return lambda _: schemas.ApiTokenList(items=[], next_cursor=follow(next(asked)))


@pytest.mark.parametrize("follow", [lambda at: "x", str, lambda at: str(at % 7)], ids=["same", "endless", "circle"])
def test_v16_a_list_that_does_not_end_is_refused(follow: Callable[[int], str]) -> None:
    """V16: a hub cannot keep a command walking for ever."""
    with pytest.raises(CellwardError) as caught:
        list(every(_list(lambda at: follow(at + 1))))
    assert caught.value.code == "cli/bad-answer"


def test_a_step_of_an_agent_is_taken_out_of_its_sentence() -> None:
    """The sentence stays whole, and what is told to be run is the command alone."""
    assert split_step("a; b; next: kubectl get x -n y (and 2 more)") == ("a; b (and 2 more)", "kubectl get x -n y")
    assert split_step("a; next: kubectl get x") == ("a", "kubectl get x")
    assert split_step("nothing to do") == ("nothing to do", "")
