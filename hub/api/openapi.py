"""The OpenAPI 3.1 document, built from the table of routes."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, Literal

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from cellward.api.schemas import Problem
from hub.api.problems import MEDIA_TYPE
from hub.api.routing import PREFIX, Route

_REF = "#/components/schemas/{model}"
#: Version of the API, not of the program: it changes when the API does.
API_VERSION = "1.0.0"


def build_document(routes: Iterable[Route]) -> dict[str, Any]:
    """Return the document of all routes, in a stable order."""
    rows = sorted(routes, key=lambda row: (row.path, row.method))
    refs, definitions = _schemas(rows)
    paths: dict[str, dict[str, Any]] = {}
    for row in rows:
        paths.setdefault(PREFIX + row.path, {})[row.method.lower()] = _operation(row, refs)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Cellward admin API",
            "version": API_VERSION,
            "summary": "What people and machines may ask of a hub.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": paths,
        "components": {
            "schemas": definitions,
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}},
            "responses": {
                "Problem": {
                    "description": "RFC 9457 problem details with a stable code and a hint.",
                    "content": {MEDIA_TYPE: {"schema": refs[(Problem, "serialization")]}},
                }
            },
        },
        "security": [{"bearer": []}],
        "tags": [{"name": tag} for tag in sorted({row.tag for row in rows})],
    }


_Key = tuple[type[BaseModel], Literal["validation", "serialization"]]


def _schemas(rows: Iterable[Route]) -> tuple[dict[_Key, dict[str, Any]], dict[str, Any]]:
    wanted: dict[_Key, None] = {(Problem, "serialization"): None}
    for row in rows:
        if row.request is not None:
            wanted[(row.request, "validation")] = None
        if row.response is not None:
            wanted[(row.response, "serialization")] = None
    ordered = sorted(wanted, key=lambda key: (key[0].__name__, key[1]))
    refs, document = models_json_schema(ordered, ref_template=_REF)
    definitions: dict[str, Any] = document.get("$defs", {})
    found: dict[_Key, dict[str, Any]] = {}
    for (model, mode), ref in refs.items():
        assert issubclass(model, BaseModel)
        found[(model, mode)] = dict(ref)
    return found, dict(sorted(definitions.items()))


def _operation(row: Route, refs: dict[_Key, dict[str, Any]]) -> dict[str, Any]:
    text = " ".join((row.handler.__doc__ or "").split())
    operation: dict[str, Any] = {
        "operationId": row.operation_id,
        "summary": re.split(r"(?<=[.;])\s", text, maxsplit=1)[0].rstrip(".;"),
        "tags": [row.tag],
        "responses": {
            str(row.status): _success(row, refs),
            "default": {"$ref": "#/components/responses/Problem"},
        },
    }
    parameters = [*_path_parameters(row), *_query_parameters(row)]
    if parameters:
        operation["parameters"] = parameters
    if row.request is not None:
        schema = refs[(row.request, "validation")]
        operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": schema}}}
    if row.role is None:
        operation["security"] = []
    else:
        operation["x-cellward-role"] = row.role
    if row.action:
        operation["x-cellward-audit-action"] = row.action
    return operation


def _success(row: Route, refs: dict[_Key, dict[str, Any]]) -> dict[str, Any]:
    if row.response is None:
        schema: dict[str, Any] = {"type": "object"} if row.media_type == "application/json" else {"type": "string"}
        return {"description": "Done.", "content": {row.media_type: {"schema": schema}}}
    described = " ".join((row.response.__doc__ or "Done.").split())
    return {"description": described, "content": {row.media_type: {"schema": refs[(row.response, "serialization")]}}}


def _path_parameters(row: Route) -> list[dict[str, Any]]:
    return [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in row.path_parameters
    ]


def _query_parameters(row: Route) -> list[dict[str, Any]]:
    if row.query is None:
        return []
    schema = row.query.model_json_schema()
    required = set(schema.get("required", ()))
    found = []
    for name, declared in schema.get("properties", {}).items():
        plain = {key: value for key, value in declared.items() if key not in {"title", "description"}}
        parameter = {"name": name, "in": "query", "required": name in required, "schema": plain}
        if "description" in declared:
            parameter["description"] = declared["description"]
        found.append(parameter)
    return found
