"""Text of an export on its way to a terminal: a hub and its writers chose it, so none of it may steer one."""

from __future__ import annotations


def shown(text: str) -> str:
    """Return text on one line, with every character that is not printable written as an escape."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in text)


def shown_json(text: str) -> str:
    """The same for JSON in ASCII: what is left of control characters in it is DEL, always inside a string."""
    return text.replace("\x7f", "\\u007f")
