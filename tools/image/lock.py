"""What a lock below ``requirements`` pins."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tools.parts.model import ROOT

_PIN: Final = re.compile(r"^(?P<name>[a-z0-9][a-z0-9._-]*)(?:\[[^\]]*\])?==(?P<version>[^\s;]+)", re.MULTILINE)
_HASH: Final = re.compile(r"--hash=sha256:([0-9a-f]{64})")


@dataclass(frozen=True, slots=True)
class Pin:
    """One wheel: its normalised name, its version, and every hash (SHA-256, hexadecimal) it may have."""

    name: str
    version: str
    hashes: tuple[str, ...]


def lock_of(name: str) -> Path:
    """Return the lock of an extra."""
    return ROOT / "requirements" / f"{name}.txt"


def pins(text: str) -> list[Pin]:
    """Read a lock that ``make lock`` wrote, in its order."""
    found = list(_PIN.finditer(text))
    ends = [one.start() for one in found[1:]] + [len(text)]
    return [
        Pin(normal(one["name"]), one["version"], tuple(_HASH.findall(text[one.start() : end])))
        for one, end in zip(found, ends, strict=True)
    ]


def normal(name: str) -> str:
    """Return the one spelling of a package's name."""
    return re.sub(r"[-_.]+", "-", name).lower()
