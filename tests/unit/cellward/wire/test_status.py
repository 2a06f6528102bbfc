"""Errors over gRPC status and back: the same code, the same hint, never a foreign text (V15, V16)."""

from __future__ import annotations

import grpc
import grpc.aio
import pytest

from cellward.errors import CellwardError, Unavailable
from cellward.wire.errors import BAD_MESSAGE, NO_COMMON_VERSION, REMOTE_UNAVAILABLE
from cellward.wire.status import error_of, status_of
from cellward.wire.version import negotiate


def failed(code: grpc.StatusCode, details: str, metadata: tuple[tuple[str, str], ...] = ()) -> grpc.aio.AioRpcError:
    """What a client sees of a failed call."""
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(*metadata), details)


def test_v15_an_error_survives_the_wire() -> None:
    """V15: code, message and hint arrive as they were, also when they are not ASCII."""
    error = BAD_MESSAGE("100 % wrong, naïve", hint="try “this”\nand that")
    code, details, metadata = status_of(error)
    assert all(text.isascii() and text.isprintable() for _, text in metadata)
    back = error_of(failed(code, details, metadata))
    assert (back.code, back.message, back.hint) == (error.code, error.message, error.hint)
    assert type(back) is type(error)


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (grpc.StatusCode.UNAVAILABLE, "wire/remote-unavailable"),
        (grpc.StatusCode.DEADLINE_EXCEEDED, "wire/remote-unavailable"),
        (grpc.StatusCode.UNAUTHENTICATED, "wire/remote-denied"),
        (grpc.StatusCode.PERMISSION_DENIED, "wire/remote-denied"),
        (grpc.StatusCode.FAILED_PRECONDITION, "wire/remote-refused"),
        (grpc.StatusCode.UNIMPLEMENTED, "wire/remote-refused"),
    ],
)
def test_a_code_this_side_does_not_know_keeps_its_class(status: grpc.StatusCode, code: str) -> None:
    """A newer other side still says whether trying again makes sense."""
    error = error_of(failed(status, "no", (("cellward-code", "future/unheard-of"),)))
    assert (error.code, error.details["remote_code"]) == (code, "future/unheard-of")


def test_a_failure_without_trailers_is_unavailable() -> None:
    """A connection that broke carries nothing of ours."""
    error = error_of(failed(grpc.StatusCode.UNAVAILABLE, ""))
    assert isinstance(error, Unavailable)
    assert error.hint == REMOTE_UNAVAILABLE.hint


@pytest.mark.parametrize(
    ("theirs", "ours", "chosen"), [((1, 1), (1, 1), 1), ((1, 3), (1, 2), 2), ((2, 3), (1, 2), 2), ((1, 2), (2, 3), 2)]
)
def test_the_highest_common_version_is_chosen(theirs: tuple[int, int], ours: tuple[int, int], chosen: int) -> None:
    """One minor of skew each way."""
    assert negotiate(*theirs, ours_min=ours[0], ours_max=ours[1]) == chosen


@pytest.mark.parametrize(("theirs", "ours"), [((2, 3), (1, 1)), ((1, 1), (2, 3)), ((0, 1), (1, 1)), ((3, 2), (1, 9))])
def test_versions_without_overlap_are_refused(theirs: tuple[int, int], ours: tuple[int, int]) -> None:
    """No guess is made about a protocol nobody shares."""
    with pytest.raises(CellwardError) as refusal:
        negotiate(*theirs, ours_min=ours[0], ours_max=ours[1])
    assert refusal.value.code == NO_COMMON_VERSION.code
