"""One wrapper around every handler of every listener: default deny, identity first, stable errors last.

A gRPC interceptor sees a method and its metadata, never the connection; so what it does here is to replace each
handler by a wrapped one, which sees the connection. A method that is not on the list is denied, whether or not it has
a handler.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable
from typing import Any

import grpc
import grpc.aio
import structlog

from cellward.errors import CellwardError
from cellward.identity.x509 import PeerIdentity
from cellward.runtime.tasks import first_of, heard
from cellward.wire import status
from cellward.wire.errors import BAD_MESSAGE
from hub.authority.errors import TOO_MANY_ATTEMPTS
from hub.authority.limits import address_of
from hub.sync.errors import SILENT, UNEXPECTED, UNKNOWN_METHOD
from hub.sync.gate import Live, PeerGate, check_transport
from hub.sync.refusals import Refusals

_Context = grpc.aio.ServicerContext[Any, Any]
_log = structlog.get_logger()
#: Seconds a peer that does not read has to take the reason its call is ended.
_LAST_WORDS = 2.0
#: Seconds an agent's call may wait for its one message.
_PATIENCE = 10.0


#: Methods that say themselves what becomes of a key that another one has followed.
_ASK_THEMSELVES = frozenset({"/cellward.wire.v1.Link/Sync", "/cellward.wire.v1.Identity/Renew"})

#: Hears of each call that ended: its method without the service's package, and ``ok`` or an error code.
Observe = Callable[[str, str], None]


def unobserved(_: str, __: str) -> None:
    """Count nothing."""


class Strangers:
    """Reads the one message of calls whose peers nobody knows: soon, or the call ends.

    gRPC begins a call with its headers and then waits for the message for ever; calls that only begin would take every
    place there is.
    """

    def __init__(self, seconds: float, per_address: int) -> None:
        self._seconds = seconds
        self._per_address = per_address
        self._silent: Counter[str] = Counter()

    async def first(self, context: _Context) -> Any:
        """Return the message. Raises link/silent, wire/bad-message, authority/too-many-attempts."""
        address = address_of(context.peer())
        if self._silent[address] >= self._per_address:
            raise TOO_MANY_ATTEMPTS(f"{self._per_address} calls from {address} have begun and said nothing")
        self._silent[address] += 1
        try:
            return await read_message(context, self._seconds)
        finally:
            self._silent[address] -= 1
            if not self._silent[address]:
                del self._silent[address]


async def read_message(context: _Context, seconds: float) -> Any:
    """Return the one message of a call. Raises link/silent, wire/bad-message."""
    try:
        async with asyncio.timeout(seconds):
            message = await context.read()
    except TimeoutError:
        raise SILENT(f"the call brought no message within {seconds:g} seconds") from None
    except Exception:  # noqa: BLE001 - bytes that do not parse; no trace of them in the log
        raise BAD_MESSAGE("the message of the call cannot be read") from None
    if message is grpc.aio.EOF:
        raise BAD_MESSAGE("the call ended without a message")
    return message


class Guard(grpc.aio.ServerInterceptor):
    """Lets listed methods through: for peers the gate admits, or for strangers, who get single calls only."""

    def __init__(
        self,
        methods: Iterable[str],
        who: PeerGate | Strangers,
        observe: Observe = unobserved,
        refusals: Refusals | None = None,
        known: Callable[[str, PeerIdentity], None] | None = None,
    ) -> None:
        self._methods = frozenset(methods)
        self._gate = who if isinstance(who, PeerGate) else None
        self._strangers = who if isinstance(who, Strangers) else None
        self._observe = observe
        self._refusals = refusals
        #: Hears of each peer that was admitted: gRPC's text of it, and what it proved.
        self._known = known

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any]:
        """Replace the handler of a call by a guarded one."""
        method = handler_call_details.method
        handler = await continuation(handler_call_details) if method in self._methods else None
        if handler is None:
            return grpc.stream_stream_rpc_method_handler(_deny)
        if handler.request_streaming and handler.response_streaming and self._strangers is None:
            behaviour = self._streaming(method, handler.stream_stream)
        elif not handler.request_streaming and (self._strangers is None or not handler.response_streaming):
            behaviour = self._first_word(method, handler.unary_unary or handler.unary_stream)
        else:
            return grpc.stream_stream_rpc_method_handler(_deny)
        return grpc.stream_stream_rpc_method_handler(
            behaviour, handler.request_deserializer, handler.response_serializer
        )

    def _first_word(self, method: str, behaviour: Any) -> Any:
        # On the wire a call with one message looks the same, whichever shape its handler has; in this one nothing of it
        # is read before the peer was looked at.
        async def guarded(_: Any, context: _Context) -> None:
            async def work() -> None:
                request = await self._message(context)
                answers: AsyncIterator[Any] | Awaitable[Any] = behaviour(request, context)
                if isinstance(answers, Awaitable):
                    await context.write(await answers)
                    return
                async for answer in answers:
                    await context.write(answer)

            await self._run(method, work, context)

        return guarded

    def _streaming(self, method: str, behaviour: Any) -> Any:
        async def guarded(request: Any, context: _Context) -> None:
            async def work() -> None:
                # gRPC's two shapes of a streaming handler: one that yields, and one that writes.
                answers: AsyncIterator[Any] | Awaitable[None] = behaviour(request, context)
                if isinstance(answers, Awaitable):
                    await answers
                    return
                async for answer in answers:
                    await context.write(answer)

            await self._run(method, work, context)

        return guarded

    async def _message(self, context: _Context) -> Any:
        """Read the one message of a call."""
        if self._strangers is not None:
            return await self._strangers.first(context)
        return await read_message(context, _PATIENCE)

    async def _run(self, method: str, work: Callable[[], Coroutine[Any, Any, None]], context: _Context) -> None:
        outcome = "aborted"
        live: Live | None = None
        try:
            if self._gate is None:
                check_transport(context.auth_context())
                await work()
            else:
                live = await self._gate.admit(context.auth_context())
                if method not in _ASK_THEMSELVES:
                    await self._gate.check_newest(live)
                if self._known is not None:
                    self._known(context.peer(), live.peer)
                with self._gate.open(live, method):
                    await _until_cut(work, live)
            outcome = "ok"
        except (grpc.aio.AbortError, asyncio.CancelledError):
            raise
        except CellwardError as error:
            outcome = error.code
            if self._refusals is not None:
                cluster = live.peer.name if live is not None else error.details.get("cluster", "")
                await self._refusals.note(cluster, address_of(context.peer()), error)
            await _end(context, error)
        except Exception:  # noqa: BLE001 - the bottom of every call: logged whole, shown to nobody
            # V16: whatever a message made a handler do, the process lives, and a stranger learns nothing of it.
            _log.exception("handler-failed")
            outcome = UNEXPECTED.code
            await _end(context, UNEXPECTED("the call could not be handled"))
        finally:
            self._observe(method.rpartition("cellward.wire.v1.")[2], outcome)


async def _until_cut(work: Callable[[], Coroutine[Any, Any, None]], live: Live) -> None:
    """Run the work until it ends or the gate cuts it; raises the reason of the cut, after the work has stopped."""
    task: asyncio.Future[None] = asyncio.ensure_future(work())
    try:
        await first_of(task, live.cut)
        if live.cut.done() and not task.done():
            raise live.cut.result()
        await task
    finally:
        if not task.done():
            task.cancel()
            await asyncio.wait({task})
        heard(task)


async def _end(context: _Context, error: CellwardError) -> None:
    async with asyncio.timeout(_LAST_WORDS):
        await status.abort(context, error)


async def _deny(_: Any, context: _Context) -> None:
    await _end(context, UNKNOWN_METHOD("there is no such call on this port"))
