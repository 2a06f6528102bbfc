"""What the rest of the agent may ask of an API server.

Every call has a time limit and raises only errors of ``agent.kube.errors``. Objects are plain JSON dictionaries; what
is passed in is never changed.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, NamedTuple, Protocol

JSONObject = dict[str, Any]


class ObjectRef(NamedTuple):
    """Which object; ``namespace`` is empty for objects without one."""

    api_version: str
    kind: str
    namespace: str
    name: str

    def __str__(self) -> str:
        """Return "Kind/namespace/name" as refusals and records show it."""
        return f"{self.kind}/{self.namespace}/{self.name}" if self.namespace else f"{self.kind}/{self.name}"


def ref_of(obj: Mapping[str, Any]) -> ObjectRef:
    """Return the reference of a manifest or of an object the API server returned."""
    metadata = obj["metadata"]
    return ObjectRef(obj["apiVersion"], obj["kind"], metadata.get("namespace", ""), metadata["name"])


class WatchType(Enum):
    """What a watch event says; the last four carry no object.

    ``RESTARTED`` comes before every initial list, the first included: forget what was seen. ``SYNCED`` comes when the
    initial list is complete: what was not seen since ``RESTARTED`` does not exist. ``INTERRUPTED``: there is no
    connection at the moment, the watch goes on trying. ``RESUMED``: there is one again, and nothing was missed.
    """

    ADDED = "added"
    MODIFIED = "modified"
    DELETED = "deleted"
    RESTARTED = "restarted"
    SYNCED = "synced"
    INTERRUPTED = "interrupted"
    RESUMED = "resumed"


@dataclass(frozen=True, slots=True)
class WatchEvent:
    """One event; ``object`` is the whole object, after deletion its last state.

    ``reason`` and ``code``, one of kube/*, go with INTERRUPTED.
    """

    type: WatchType
    object: JSONObject
    reason: str = ""
    code: str = ""


class KubeApi(Protocol):
    """Typed operations on one API server (V2): no free paths, only the kinds of ``agent.kube.kinds``.

    ``as_user`` impersonates that user name. Errors: kube/unavailable, kube/throttled and kube/unauthenticated are
    worth a retry by the caller; kube/forbidden, kube/invalid, kube/immutable-field, kube/field-conflict, kube/quota and
    kube/not-found are not; kube/stale means read again.
    """

    async def apply(
        self,
        obj: Mapping[str, Any],
        *,
        manager: str,
        force: bool = False,
        dry_run: bool = False,
        as_user: str | None = None,
    ) -> JSONObject:
        """Server-side apply as a field manager; return the object as it is now (or would be)."""
        ...

    async def create_dry_run(self, obj: Mapping[str, Any], *, manager: str, as_user: str | None = None) -> JSONObject:
        """Dry-run a creation with strict field validation: unlike apply it names unknown fields cleanly."""
        ...

    async def get(self, ref: ObjectRef, *, as_user: str | None = None) -> JSONObject:
        """Return one object; raises kube/not-found."""
        ...

    async def list(
        self, api_version: str, kind: str, *, namespace: str = "", label_selector: str = "", as_user: str | None = None
    ) -> tuple[JSONObject, ...]:
        """Return all objects of a kind, over all namespaces when none is given."""
        ...

    def list_metadata(
        self, api_version: str, kind: str, *, namespace: str, label_selector: str = ""
    ) -> AsyncIterator[JSONObject]:
        """Yield all objects of a kind in a namespace with their metadata alone, in small pages.

        Whoever may write there decides how large objects are and how many.
        """
        ...

    async def delete(
        self,
        ref: ObjectRef,
        *,
        propagation: str = "Background",
        uid: str = "",
        resource_version: str = "",
        as_user: str | None = None,
    ) -> None:
        """Delete one object, only if it still is the one with this uid and version; raises kube/not-found."""
        ...

    async def patch_json(
        self,
        ref: ObjectRef,
        operations: Sequence[Mapping[str, Any]],
        *,
        manager: str,
        as_user: str | None = None,
    ) -> JSONObject:
        """Apply a JSON patch (RFC 6902); replacing /metadata/resourceVersion makes it optimistic (kube/stale)."""
        ...

    def watch(
        self,
        api_version: str,
        kind: str,
        *,
        label_selector: str = "",
        namespace: str = "",
        field_selector: str = "",
        as_user: str | None = None,
    ) -> AsyncIterator[WatchEvent]:
        """Watch a kind for ever, reconnecting with full jitter; ends only by cancellation.

        Over all namespaces when none is given.
        """
        ...

    async def served_versions(self, api_version: str, kind: str) -> tuple[str, ...]:
        """Return the versions, as "v1", in which the API server serves a kind of a group; none when it is not there."""
        ...

    async def close(self) -> None:
        """Close all connections."""
        ...
