"""Error codes of names, keys, requests and certificates."""

from __future__ import annotations

from cellward.errors import InvalidInput, Unauthenticated, define

BAD_NAME = define(
    "identity/bad-name",
    InvalidInput,
    "A SPIFFE ID or a part of it is malformed.",
    hint="Names are RFC 1123 labels: lower-case letters, digits and hyphens, 1 to 63 characters.",
)
BAD_KEY = define(
    "identity/bad-key",
    InvalidInput,
    "A key is malformed or of a kind that is not accepted here.",
    hint="TLS keys are EC P-256, statement and log keys are Ed25519.",
)
BAD_PASSPHRASE = define(
    "identity/bad-passphrase",
    InvalidInput,
    "A private key cannot be opened with the passphrase given.",
    hint="Give the passphrase the key was created with; it cannot be recovered.",
)
BAD_REQUEST = define(
    "identity/bad-request",
    InvalidInput,
    "A certificate signing request is malformed or does not prove possession of its key.",
    hint="Send a DER PKCS#10 request, at most 4 KiB, for an EC P-256 key and signed by that key.",
)
BAD_CERTIFICATE = define(
    "identity/bad-certificate",
    InvalidInput,
    "A certificate or bundle of certificates cannot be read.",
    hint="Give PEM certificates.",
)
UNTRUSTED = define(
    "identity/untrusted",
    Unauthenticated,
    "The peer's certificate was not issued by a certificate authority trusted here.",
    hint="Join again with a token of this hub.",
)
EXPIRED = define(
    "identity/expired",
    Unauthenticated,
    "The peer's certificate is not valid at this time.",
    hint="Renew the certificate and open a new connection; check the clocks of both sides.",
)
WRONG_SHAPE = define(
    "identity/wrong-shape",
    Unauthenticated,
    "The peer's certificate does not have the shape that identities have here.",
    hint="An identity has exactly one URI name, the right key usage, and is not an authority.",
)
WRONG_IDENTITY = define(
    "identity/wrong-identity",
    Unauthenticated,
    "Not authorized: the peer's certificate names another identity.",
    hint="Use the certificate of an agent of this installation.",
)
BAD_LOCK = define(
    "identity/bad-lock",
    InvalidInput,
    "This cannot be locked.",
    hint="Give cluster/NAME, agent/UID, serial/HEX or key/SHA256; see `cellward locks` and `cellward clusters list`.",
)
BAD_NONCE = define(
    "identity/bad-nonce",
    InvalidInput,
    "A nonce has another length than it must have, so nothing was signed.",
    hint="Hub and agent must be of the same version; otherwise somebody asks for a signature on something else.",
)
