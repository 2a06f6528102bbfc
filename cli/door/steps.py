"""What a person reads as the next step: only what this program says itself, by the code of what happened.

A hub could otherwise choose a command line that a person runs with his own rights. Codes of hub and agents are known
here by a generated table; the words a hub sends, its own or an agent's, are shown under a heading that says whose they
are, and never as a next step.
"""

from __future__ import annotations

import functools
import json
import re
from importlib.resources import files

#: What stands before words that came from a hub.
HEADING = "the hub says"
#: Where an agent puts a step of its own into the text of a condition, which comes through the hub; and what follows it.
_STEP, _MORE = "; next: ", re.compile(r" \(and \d+ more\)\Z")


@functools.cache
def _hints() -> dict[str, str]:
    found: dict[str, str] = json.loads(files("cli.door").joinpath("hints.json").read_text("utf-8"))
    return found


def own_step(code: str) -> str:
    """Return this program's next step for a code; empty for one it does not know."""
    return _hints().get(code, "")


def relayed_step(text: str, own: str) -> str:
    """Return a hub's words where they say something else than the own step."""
    return "" if text == own else text


def split_step(message: str) -> tuple[str, str]:
    """Return a condition's message and the step an agent put into it."""
    found, _, step = message.partition(_STEP)
    more = _MORE.search(step)
    return (found, step) if more is None else (found + more[0], step[: more.start()])
