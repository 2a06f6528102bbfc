"""What an agent repeats to every hub, and how long it may be at most.

A hub refuses a Hello beyond these bounds. So an agent takes nothing longer from a hub either: what it kept of one hub
must never keep it from the next one.
"""

from __future__ import annotations

from typing import Final

#: Longest text of one field of Hello, characters; longest checkpoint in it, bytes.
MAX_HELLO_TEXT: Final = 256
MAX_CHECKPOINT: Final = 4096
