"""Text for people that goes into messages and statements: whatever it came from, it can be sent and shown."""

from __future__ import annotations

from typing import Final

#: Longest text for people in a message; what is longer is cut rather than refused.
MAX_TEXT: Final = 4000
_CONTROLS: Final = dict.fromkeys([*range(9), *range(11, 32), *range(127, 160)], " ")


def sendable(text: str, bound: int = MAX_TEXT) -> str:
    """Return the text without what protobuf and canonical JSON cannot carry, or a terminal would obey.

    A lone surrogate has no UTF-8 form; one in one reason would end the whole link. Tabs and line ends stay.
    """
    text = text.encode("utf-8", "replace").decode("utf-8").translate(_CONTROLS)
    return text if len(text) <= bound else text[: bound - 1] + "…"
