"""RFC 9457 problems: one mapping from errors to what goes out, and nothing of an unexpected exception's text."""

from __future__ import annotations

from aiohttp import web

from cellward.api.schemas import Problem
from cellward.errors import CellwardError
from hub.api.errors import METHOD_NOT_ALLOWED, NO_SUCH_ROUTE, TOO_LARGE

MEDIA_TYPE = "application/problem+json"
#: Where codes are described; a relative name, since documentation travels with the installation.
TYPE_PREFIX = "urn:cellward:error:"


def problem_response(error: CellwardError, request_id: str) -> web.Response:
    """Make the response of an error."""
    problem = Problem(
        type=TYPE_PREFIX + error.code.replace("/", ":"),
        title=error.title,
        status=error.http_status,
        detail=error.message,
        instance=request_id,
        code=error.code,
        hint=error.hint,
        details=error.details,
    )
    headers = {"WWW-Authenticate": "Bearer"} if error.http_status == web.HTTPUnauthorized.status_code else None
    return web.Response(
        status=error.http_status,
        text=problem.model_dump_json(by_alias=True),
        content_type=MEDIA_TYPE,
        headers=headers,
    )


def error_of(exception: web.HTTPException, path: str) -> CellwardError | None:
    """Return the error that stands for an exception of the HTTP library, or None for a redirect and the like."""
    if isinstance(exception, web.HTTPNotFound):
        return NO_SUCH_ROUTE(f"there is nothing at {path[:200]}")
    if isinstance(exception, web.HTTPMethodNotAllowed):
        allowed = ", ".join(sorted(exception.allowed_methods))
        return METHOD_NOT_ALLOWED(f"{exception.method} is not taken at {path[:200]}; it takes {allowed}")
    if isinstance(exception, web.HTTPRequestEntityTooLarge):
        return TOO_LARGE("the request is too large")
    return None
