"""Documents that come with an item: kept until they are asked for, within a bound."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable

import pytest

from agent.link.channels import ChannelHolder
from agent.link.content import CARRIED_BYTES, CARRIED_COUNT, HubContent
from cellward.errors import Unavailable
from cellward.wire.codec import MAX_CARRIED
from cellward.wire.v1 import link_pb2


def _digest(number: int) -> str:
    return f"sha256:{number:064x}"


def _documents(numbers: Iterable[int], size: int) -> list[link_pb2.CarriedDocument]:
    return [link_pb2.CarriedDocument(digest=_digest(number), envelope=b"x" * size) for number in numbers]


async def _held(content: HubContent, numbers: Iterable[int]) -> list[int]:
    """Return which are there without a hub, of which this agent has none: what is not there raises."""
    found = []
    for number in numbers:
        with contextlib.suppress(Unavailable):
            await content.fetch_digest(_digest(number), MAX_CARRIED)
            found.append(number)
    return found


@pytest.mark.parametrize("size", [1, MAX_CARRIED])
async def test_v16_what_a_hub_sends_along_stays_within_a_bound(size: int) -> None:
    """The newest are kept, in number and in bytes; what was dropped is fetched when it is wanted."""
    content = HubContent(ChannelHolder())
    everything = range(CARRIED_COUNT + 100)
    content.carry(_documents(everything, size))
    most = min(CARRIED_COUNT, CARRIED_BYTES // size)
    assert await _held(content, everything) == list(everything)[-most:]


async def test_an_oversized_or_empty_document_and_a_name_that_is_none_are_left_out() -> None:
    """They are fetched, and judged as anything that is fetched."""
    content = HubContent(ChannelHolder())
    content.carry(_documents([1], MAX_CARRIED + 1) + _documents([2], 0) + _documents([3], 10))
    content.carry([link_pb2.CarriedDocument(digest="../x", envelope=b"x")])
    assert await _held(content, [1, 2, 3]) == [3]


async def test_a_document_sent_again_replaces_the_one_before() -> None:
    """An envelope may have gained a signature; and what it weighed is given back."""
    content = HubContent(ChannelHolder())
    for _ in range(CARRIED_BYTES // 1000 + 10):
        content.carry(_documents([1], 1000))
    content.carry([link_pb2.CarriedDocument(digest=_digest(1), envelope=b"newer"), *_documents([2], 10)])
    assert await content.fetch_digest(_digest(1), 100) == b"newer"
    assert await _held(content, [1, 2]) == [2]
