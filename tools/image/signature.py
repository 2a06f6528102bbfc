"""A signature over an image's digest by a key of one's own, in the form that cosign attaches and verifies.

Specification: cosign's simple signing (``SIGNATURE_SPEC.md``): ECDSA P-256 with SHA-256 over the payload, in base64.
"""

from __future__ import annotations

import base64
import json
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, SECP256R1, EllipticCurvePrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from tools.image.errors import BAD_KEY


def payload(repository: str, digest: str) -> bytes:
    """Return what is signed about an image."""
    document = {
        "critical": {
            "identity": {"docker-reference": repository},
            "image": {"docker-manifest-digest": digest},
            "type": "cosign container image signature",
        },
        "optional": None,
    }
    return json.dumps(document, separators=(",", ":")).encode()


def sign(data: bytes, key: EllipticCurvePrivateKey) -> bytes:
    """Return the signature in base64."""
    return base64.b64encode(key.sign(data, ECDSA(hashes.SHA256())))


def load_key(path: Path) -> EllipticCurvePrivateKey:
    """Read an unencrypted PEM file.

    Raises:
        CellwardError: image/bad-key.
    """
    try:
        key = load_pem_private_key(path.read_bytes(), None)
    except OSError as error:
        raise BAD_KEY(f"{path}: {error.strerror}") from error
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise BAD_KEY(f"{path} is no unencrypted private key in PEM") from error
    if not isinstance(key, EllipticCurvePrivateKey) or not isinstance(key.curve, SECP256R1):
        raise BAD_KEY(f"{path} is no ECDSA key on P-256")
    return key
