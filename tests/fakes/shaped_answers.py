"""Answers of the right shape, made from the schemas of the API: with one text in every place that takes a text."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping
from typing import Any

from hub.api.app import all_routes
from hub.api.routing import PREFIX, Route

_TIME = "2026-01-02T03:04:05Z"


def shaped(schema: Mapping[str, Any], text: str, definitions: Mapping[str, Any] | None = None) -> Any:
    """A value for a JSON schema as pydantic writes them, ``text`` wherever a text can be; also as key of a map."""
    definitions = schema.get("$defs", {}) if definitions is None else definitions
    if "$ref" in schema:
        return shaped(definitions[schema["$ref"].rpartition("/")[2]], text, definitions)
    if "anyOf" in schema:
        return shaped(next(one for one in schema["anyOf"] if one.get("type") != "null"), text, definitions)
    if "enum" in schema or "const" in schema:
        return schema.get("const", next(iter(schema.get("enum", [""]))))
    kind = schema.get("type", "string")
    if kind == "object":
        found = {name: shaped(one, text, definitions) for name, one in schema.get("properties", {}).items()}
        free = schema.get("additionalProperties", False)
        return {**found, text: shaped(free if isinstance(free, dict) else {}, text, definitions)} if free else found
    if kind == "array":
        return [shaped(schema.get("items", {}), text, definitions)]
    # False: what is not well is told at greater length.
    return _text(schema, text) if kind == "string" else {"integer": 1, "number": 1, "boolean": False}[kind]


def _text(schema: Mapping[str, Any], text: str) -> str:
    if schema.get("contentEncoding") == "base64":
        return base64.b64encode(text.encode("utf-8", "replace")).decode()
    return _TIME if schema.get("format") == "date-time" else text


def route_of(method: str, path: str) -> Route | None:
    """The route that a request would meet."""
    for route in all_routes():
        pattern = re.sub(r"\\\{[a-z_]+\\\}", "[^/]+", re.escape(PREFIX + route.path))
        if route.method == method and re.fullmatch(pattern, path):
            return route
    return None


def shaped_answer(method: str, path: str, text: str) -> dict[str, Any] | None:
    """What a hub that means ill answers to a request, in the shape that the CLI expects; None where there is none."""
    route = route_of(method, path)
    if route is None or route.response is None:
        return None
    found: dict[str, Any] = shaped(route.response.model_json_schema(mode="serialization"), text)
    if "nextCursor" in found:
        # There is no other page.
        found["nextCursor"] = ""
    return found


def problem(text: str, code: str) -> bytes:
    """A refusal full of ``text``."""
    texts = ("type", "title", "detail", "instance", "hint")
    details = {"rule": text, "object": text, text: text}
    return json.dumps({**dict.fromkeys(texts, text), "status": 422, "code": code, "details": details}).encode()
