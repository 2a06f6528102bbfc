"""The version of this distribution; both sides tell it to each other."""

from __future__ import annotations

from typing import Final

#: Semantic version; kept equal to ``pyproject.toml`` by a test.
VERSION: Final = "0.1.0.dev0"
