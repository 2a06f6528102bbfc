"""What may befall a call to the hub, as errors of ours, so that each caller has one thing to expect."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator

import grpc.aio

from agent.link.errors import HUB_UNAVAILABLE
from cellward.runtime.tasks import is_being_cancelled
from cellward.wire import status


@contextlib.contextmanager
def hub_call(what: str) -> Iterator[None]:
    """Turn every way in which gRPC ends a call into a CellwardError.

    A channel that is closed under a call makes gRPC raise CancelledError in whoever reads or writes, although nobody
    cancelled that task: a task group would take it for an ordinary end, and what ran there would be gone for good. A
    hub can bring that about by stalling a call until the certificate is renewed.

    Raises:
        CellwardError: what the hub said, or ``link/hub-unavailable`` when the call ended without a word of it.
    """
    try:
        yield
    except grpc.aio.AioRpcError as error:
        raise status.error_of(error) from error
    except asyncio.CancelledError as error:
        if is_being_cancelled():
            raise
        raise HUB_UNAVAILABLE(f"the connection was closed during {what}") from error
    except grpc.aio.UsageError as error:
        # A channel that was closed before the call began.
        raise HUB_UNAVAILABLE(f"the connection was closed before {what}") from error
    except asyncio.InvalidStateError as error:
        # gRPC's word for writing to a stream that the hub has ended in the meantime.
        raise HUB_UNAVAILABLE(f"the hub ended {what} while something was being sent") from error
