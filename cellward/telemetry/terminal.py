"""Text from elsewhere on its way to a terminal: whatever could steer one is shown, not obeyed.

Names, reasons and tokens come from hubs, clusters and files. A terminal obeys C0 and C1 control characters (escape
sequences, OSC 52, cursor movement); a reader is misled by bidirectional controls, invisible characters and foreign
spaces. All of these are characters that ``str.isprintable`` refuses. Nothing is dropped: each is written as an escape.
"""

from __future__ import annotations

import re
from typing import Final

#: Candidates for an escape: all that is not printable ASCII; ``isprintable`` decides on each.
_SUSPECT: Final = re.compile(r"[^ -~]")
_SHORT: Final = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}


def escaped(text: str, *, keep: str = "") -> str:
    """Return text on one line that no terminal obeys; characters in ``keep`` stay as they are."""
    return _SUSPECT.sub(lambda found: _shown(found[0], keep), text)


def escaped_json(text: str) -> str:
    r"""The same for JSON that was written already: its strings get ``\u`` escapes, so it parses to the same value."""
    return _SUSPECT.sub(lambda found: _in_json(found[0]), text)


def escaped_yaml(text: str) -> str:
    r"""The same for YAML in which every string that is not ``plain`` stands in double quotes."""
    return _SUSPECT.sub(lambda found: _in_yaml(found[0]), text)


def plain(text: str) -> bool:
    """Whether nothing in a text needs an escape; line ends do not."""
    return all(char.isprintable() or char == "\n" for char in text)


def _shown(char: str, keep: str) -> str:
    if char.isprintable() or char in keep:
        return char
    number = ord(char)
    return _SHORT.get(char) or (
        f"\\x{number:02x}" if number < 0x100 else f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"
    )


def _in_json(char: str) -> str:
    # Outside of strings JSON has no other control character than the line ends and tabs of its layout.
    if char.isprintable() or char in "\n\t":
        return char
    units = char.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[at]:02x}{units[at + 1]:02x}" for at in range(0, len(units), 2))


def _in_yaml(char: str) -> str:
    number = ord(char)
    if char.isprintable() or char == "\n":
        return char
    return f"\\u{number:04X}" if number < 0x10000 else f"\\U{number:08X}"
