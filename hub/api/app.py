"""The application: routes from the tables, and around each request authentication, errors, audit and bounds.

Whoever serves it brings the TLS context. Nothing in here keeps state between two requests.
"""

from __future__ import annotations

import functools
import json
import re
import uuid
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from itertools import chain

import structlog
from aiohttp import web

from cellward.errors import CellwardError, Denied, Refused, Unauthenticated
from hub.api.auth import ANONYMOUS, require, require_unbound
from hub.api.body import Parser, limit_of
from hub.api.door import enter, peer_of
from hub.api.errors import INTERNAL, TOO_SLOW
from hub.api.interfaces import Services
from hub.api.openapi import build_document
from hub.api.problems import error_of, problem_response
from hub.api.rates import TokenRates
from hub.api.resources import audit, cells, clusters, commands, documents, keeping, locks, policy, system, tokens
from hub.api.room import DEFAULTS, Bodies, RoomLimits, Turns, Words
from hub.api.routing import PREFIX, Answer, Call, Route, read_query

REQUEST_ID = "X-Request-Id"

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}\Z")
_ID_KEY = web.RequestKey("request-id", str)
_PROVEN_KEY = web.RequestKey("proven", bool)
_log = structlog.get_logger()


def all_routes() -> tuple[Route, ...]:
    """Every route of the API."""
    tables = (
        system.routes,
        tokens.routes,
        clusters.routes,
        commands.routes,
        locks.routes,
        documents.routes,
        policy.routes,
        cells.routes,
        audit.routes,
        keeping.routes,
    )
    return tuple(chain.from_iterable(tables))


@functools.cache
def openapi_document() -> dict[str, object]:
    """The OpenAPI document as it is served and committed; made once, when somebody asks for it, and not changed."""
    return build_document(all_routes())


@dataclass(frozen=True, slots=True)
class _Bounds:
    """What all requests of this process share."""

    turns: Turns
    bodies: Bodies
    words: Words
    parser: Parser
    rates: TokenRates


def make_api_app(services: Services, limits: RoomLimits = DEFAULTS) -> web.Application:
    """Build the application over its services."""
    words = Words(limits, services.clock)
    rates = TokenRates(services.clock, services.max_body)
    bounds = _Bounds(Turns(limits), Bodies(limits), words, Parser(), rates)
    app = web.Application(client_max_size=services.max_body, middlewares=[_outermost(services, words)])
    for route in all_routes():
        app.router.add_route(route.method, PREFIX + route.path, _endpoint(route, services, bounds))

    async def serve_document(request: web.Request) -> web.Response:
        words.costly(peer_of(request))
        return web.Response(body=_openapi_bytes(), content_type="application/json")

    async def stop(_: web.Application) -> None:
        bounds.bodies.stop()

    app.router.add_get(PREFIX + "/openapi.json", serve_document)
    app.on_shutdown.append(stop)
    return app


@functools.cache
def _openapi_bytes() -> bytes:
    return json.dumps(openapi_document()).encode()


_Endpoint = Callable[[web.Request], Awaitable[web.StreamResponse]]


def _outermost(services: Services, words: Words) -> Callable[..., Awaitable[web.StreamResponse]]:
    @web.middleware
    async def wrap(request: web.Request, handler: _Endpoint) -> web.StreamResponse:
        request_id = _request_id(request)
        started = services.clock.monotonic()
        log = _log.bind(correlation_id=request_id, method=request.method, path=request.path)
        try:
            response = await handler(request)
        except CellwardError as error:
            log.info("request-refused", code=error.code, reason=error.message)
            response = problem_response(error, request_id)
            if isinstance(error, Unauthenticated) or error.code == TOO_SLOW.code:
                # Whoever shows no token in force keeps no place either; nor is the rest of a body waited for.
                response.force_close()
        except web.HTTPException as exception:
            known = error_of(exception, request.path)
            if known is None:
                raise
            response = problem_response(known, request_id)
        except Exception:
            # V16: our own mistake costs one request; its text stays in the log.
            log.exception("request-failed")
            response = problem_response(INTERNAL("internal error"), request_id)
        spent = response.status == web.HTTPTooManyRequests.status_code
        if _PROVEN_KEY not in request and (words.last(request) or spent):
            response.force_close()
        if not response.prepared:
            response.headers[REQUEST_ID] = request_id
            response.headers["Cache-Control"] = "no-store"
            response.headers["X-Content-Type-Options"] = "nosniff"
        _observe(services, request, response.status, services.clock.monotonic() - started)
        return response

    return wrap


def _endpoint(route: Route, services: Services, bounds: _Bounds) -> _Endpoint:
    async def answer(request: web.Request) -> web.StreamResponse:
        principal = ANONYMOUS
        if route.role is not None:
            principal = await enter(request, services)
            request[_PROVEN_KEY] = True
        call = Call(
            request, services, principal, _request_id(request), bounds.rates, subject=request.path, action=route.action
        )
        async with AsyncExitStack() as room:
            if not route.action:
                return _respond(route, await _handle(route, call, bounds, room))
            return await _audited(route, call, bounds, room)

    return answer


async def _handle(route: Route, call: Call, bounds: _Bounds, room: AsyncExitStack) -> Answer:
    who, kept = call.principal, route.role is None or call.principal.role == "admin"
    if route.role is not None:
        require(who, route.role)
        if route.reach == "whole":
            require_unbound(who)
        if route.action:
            call.rates.mutation(who)
    call.parameters = read_query(call.request, route.query)
    if route.request is not None:
        body = await bounds.bodies.read(
            call.request,
            limit_of(route, call.services),
            who.subject,
            kept=kept,
            count=lambda size: call.rates.bytes(who, size),
            room=room,
        )
        call.payload = await bounds.parser.parse(body, route.request)
    with bounds.turns.take(who.subject, kept=kept):
        return await route.handler(call)


async def _audited(route: Route, call: Call, bounds: _Bounds, room: AsyncExitStack) -> web.StreamResponse:
    """Handle a mutation; its record is durable with it, and before anything is answered (V13)."""
    try:
        answer = await _handle(route, call, bounds, room)
    except CellwardError as error:
        decision = "deny" if isinstance(error, Denied | Refused) else "failed"
        await _record(route, call, decision, code=error.code, reason=error.message)
        raise
    except Exception as error:
        # Whatever it was, something was tried; its text stays in the log.
        known = error_of(error, call.request.path) if isinstance(error, web.HTTPException) else None
        known = known or INTERNAL("internal error")
        await _record(route, call, "failed", code=known.code, reason=known.message)
        raise
    if not call.committed:
        # It changed nothing: a trial.
        await call.services.store.audit.put_events([call.event("done", reason=call.reason)])
    return _respond(route, answer)


async def _record(route: Route, call: Call, decision: str, *, code: str = "", reason: str = "") -> None:
    # What came to nothing costs its sender nothing: some of it is recorded, the rest is counted.
    suppressed = call.rates.refused(call.principal, route.action, code)
    if suppressed is None:
        _unrecorded(call, code)
        return
    if suppressed:
        call.details["suppressed"] = str(suppressed)
    await call.services.store.audit.put_events([call.event(decision, code=code, reason=reason)])


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
