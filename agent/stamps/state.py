"""The key of this cluster's stamps, and the steps in which another one replaces it; pure.

Order of a change, so that no edge closes meanwhile: selectors accept both keys (``BOTH``), then namespaces carry the
new one (``CARRY``), then selectors accept the new one only (``DONE``). A step begins when every cell has come through
the one before. Coming from a chart without stamps, ``previous`` is None: selectors stay as they are until every
namespace is stamped.

Invariant: of two states the one of the higher generation is the newer; a generation never stands for two keys.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, Final

from cellward.cells.stamps import KEY_BYTES, Stamps

_SCHEMA: Final = 1
#: Largest generation believed.
_MAX: Final = 2**53 - 1


class Step(StrEnum):
    """How far the change of the key has come."""

    BOTH = "both"
    CARRY = "carry"
    DONE = "done"


@dataclass(frozen=True, slots=True)
class StampState:
    """What is durable about stamps.

    Attributes:
        key: the newest key.
        generation: grows with every change of this state.
        previous: the key before, while it is being replaced.
        step: how far that has come.
        guards: which guards stood when the key was made (``fingerprint_of``); empty while they were not seen yet.
    """

    key: bytes
    generation: int = 1
    previous: bytes | None = None
    step: Step = Step.DONE
    guards: str = ""

    @property
    def stamps(self) -> Stamps:
        """What holds now."""
        if self.step is Step.DONE:
            return Stamps.of(self.key)
        accepted = (self.key,) if self.previous is None else (self.key, self.previous)
        carried = self.previous if self.step is Step.BOTH else self.key
        return Stamps(accepted, carried, closed=self.previous is not None)

    def renewed(self, key: bytes, guards: str) -> StampState:
        """Begin to replace the key."""
        return StampState(key, self.generation + 1, self.key, Step.BOTH, guards)

    def advanced(self) -> StampState:
        """Return the next step."""
        if self.step is Step.BOTH:
            return replace(self, generation=self.generation + 1, step=Step.CARRY)
        return replace(self, generation=self.generation + 1, step=Step.DONE, previous=None)

    def seen(self, guards: str) -> StampState:
        """Take note of the guards under which the key holds."""
        return replace(self, generation=self.generation + 1, guards=guards)

    def to_text(self) -> str:
        """Return the durable shape."""
        body = {
            "schema": _SCHEMA,
            "key": self.key.hex(),
            "generation": self.generation,
            "previous": None if self.previous is None else self.previous.hex(),
            "step": self.step.value,
            "guards": self.guards,
        }
        return json.dumps(body, sort_keys=True)


def state_from_text(text: str) -> StampState:
    """Read the durable shape; raises ValueError for anything else."""
    try:
        body = json.loads(text)
        if body["schema"] != _SCHEMA:
            raise ValueError(f"stamps have schema {body['schema']!r}")
        previous = None if body["previous"] is None else _key(body["previous"])
        generation = int(body["generation"])
        state = StampState(_key(body["key"]), generation, previous, Step(body["step"]), str(body["guards"]))
    except (KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise ValueError("no stamps") from error
    if not 0 < generation < _MAX:
        raise ValueError("a generation out of its bounds")
    return state


def _key(text: str) -> bytes:
    key = bytes.fromhex(text)
    if len(key) != KEY_BYTES:
        raise ValueError("a key of another length")
    return key


def fingerprint_of(guards: Mapping[str, Mapping[str, Any]]) -> str:
    """Say which guards stand: another one of the same name, or one that was changed and changed back, is another."""
    rows = sorted((name, one["metadata"].get("uid"), one["metadata"].get("generation")) for name, one in guards.items())
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()
