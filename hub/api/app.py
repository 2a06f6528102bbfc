"""The application: routes from the tables, and around each request authentication, errors, audit and bounds.

Whoever serves it brings the TLS context. Nothing in here keeps state between two requests.
"""

from __future__ import annotations

import asyncio
import functools
import re
import uuid
from collections.abc import Awaitable, Callable
from itertools import chain

import structlog
from aiohttp import web

from cellward.errors import CellwardError, Denied, Refused, Unauthenticated
from hub.api.auth import ANONYMOUS, require, require_unbound
from hub.api.door import enter
from hub.api.errors import BUSY, INTERNAL
from hub.api.interfaces import Services
from hub.api.openapi import build_document
from hub.api.problems import error_of, problem_response
from hub.api.rates import TokenRates
from hub.api.resources import audit, cells, clusters, documents, locks, policy, system, tokens
from hub.api.routing import PREFIX, Answer, Call, Route, read_body, read_query

REQUEST_ID = "X-Request-Id"
#: Most requests answered at a time; beyond it the caller is told to come again.
MAX_CONCURRENT = 128

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}\Z")
_ID_KEY = web.RequestKey("request-id", str)
_log = structlog.get_logger()


def all_routes() -> tuple[Route, ...]:
    """Every route of the API."""
    tables = (
        system.routes,
        tokens.routes,
        clusters.routes,
        locks.routes,
        documents.routes,
        policy.routes,
        cells.routes,
        audit.routes,
    )
    return tuple(chain.from_iterable(tables))


@functools.cache
def openapi_document() -> dict[str, object]:
    """The OpenAPI document as it is served and committed; made once, when somebody asks for it, and not changed."""
    return build_document(all_routes())


def make_api_app(services: Services) -> web.Application:
    """Build the application over its services."""
    rates = TokenRates(services.clock)
    app = web.Application(
        client_max_size=services.max_body, middlewares=[_outermost(services, asyncio.Semaphore(MAX_CONCURRENT))]
    )
    for route in all_routes():
        app.router.add_route(route.method, PREFIX + route.path, _endpoint(route, services, rates))

    async def serve_document(_: web.Request) -> web.Response:
        return web.json_response(openapi_document())

    app.router.add_get(PREFIX + "/openapi.json", serve_document)
    return app


_Endpoint = Callable[[web.Request], Awaitable[web.StreamResponse]]


def _outermost(services: Services, slots: asyncio.Semaphore) -> Callable[..., Awaitable[web.StreamResponse]]:
    @web.middleware
    async def wrap(request: web.Request, handler: _Endpoint) -> web.StreamResponse:
        request_id = _request_id(request)
        started = services.clock.monotonic()
        log = _log.bind(correlation_id=request_id, method=request.method, path=request.path)
        try:
            if slots.locked():
                raise BUSY(f"{MAX_CONCURRENT} requests are being answered")  # noqa: TRY301 - one place makes problems
            async with slots:
                response = await handler(request)
        except CellwardError as error:
            log.info("request-refused", code=error.code, reason=error.message)
            response = problem_response(error, request_id)
            if isinstance(error, Unauthenticated):
                # Whoever shows no token in force keeps no place either.
                response.force_close()
        except web.HTTPException as exception:
            known = error_of(exception, request.path)
            if known is None:
                raise
            response = problem_response(known, request_id)
        except Exception:
            # V16: our own mistake costs one request; its text stays in the log.
            log.exception("request-failed")
            response = problem_response(INTERNAL("the hub made a mistake"), request_id)
        if not response.prepared:
            response.headers[REQUEST_ID] = request_id
            response.headers["Cache-Control"] = "no-store"
            response.headers["X-Content-Type-Options"] = "nosniff"
        _observe(services, request, response.status, services.clock.monotonic() - started)
        return response

    return wrap


def _endpoint(route: Route, services: Services, rates: TokenRates) -> _Endpoint:
    async def answer(request: web.Request) -> web.StreamResponse:
        principal = ANONYMOUS
        if route.role is not None:
            principal = await enter(request, services)
        call = Call(request, services, principal, _request_id(request), rates, subject=request.path)
        if not route.action:
            return _respond(route, await _handle(route, call))
        return await _audited(route, call)

    return answer


async def _handle(route: Route, call: Call) -> Answer:
    if route.role is not None:
        require(call.principal, route.role)
        if route.reach == "whole":
            require_unbound(call.principal)
        if route.action:
            call.rates.mutation(call.principal)
    call.parameters = read_query(call.request, route.query)
    if route.request is not None:
        call.payload = await read_body(call.request, route.request, call.services.max_body)
    return await route.handler(call)


async def _audited(route: Route, call: Call) -> web.StreamResponse:
    """Handle a mutation; its record is durable before anything is answered (V13)."""
    try:
        answer = await _handle(route, call)
    except CellwardError as error:
        decision = "deny" if isinstance(error, Denied | Refused) else "failed"
        await _record(route, call, decision, code=error.code, reason=error.message)
        raise
    except Exception as error:
        # Whatever it was, something was tried; its text stays in the log.
        known = error_of(error, call.request.path) if isinstance(error, web.HTTPException) else None
        known = known or INTERNAL("the hub made a mistake")
        await _record(route, call, "failed", code=known.code, reason=known.message)
        raise
    await _record(route, call, "done", reason=call.reason)
    return _respond(route, answer)


async def _record(route: Route, call: Call, decision: str, *, code: str = "", reason: str = "") -> None:
    principal = call.principal
    if decision != "done":
        # What came to nothing costs its sender nothing: some of it is recorded, the rest is counted.
        suppressed = call.rates.refused(principal, route.action, code)
        if suppressed is None:
            _unrecorded(call, code)
            return
        if suppressed:
            call.details["suppressed"] = str(suppressed)
    await call.services.audit_sink.record(
        route.action,
        call.subject,
        decision,
        actor=principal.subject,
        code=code,
        reason=reason[:500],
        details=call.details,
        correlation_id=call.request_id,
    )


def _unrecorded(call: Call, code: str) -> None:
    if call.services.metrics is not None:
        call.services.metrics.observe_unrecorded(code)


def _respond(route: Route, answer: Answer) -> web.StreamResponse:
    if isinstance(answer, web.StreamResponse):
        return answer
    return web.Response(
        status=route.status, text=answer.model_dump_json(by_alias=True), content_type="application/json"
    )


def _request_id(request: web.Request) -> str:
    """Return the caller's id when it is well-formed, otherwise one of our own; the same for the whole request."""
    kept = request.get(_ID_KEY)
    if kept is None:
        given = request.headers.get(REQUEST_ID, "")
        kept = given if _REQUEST_ID.match(given) else uuid.uuid4().hex
        request[_ID_KEY] = kept
    return kept


def _observe(services: Services, request: web.Request, status: int, seconds: float) -> None:
    if services.metrics is None:
        return
    resource = request.match_info.route.resource
    route = resource.canonical if resource is not None else "none"
    services.metrics.observe_request(request.method, route, status, seconds)
