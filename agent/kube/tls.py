"""TLS to the API server: how much is buffered, and what is said when its certificate is refused.

What is demanded of the certificate stands in ``cellward.identity.contexts``.
"""

from __future__ import annotations

import asyncio.sslproto
import ssl
from typing import Final

import aiohttp

from agent.kube.errors import KUBE_BAD_CERTIFICATE, KUBE_UNAVAILABLE
from cellward.errors import CellwardError

#: What a request to the API server raises when no answer comes.
NETWORK_ERRORS: Final = (aiohttp.ClientError, TimeoutError, OSError)
#: Bytes that are read from a TLS connection at once; a record of TLS holds no more than 16 KiB.
TLS_BUFFER: Final = 32 * 1024


def use_small_buffers() -> None:
    """Have asyncio keep less for each TLS connection of this process from now on.

    It keeps 256 KiB, written over with zeros when the connection is made: 10 MB for the 38 of an idle agent, which has
    one for each kind that it watches. Larger answers are read in more turns.
    """
    asyncio.sslproto.SSLProtocol.max_size = TLS_BUFFER


def network_error(what: str, error: Exception) -> CellwardError:
    """Return kube/bad-certificate when the server's certificate was refused, else kube/unavailable."""
    refused = _refused_certificate(error)
    if refused is not None:
        return KUBE_BAD_CERTIFICATE(f"{what}: {refused.verify_message or refused.reason}")
    return KUBE_UNAVAILABLE(f"{what}: {type(error).__name__}: {error}")


def _refused_certificate(error: BaseException) -> ssl.SSLCertVerificationError | None:
    # aiohttp's own error is one of ssl's too, by its class and without its fields.
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return _refused_certificate(error.certificate_error)
    return error if isinstance(error, ssl.SSLCertVerificationError) else None
