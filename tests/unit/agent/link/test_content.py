"""Documents that come with an item: kept until they are asked for, within a bound."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable

import pytest

from agent.link.channels import ChannelHolder
from agent.link.content import CARRIED_BYTES, CARRIED_COUNT, HubContent
from agent.policy.interfaces import FetchedSet
from cellward.errors import Unavailable
from cellward.wire.codec import MAX_CARRIED, MAX_CARRIED_SET
from cellward.wire.v1 import content_pb2, link_pb2


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


@pytest.mark.parametrize(
    ("held", "asked", "given"),
    [((1, 4), (1, 4), True), ((1, 4), (2, 5), True), ((2, 4), (1, 4), False), ((1, 5), (1, 4), False)],
)
async def test_policy_that_came_with_a_notice_is_taken_once_by_who_holds_no_less(
    held: tuple[int, int], asked: tuple[int, int], given: bool
) -> None:
    """For whoever holds less there may be a gap; it is fetched, as is everything the second time."""
    content = HubContent(ChannelHolder())
    content.carry_set(_notice(held))
    if given:
        assert await content.fetch_set(*asked, 1000) == FetchedSet({("root", 2): b"two"}, (b"small",))
    with pytest.raises(Unavailable):
        await content.fetch_set(*asked, 1000)


async def test_a_newer_notice_replaces_what_came_with_the_last_one() -> None:
    """Also one without files: those of the last one are not the newest any more, and would be taken for it."""
    content = HubContent(ChannelHolder())
    content.carry_set(_notice((1, 4)))
    content.carry_set(link_pb2.PolicyNotice(timestamp_version=9))
    with pytest.raises(Unavailable):
        await content.fetch_set(1, 4, 1000)
    content.carry_set(_notice((1, 4), bytes(MAX_CARRIED_SET)))
    with pytest.raises(Unavailable):
        await content.fetch_set(1, 4, 10_000_000)


def _notice(held: tuple[int, int], target: bytes = b"small") -> link_pb2.PolicyNotice:
    notice = link_pb2.PolicyNotice(timestamp_version=8)
    notice.held.root_version, notice.held.snapshot_version = held
    notice.files.metadata.add(name=content_pb2.TufMetadata(role="root", version=2), data=b"two")
    notice.files.targets.append(target)
    return notice


async def test_a_document_sent_again_replaces_the_one_before() -> None:
    """An envelope may have gained a signature; and what it weighed is given back."""
    content = HubContent(ChannelHolder())
    for _ in range(CARRIED_BYTES // 1000 + 10):
        content.carry(_documents([1], 1000))
    content.carry([link_pb2.CarriedDocument(digest=_digest(1), envelope=b"newer"), *_documents([2], 10)])
    assert await content.fetch_digest(_digest(1), 100) == b"newer"
    assert await _held(content, [1, 2]) == [2]
