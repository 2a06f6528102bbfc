"""Every way an upload can be refused."""

from __future__ import annotations

from cellward.errors import Conflict, Exhausted, InvalidInput, NotFound, Refused, define

UNKNOWN_DOCUMENT = define(
    "fleet/unknown-document",
    NotFound,
    "There is no document of this digest.",
    hint="Upload it with `cellward apply`.",
)
BAD_DOCUMENT = define(
    "fleet/bad-document",
    InvalidInput,
    "An uploaded document cannot be read, so nothing of the upload was kept.",
    hint="Upload DSSE envelopes as `cellward apply` makes them.",
)
DOCUMENT_TOO_LARGE = define(
    "fleet/document-too-large",
    InvalidInput,
    "An uploaded document is larger than the hub carries, so nothing of the upload was kept.",
    hint="Split the cell, or move configuration out of it.",
)
FOREIGN_REALM = define(
    "fleet/foreign-realm",
    Refused,
    "The document or root belongs to another installation.",
    hint="Check which hub you are logged in to, and which trust.yaml you use.",
)
NO_REALM = define(
    "fleet/no-realm",
    Conflict,
    "This hub has no root of trust yet.",
    hint="Run `cellward init` once against this hub.",
)
REALM_ADOPTED = define(
    "fleet/realm-adopted",
    Conflict,
    "This hub has adopted another root of trust; the first one stays.",
    hint="Use the trust.yaml made by the first `cellward init`, or set up another hub.",
)
UNVERIFIED_DOCUMENT = define(
    "fleet/unverified-document",
    Refused,
    "Verification failed: no signature of an uploaded document is valid by the keyring this hub "
    "serves, so nothing of the upload was kept.",
    hint="Sign with a key of the keyring whose scope covers the document; `cellward keys list` shows yours. "
    "Agents would refuse it too.",
)
NO_KEYRING = define(
    "fleet/no-keyring",
    Conflict,
    "This hub serves no keyring yet, so no document can be verified.",
    hint="Publish policy first with `cellward policy publish`.",
)
PROJECT_FULL = define(
    "fleet/project-full",
    Exhausted,
    "The quota of the project on this hub is used up, so nothing of the upload was kept.",
    hint="Delete cells that are not needed, upload less at a time of what waits for signatures, or ask for higher "
    "limits in the hub's settings.",
)
SEQUENCE_TAKEN = define(
    "fleet/sequence-taken",
    Conflict,
    "Another document has this sequence already, so nothing of the upload was kept.",
    hint="Conflict: another Deployment was uploaded in between; run `cellward apply` again.",
)
