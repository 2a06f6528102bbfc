"""What a Hello may say: it is compared with what the certificate is bound to; nothing in it is believed."""

from __future__ import annotations

import re

from cellward.identity.keys import spki_digest
from cellward.identity.x509 import PeerIdentity
from cellward.wire.bounds import MAX_CHECKPOINT, MAX_HELLO_TEXT
from cellward.wire.codec import facts_from_wire
from cellward.wire.errors import BAD_MESSAGE
from cellward.wire.v1 import link_pb2
from hub.authority.errors import NOT_BOUND
from hub.store.interfaces import ClusterRow
from hub.sync.errors import HELLO_REFUSED

#: Most features or schemas.
_MAX_LIST = 128
_TEXTS = (
    "realm",
    "boot_id",
    "hub_epoch",
    "items_digest",
    "floors_digest",
    "agent_version",
    "opa_version",
    "capabilities_digest",
    "statement_keyid",
    "platform_uid",
    "platform_ca",
)
_MAX_UID = 64
_SHA256 = re.compile(r"[0-9a-f]{64}\Z")


def check_hello(peer: PeerIdentity, binding: ClusterRow | None, hello: link_pb2.Hello, realm: str) -> ClusterRow:
    """Return the binding, or refuse a Hello that does not fit the peer (V3).

    Raises authority/not-bound, link/hello-refused, wire/bad-message.
    """
    if binding is None or not binding.uid:
        raise NOT_BOUND(f"nobody joined as {peer.name}", cluster=peer.name)
    check_bounds(peer, hello)
    if hello.realm != realm:
        raise HELLO_REFUSED("the agent belongs to another realm", cluster=peer.name)
    if hello.facts.uid != binding.uid:
        raise HELLO_REFUSED(f"the agent's uid is not the one bound to cluster {peer.name}", cluster=peer.name)
    if hello.statement_keyid != spki_digest(binding.statement_spki):
        raise HELLO_REFUSED(f"the agent's statement key is not the one bound to cluster {peer.name}", cluster=peer.name)
    return binding


def check_bounds(peer: PeerIdentity, hello: link_pb2.Hello) -> None:
    """Refuse a Hello with fields beyond their bounds; raises wire/bad-message."""
    facts_from_wire(peer.name, hello.facts)
    texts = [getattr(hello, name) for name in _TEXTS] + [*hello.features, *hello.schemas]
    if any(len(text) > MAX_HELLO_TEXT for text in texts) or len(hello.last_checkpoint) > MAX_CHECKPOINT:
        raise BAD_MESSAGE("a field of Hello is too long")
    if max(len(hello.features), len(hello.schemas), len(hello.policy.bundles)) > _MAX_LIST:
        raise BAD_MESSAGE("a list in Hello is too long")
    if not hello.boot_id:
        raise BAD_MESSAGE("Hello has no boot id")
    if not hello.platform_uid.isascii() or len(hello.platform_uid) > _MAX_UID:
        raise BAD_MESSAGE("the uid of the cluster's namespace is malformed")
    if hello.platform_ca and not _SHA256.match(hello.platform_ca):
        raise BAD_MESSAGE("the digest of the API server's authority is malformed")
