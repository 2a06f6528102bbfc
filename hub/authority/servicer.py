"""The Enrolment service over gRPC: reads a message, asks the identity service, answers. Decides nothing itself.

Refusals leave as CellwardError; the guard around every handler turns them into a status.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import grpc.aio

from cellward.wire.v1 import enrolment_pb2, enrolment_pb2_grpc
from hub.authority.limits import address_of
from hub.authority.model import Attempt, Joined, RecoveryAttempt
from hub.authority.service import IdentityService


class EnrolmentServicer(enrolment_pb2_grpc.EnrolmentServicer):
    """Join and Recover, on the port that asks for no client certificate."""

    def __init__(self, service: IdentityService, link_address: Callable[[], str]) -> None:
        self._service = service
        self._link_address = link_address

    async def Join(  # noqa: N802 - the generated name
        self, request: enrolment_pb2.JoinRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> enrolment_pb2.JoinResponse:
        """Spend a token by one public key."""
        attempt = Attempt(
            token=request.token,
            csr_der=request.csr_der,
            realm=request.realm,
            cluster_uid=request.cluster_uid,
            statement_spki_der=request.statement_spki_der,
            address=address_of(context.peer()),
        )
        return self._identity(await self._service.join(attempt))

    async def Recover(  # noqa: N802 - the generated name
        self, request: enrolment_pb2.RecoverRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> enrolment_pb2.RecoverResponse:
        """Give a nonce, or a certificate to whoever has it signed by the bound key."""
        attempt = RecoveryAttempt(
            cluster_uid=request.cluster_uid,
            csr_der=request.csr_der,
            address=address_of(context.peer()),
            nonce=request.nonce,
            signature=request.signature,
            bound_spki_der=request.bound_spki_der,
        )
        answer = await self._service.recover(attempt)
        if isinstance(answer, bytes):
            return enrolment_pb2.RecoverResponse(nonce=answer)
        return enrolment_pb2.RecoverResponse(identity=self._identity(answer))

    def _identity(self, joined: Joined) -> enrolment_pb2.JoinResponse:
        return enrolment_pb2.JoinResponse(
            certificate_chain_pem=joined.certificate.chain_pem.decode("ascii"),
            hub_ca_pem=self._service.authority.hub_ca_pem.decode("ascii"),
            trust_domain=joined.trust_domain,
            link_address=self._link_address(),
            generation=joined.certificate.generation,
            cluster_name=joined.cluster,
        )
