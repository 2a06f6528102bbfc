"""A hub of its own for each test."""

from __future__ import annotations

import pytest

from tests.fakes.rooms import World, new_world


@pytest.fixture
async def world() -> World:
    """Give a fresh hub with a realm."""
    return await new_world()
