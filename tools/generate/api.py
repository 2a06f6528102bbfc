"""The admin API: its OpenAPI document, and a short page with the table of its routes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hub.api.app import openapi_document
from hub.api.auth import ROLES
from hub.api.problems import MEDIA_TYPE
from tools.generate.page import Page, code, plain


def openapi(out: Path) -> None:
    """Write the admin API's OpenAPI document."""
    target = out / "docs" / "reference" / "openapi.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(openapi_document(), indent=2, sort_keys=True, ensure_ascii=False) + "\n")


def page(out: Path) -> None:
    """Write ``api.md``."""
    document: dict[str, Any] = openapi_document()
    page = Page("Admin API", "hub/api")
    page.text(
        "What people and machines may ask of a hub. The whole of it, with every request and response, is in "
        "[openapi.json](openapi.json) (OpenAPI 3.1); a hub serves the same document at `/v1/openapi.json`."
    )
    roles = ", ".join(map(code, ROLES))
    page.bullets(
        (
            f"TLS, and `Authorization: Bearer <token>` wherever a role is named. From weak to strong: {roles}.",
            "A stronger role may do all that a weaker one may.",
            "JSON with camelCase names. An unknown field or parameter is refused, not ignored.",
            f"An error is an RFC 9457 problem (`{MEDIA_TYPE}`) with a stable [code](errors.md) and a `hint`.",
            "Lists have pages: pass `nextCursor` as `cursor` until it is empty.",
            "What changes something is in the audit log before it is answered, under the action named here.",
        )
    )
    page.heading("Routes")
    page.table(
        ("route", "role", "recorded as", "what it does"),
        (
            (
                code(f"{method.upper()} {path}"),
                operation.get("x-cellward-role", "none"),
                code(operation["x-cellward-audit-action"]) if "x-cellward-audit-action" in operation else "",
                plain(operation["summary"]),
            )
            for path, operations in document["paths"].items()
            for method, operation in operations.items()
        ),
    )
    page.write(out, "api.md")
