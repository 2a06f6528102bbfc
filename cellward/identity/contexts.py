"""TLS contexts of the standard library: HTTP between people, CLI and hub, and clients of servers that are not ours.

Between our own programs it is TLS 1.3 only. ``ssl`` reads keys from files only; they are handed over through anonymous
memory, so a private key never touches a disk.

Since Python 3.13 the default context demands what RFC 5280 does (``VERIFY_X509_STRICT``): key identifiers, key usages,
critical basic constraints. Many API servers and databases have certificates without them, and neither clients written
in Go nor libpq ask for them. So what is demanded of servers that are not ours is said here, once, the same on every
Python: chain, signature, time and name are verified as always; only the form is not demanded.
"""

from __future__ import annotations

import os
import ssl

from cellward.identity.errors import BAD_CERTIFICATE


def server_context(chain_pem: bytes, key_pem: bytes) -> ssl.SSLContext:
    """Context of a server with this leaf; ``load_leaf`` swaps it later. Raises identity/bad-certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.set_alpn_protocols(["http/1.1"])
    load_leaf(context, chain_pem, key_pem)
    return context


def load_leaf(context: ssl.SSLContext, chain_pem: bytes, key_pem: bytes) -> None:
    """Put a leaf and its key into a live context; new connections use it.

    Raises identity/bad-certificate, and then the context is as it was.
    """
    # OpenSSL takes the chain before it looks at the key, so a pair that does not fit is tried where it breaks nothing.
    _load(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), chain_pem, key_pem)
    _load(context, chain_pem, key_pem)


def _load(context: ssl.SSLContext, chain_pem: bytes, key_pem: bytes) -> None:
    descriptor = os.memfd_create("cellward-leaf", os.MFD_CLOEXEC)
    try:
        with os.fdopen(descriptor, "wb", closefd=False) as file:
            file.write(chain_pem + key_pem)
        context.load_cert_chain(f"/proc/self/fd/{descriptor}")
    except ssl.SSLError:
        raise BAD_CERTIFICATE("the certificate and its key cannot be loaded, or do not belong together") from None
    finally:
        os.close(descriptor)


def client_context(authorities_pem: bytes) -> ssl.SSLContext:
    """Context of a client that trusts these authorities and no others, not even the system's.

    Raises identity/bad-certificate.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    try:
        context.load_verify_locations(cadata=authorities_pem.decode("ascii"))
    except (ssl.SSLError, UnicodeDecodeError):
        raise BAD_CERTIFICATE("the PEM holds no readable certificate authority") from None
    return context


def outside_context(authorities_file: str | None = None) -> ssl.SSLContext:
    """Context of a client of a server that is not ours; without a file it trusts the system's authorities.

    Raises OSError or ssl.SSLError for a file that cannot be used.
    """
    context = ssl.create_default_context(cafile=authorities_file)
    demand_no_form(context)
    return context


def demand_no_form(context: ssl.SSLContext) -> None:
    """Make a client context take certificates as clients in the field do, whatever this Python's defaults are.

    A trust bundle may hold an intermediate authority alone, as Go's certificate pools allow.
    """
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
