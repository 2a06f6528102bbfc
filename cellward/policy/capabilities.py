"""What policies may call: an allow-list of built-in names, applied to whatever engine is at hand.

Names that are not on the list are refused when a bundle is published and again when it is activated: ``opa run`` has
no such switch. Left out is everything that reaches the network, the clock, the environment or chance, so that a
decision is a function of its input and can be replayed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from importlib import resources

from cellward.policy.errors import DOES_NOT_COMPILE


def allowed() -> dict[str, list[str]]:
    """Return the committed allow-list: ``builtins`` and ``features``."""
    text = resources.files("cellward.policy").joinpath("capabilities.json").read_text(encoding="utf-8")
    document: dict[str, list[str]] = json.loads(text)
    return document


def restrict(current: Mapping[str, object]) -> dict[str, object]:
    """Cut an engine's own capabilities (``opa capabilities --current``) down to the allow-list.

    Raises policy/does-not-compile when the engine does not look like one.
    """
    names = allowed()
    builtins, features = current.get("builtins"), current.get("features")
    if not isinstance(builtins, list) or not isinstance(features, list):
        raise DOES_NOT_COMPILE("the engine does not state its capabilities", hint="Check which program opa_binary is.")
    kept = [entry for entry in builtins if isinstance(entry, dict) and entry.get("name") in names["builtins"]]
    return {
        "builtins": kept,
        "features": [feature for feature in features if feature in names["features"]],
        "future_keywords": [],
        "allow_net": [],
    }


def digest(capabilities: Mapping[str, object]) -> str:
    """Return the digest of restricted capabilities, for Hello."""
    text = json.dumps(capabilities, sort_keys=True, separators=(",", ":")).encode()
    return "sha256:" + hashlib.sha256(text).hexdigest()
