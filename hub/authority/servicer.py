"""The Enrolment service over gRPC: reads a message, asks the identity service, answers. Decides nothing itself.

Refusals leave as CellwardError; the guard around every handler turns them into a status.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import grpc.aio

from cellward.wire.v1 import enrolment_pb2, enrolment_pb2_grpc
from hub.authority.errors import RECOVER_NOT_OFFERED
from hub.authority.limits import address_of
from hub.authority.model import Attempt
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
        joined = await self._service.join(attempt)
        return enrolment_pb2.JoinResponse(
            certificate_chain_pem=joined.certificate.chain_pem.decode("ascii"),
            hub_ca_pem=self._service.authority.hub_ca_pem.decode("ascii"),
            trust_domain=joined.trust_domain,
            link_address=self._link_address(),
            generation=joined.certificate.generation,
            cluster_name=joined.cluster,
        )

    async def Recover(  # noqa: N802 - the generated name
        self,
        request: enrolment_pb2.RecoverRequest,  # noqa: ARG002
        context: grpc.aio.ServicerContext[Any, Any],  # noqa: ARG002
    ) -> enrolment_pb2.RecoverResponse:
        """Refuse: recovery comes with a later release (roadmap 4)."""
        raise RECOVER_NOT_OFFERED("recovery of an expired identity is not offered by this hub")
