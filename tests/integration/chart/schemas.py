"""JSON schemas for kubeconform, made from what an API server says of its own kinds in ``/openapi/v2``.

An API server drops what it does not know of nested objects unless it is asked to be strict, and a chart is looked at
without one elsewhere. Published schemas are of some other version; these are of the very server that runs.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

DEFINITIONS = "definitions.json"
_GVK = "x-kubernetes-group-version-kind"
_EITHER = {"oneOf": [{"type": "string"}, {"type": "integer"}]}
#: Definitions that say less than is true: a quantity may be a number.
_SPECIAL = {
    "io.k8s.apimachinery.pkg.api.resource.Quantity": {"oneOf": [{"type": "string"}, {"type": "number"}]},
    "io.k8s.apimachinery.pkg.util.intstr.IntOrString": _EITHER,
}


def write_schemas(openapi: dict[str, Any], directory: Path) -> set[str]:
    """Write one file for each kind and one that all of them refer to; returns the files' stems.

    Names are those that kubeconform asks for as ``{{.ResourceKind}}{{.KindSuffix}}``.
    """
    made = {name: _SPECIAL.get(name) or _strict(said) for name, said in openapi["definitions"].items()}
    (directory / DEFINITIONS).write_text(json.dumps({"definitions": made}))
    stems = set()
    for name, said in openapi["definitions"].items():
        for kind in said.get(_GVK, ()):
            group = f"-{kind['group'].partition('.')[0]}" if kind["group"] else ""
            stem = f"{kind['kind']}{group}-{kind['version']}".lower()
            (directory / f"{stem}.json").write_text(json.dumps(made[name]))
            stems.add(stem)
    return stems


def _strict(said: Any) -> Any:
    """The same in JSON Schema, where an object with named fields has no others."""
    if isinstance(said, list):
        return [_strict(each) for each in said]
    if not isinstance(said, dict):
        return said
    if isinstance(said.get("$ref"), str):
        return {"$ref": f"{DEFINITIONS}#/definitions/{said['$ref'].rpartition('/')[2]}"}
    made = {name: _strict(inner) for name, inner in said.items() if not name.startswith("x-kubernetes")}
    if isinstance(said.get("properties"), dict):
        # Its names are fields, not words of a schema.
        made["properties"] = {name: _strict(inner) for name, inner in said["properties"].items()}
        made.setdefault("additionalProperties", False)
    return made
