"""Error codes of documents: what is wrong with bytes, an envelope, a kind, a signature, an order in time."""

from __future__ import annotations

from cellward.errors import InvalidInput, Refused, TooNew, define

_RESIGN = "Build and sign the document with the cellward CLI instead of writing it by hand."
_UPGRADE = "Upgrade what refuses it, or sign the document without the newer feature."

TOO_LARGE = define(
    "document/too-large", InvalidInput, "The document is larger than the bound.", hint="Make it smaller."
)
TOO_DEEP = define("document/too-deep", InvalidInput, "The document is nested too deeply.", hint="Reduce its nesting.")
NOT_JSON = define("document/not-json", InvalidInput, "The document is not valid JSON in UTF-8.", hint=_RESIGN)
DUPLICATE_KEY = define("document/duplicate-key", InvalidInput, "A JSON object names a key twice.", hint=_RESIGN)
BAD_VALUE = define(
    "document/unsupported-value", InvalidInput, "The document has a value canonical JSON does not take.", hint=_RESIGN
)
NOT_CANONICAL = define(
    "document/not-canonical", InvalidInput, "The bytes are not the canonical form of what they say.", hint=_RESIGN
)
BAD_ENVELOPE = define("document/bad-envelope", InvalidInput, "The envelope is not a DSSE envelope.", hint=_RESIGN)
TOO_MANY_SIGNATURES = define(
    "document/too-many-signatures", InvalidInput, "The envelope has more signatures than the bound.",
    hint="Keep the signatures that are needed.",
)  # fmt: skip
BAD_KEY = define(
    "document/bad-key", InvalidInput, "The key cannot be read or is of a kind that is not supported.",
    hint="Use an Ed25519 key in PKCS8 PEM, as `cellward init` makes it.",
)  # fmt: skip
BAD_PASSPHRASE = define(
    "document/bad-passphrase", InvalidInput, "The passphrase does not open the key.",
    hint="Give the passphrase the key was made with.",
)  # fmt: skip
MALFORMED = define("document/malformed", InvalidInput, "A field of the document is missing or malformed.", hint=_RESIGN)
BAD_NAME = define(
    "document/bad-name", InvalidInput, "A name is not allowed.",
    hint="Use RFC 1123 labels without '--': project up to 20, cell up to 24, environment up to 12 characters.",
)  # fmt: skip
EMPTY_SELECTOR = define(
    "document/empty-selector", InvalidInput, "The selector names nothing, so it would select nothing.",
    hint="Say what it selects, or `all: true`.",
)  # fmt: skip
WRONG_KIND = define(
    "document/wrong-kind", InvalidInput, "The document is of another kind than the one expected.",
    hint="Give the digest of a document of the right kind.",
)  # fmt: skip
BAD_KEYRING = define(
    "document/bad-keyring", InvalidInput, "The keyring is malformed.", hint="Publish a corrected keyring."
)
NO_FLOOR_VALUE = define(
    "document/bad-floor", InvalidInput, "A floor or a time to compare is malformed.", hint="Report this as a bug."
)

UNKNOWN_TYPE = define("document/unknown-type", TooNew, "The payload type is not one this version knows.", hint=_UPGRADE)
UNKNOWN_SCHEMA = define("document/unknown-schema", TooNew, "The schema is not one this version knows.", hint=_UPGRADE)
UNKNOWN_FIELD = define(
    "document/unknown-field", TooNew, "The document has a field this version does not know.", hint=_UPGRADE
)
UNMET_REQUIREMENT = define(
    "document/unmet-requirement", TooNew, "The document requires a feature this version does not have.", hint=_UPGRADE
)
UNKNOWN_SCHEME = define(
    "document/unknown-scheme", TooNew, "The signature scheme is not one this version knows.", hint=_UPGRADE
)

BAD_REVOCATIONS = define(
    "document/bad-revocations", InvalidInput, "The signed revocations are malformed.",
    hint="Write them with `cellward lock --signed` or `cellward quarantine --signed`.",
)  # fmt: skip
WRONG_REALM = define(
    "document/wrong-realm", Refused, "The document belongs to another realm.",
    hint="Sign it with the trust.yaml of this installation.",
)  # fmt: skip
EXPIRED = define("document/expired", Refused, "The document is past its notAfter.", hint="Sign a new one.")
ISSUED_AHEAD = define(
    "document/issued-in-the-future", Refused, "The document was issued ahead of this clock.",
    hint="Check the clocks of the author's machine and of the cluster.",
)  # fmt: skip
NO_VALID_SIGNATURE = define(
    "document/no-valid-signature", Refused, "No signature is by an author whose scope covers the document.",
    hint="Sign with a key that the keyring gives this kind, project and every environment.",
)  # fmt: skip
THRESHOLD_NOT_MET = define(
    "document/threshold-not-met", Refused, "Too few distinct owners signed the document.",
    hint="Have another owner sign it as well.",
)  # fmt: skip
OLDER_SEQUENCE = define(
    "document/older-sequence", Refused, "A newer Deployment was accepted already.",
    hint="To go back, sign a new Deployment with a higher sequence that names the older release.",
)  # fmt: skip
EQUAL_SEQUENCE = define(
    "document/equal-sequence-other-digest", Refused, "Another Deployment with the same sequence was accepted already.",
    hint="Sign with the next sequence, and find out who signed the other one.",
)  # fmt: skip
OLDER_ISSUE = define(
    "document/issued-before", Refused, "It was issued before the Deployment or tombstone that is in force here.",
    hint="Sign it again. If somebody else signed it, find out why he knew nothing of what is in force.",
)  # fmt: skip
BEFORE_MINIMUM = define(
    "document/below-minimum", Refused, "It was issued before what a cluster without memory of the cell may accept.",
    hint="Sign it again; the signed minimumIssuedAt says from when on.",
)  # fmt: skip
NUMBER_AHEAD = define(
    "document/number-ahead", Refused, "A number is more than ten minutes ahead of this clock.",
    hint="Check the clock of the machine that signed. If a key was stolen, revoke it.",
)  # fmt: skip
CLOCK_AHEAD = define(
    "document/clock-jumped-ahead", Refused, "The clock jumped ahead, against the time that has passed here.",
    hint="Correct the clock of the machine. If it is right, nothing is to be done: it is accepted after an hour.",
)  # fmt: skip
CLOCK_BACK = define(
    "document/clock-stepped-back", Refused, "The clock is more than five minutes behind what it was.",
    hint="Correct the clock of the machine.",
)  # fmt: skip
