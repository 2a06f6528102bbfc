"""What is refused is refused for a reason: an error of ours is expected by its code."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from cellward.errors import CellwardError

if TYPE_CHECKING:
    from _pytest.raises import RaisesExc


def refused(code: str) -> RaisesExc[CellwardError]:
    """Return a context that must end with an error of this code; its ``value`` can be looked at further."""

    def check(error: CellwardError) -> bool:
        assert error.code == code, f"refused with {error.code}: {error.message}"
        return True

    return pytest.raises(CellwardError, check=check)
