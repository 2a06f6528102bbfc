"""The real API server, over the HTTP session, TLS and credentials of ``kubernetes.aio``.

Its typed models and its dynamic client are not used: the models drop fields they do not know, and the dynamic client
walks discovery and cannot send a JSON patch. What remains is a path from a closed table and a dictionary.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode

import aiohttp
from aiohttp.connector import NEEDS_CLEANUP_CLOSED

from agent.kube.answers import error_of
from agent.kube.config import POOL_SIZE, load_configuration
from agent.kube.errors import KUBE_NOT_FOUND, KUBE_UNEXPECTED
from agent.kube.interfaces import JSONObject, ObjectRef, WatchEvent, ref_of
from agent.kube.kinds import KindInfo, collection_path, group_path, kind_of, object_path
from agent.kube.library import load_library
from agent.kube.tls import NETWORK_ERRORS, network_error, use_small_buffers
from agent.kube.watch import WatchLoop
from cellward.errors import CellwardError
from cellward.identity.contexts import demand_no_form
from cellward.runtime.clock import SystemClock, Timer

_APPLY: Final = "application/apply-patch+yaml"
_JSON: Final = "application/json"
_METADATA_ONLY: Final = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
_JSON_PATCH: Final = "application/json-patch+json"
#: Seconds for one request as a whole; webhooks may take ten of them each.
REQUEST_SECONDS: Final = 30.0
_CONNECT_SECONDS: Final = 5.0
#: Bookmarks come about once a minute: a watch that is silent for so long has lost its other end.
_WATCH_SILENCE_SECONDS: Final = 180.0
#: Objects per page of a list.
_PAGE: Final = 500
#: The same where somebody else decides how large they are; metadata may take most of the 1.5 MB of an object.
_SMALL_PAGE: Final = 20
_TURNS_TO_CLOSE: Final = 4
#: Watches that are opened at once. Most kinds that are watched for are on no one cluster: asked for all together they
#: would have a connection each, and memory for that stays.
_OPENING: Final = 4


class KubeClient:
    """Satisfies ``KubeApi``; make it with ``connect``."""

    def __init__(self, api: Any, connector: aiohttp.TCPConnector, timer: Timer, authority_sha256: str = "") -> None:
        self._api = api
        #: Digest of the authority the API server is trusted by, hex; empty when that is the system's.
        self.authority_sha256 = authority_sha256
        self._connector = connector
        self._timer = timer
        self._opening = asyncio.Semaphore(_OPENING)

    @classmethod
    async def connect(cls, kubeconfig: Path | None, *, timer: Timer | None = None) -> KubeClient:
        """Load credentials; the first request comes with the first call. Raises kube/no-credentials."""
        use_small_buffers()
        configuration = await load_configuration(kubeconfig)
        api = load_library().ApiClient(configuration)
        demand_no_form(api.rest_client.ssl_context)
        # Where Python needs it, connections that were cut while they said goodbye in TLS are cleaned up.
        connector = aiohttp.TCPConnector(
            limit=POOL_SIZE, ssl=api.rest_client.ssl_context, enable_cleanup_closed=NEEDS_CLEANUP_CLOSED
        )
        configuration.client_session_kwargs["connector"] = connector
        authority = await asyncio.to_thread(_digest_of, configuration.ssl_ca_cert)
        return cls(api, connector, timer if timer is not None else SystemClock(), authority)

    async def close(self) -> None:
        """Close all connections."""
        await self._api.close()
        await self._connector.close()
        # A connection that was cancelled in its TLS handshake is torn down in the loop's next turns.
        for _ in range(_TURNS_TO_CLOSE):
            await asyncio.sleep(0)

    async def apply(
        self,
        obj: Mapping[str, Any],
        *,
        manager: str,
        force: bool = False,
        dry_run: bool = False,
        as_user: str | None = None,
    ) -> JSONObject:
        """Server-side apply."""
        ref = ref_of(obj)
        query = {"fieldManager": manager, "fieldValidation": "Strict", "force": "true" if force else "false"}
        if dry_run:
            query["dryRun"] = "All"
        path = f"{object_path(ref)}?{urlencode(query)}"
        return await self._call(
            "PATCH", path, f"apply {ref}", ref=ref, body=dict(obj), content_type=_APPLY, as_user=as_user
        )

    async def create_dry_run(self, obj: Mapping[str, Any], *, manager: str, as_user: str | None = None) -> JSONObject:
        """POST with dryRun and strict validation."""
        ref = ref_of(obj)
        object_path(ref)  # checks the namespace, which a POST to a collection would not
        query = {"fieldManager": manager, "fieldValidation": "Strict", "dryRun": "All"}
        path = f"{collection_path(kind_of(ref.api_version, ref.kind), ref.namespace)}?{urlencode(query)}"
        return await self._call("POST", path, f"create {ref} (dry run)", ref=ref, body=dict(obj), as_user=as_user)

    async def get(self, ref: ObjectRef, *, as_user: str | None = None) -> JSONObject:
        """GET one object."""
        return await self._call("GET", object_path(ref), f"get {ref}", ref=ref, as_user=as_user)

    async def list(
        self, api_version: str, kind: str, *, namespace: str = "", label_selector: str = "", as_user: str | None = None
    ) -> tuple[JSONObject, ...]:
        """GET a collection, page by page."""
        pages = self._pages(kind_of(api_version, kind), namespace, label_selector, limit=_PAGE, as_user=as_user)
        return tuple([item async for page in pages for item in page])

    async def list_metadata(
        self, api_version: str, kind: str, *, namespace: str, label_selector: str = ""
    ) -> AsyncIterator[JSONObject]:
        """GET a collection's metadata, page by page."""
        info = kind_of(api_version, kind)
        async for page in self._pages(info, namespace, label_selector, limit=_SMALL_PAGE, accept=_METADATA_ONLY):
            for item in page:
                yield {"apiVersion": api_version, "kind": kind, "metadata": item["metadata"]}

    async def _pages(
        self,
        info: KindInfo,
        namespace: str,
        label_selector: str,
        *,
        limit: int,
        accept: str = _JSON,
        as_user: str | None = None,
    ) -> AsyncIterator[Sequence[JSONObject]]:
        following = ""
        while True:
            query = {"limit": str(limit), "labelSelector": label_selector, "continue": following}
            path = f"{collection_path(info, namespace)}?{urlencode({k: v for k, v in query.items() if v})}"
            page = await self._call("GET", path, f"list {info.kind}", accept=accept, as_user=as_user)
            # The items of a list come without apiVersion and kind.
            yield [{**item, "apiVersion": info.api_version, "kind": info.kind} for item in page.get("items") or ()]
            following = page.get("metadata", {}).get("continue", "")
            if not following:
                return

    async def delete(
        self,
        ref: ObjectRef,
        *,
        propagation: str = "Background",
        uid: str = "",
        resource_version: str = "",
        as_user: str | None = None,
    ) -> None:
        """DELETE one object with preconditions."""
        conditions = {"uid": uid, "resourceVersion": resource_version}
        body = {
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "propagationPolicy": propagation,
            "preconditions": {key: value for key, value in conditions.items() if value},
        }
        await self._call("DELETE", object_path(ref), f"delete {ref}", ref=ref, body=body, as_user=as_user)

    async def patch_json(
        self,
        ref: ObjectRef,
        operations: Sequence[Mapping[str, Any]],
        *,
        manager: str,
        as_user: str | None = None,
    ) -> JSONObject:
        """JSON patch."""
        path = f"{object_path(ref)}?{urlencode({'fieldManager': manager, 'fieldValidation': 'Strict'})}"
        body = [dict(operation) for operation in operations]
        return await self._call(
            "PATCH", path, f"patch {ref}", ref=ref, body=body, content_type=_JSON_PATCH, as_user=as_user
        )

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
        """Watch for ever."""
        info = kind_of(api_version, kind)
        selectors = {"labelSelector": label_selector, "fieldSelector": field_selector}
        fixed = {name: value for name, value in selectors.items() if value}
        path = collection_path(info, namespace)

        async def open_stream(query: Mapping[str, str], seconds: float) -> aiohttp.ClientResponse:
            full = f"{path}?{urlencode({**query, **fixed})}"
            return await self._open(full, f"watch {info.kind}", seconds, as_user)

        return WatchLoop(info, open_stream, self._timer).events()

    async def served_versions(self, api_version: str, kind: str) -> tuple[str, ...]:
        """Ask discovery: the group's versions, and in each for the kind."""
        info = kind_of(api_version, kind)
        group = await self._found(group_path(info), f"discover {api_version}")
        served = []
        for version in _names(group.get("versions"), "version"):
            listed = await self._found(group_path(info, version), f"discover {kind}")
            if info.plural in _names(listed.get("resources"), "name"):
                served.append(version)
        return tuple(served)

    async def _found(self, path: str, what: str) -> JSONObject:
        """GET what may not be there; nothing then."""
        try:
            return await self._call("GET", path, what)
        except CellwardError as error:
            if error.code != KUBE_NOT_FOUND.code:
                raise
            return {}

    async def _open(self, path: str, what: str, seconds: float, as_user: str | None) -> aiohttp.ClientResponse:
        limits = aiohttp.ClientTimeout(total=seconds, sock_connect=_CONNECT_SECONDS, sock_read=_WATCH_SILENCE_SECONDS)
        async with self._opening:
            return await self._send("GET", path, what, limits=limits, as_user=as_user)

    async def _call(
        self,
        method: str,
        path: str,
        what: str,
        *,
        ref: ObjectRef | None = None,
        body: object = None,
        content_type: str = _JSON,
        as_user: str | None = None,
        accept: str = _JSON,
    ) -> JSONObject:
        limits = aiohttp.ClientTimeout(total=REQUEST_SECONDS, sock_connect=_CONNECT_SECONDS)
        try:
            response = await self._send(
                method, path, what, limits=limits, body=body, content_type=content_type, as_user=as_user, accept=accept
            )
        except CellwardError as error:
            if ref is not None:
                error.details["object"] = str(ref)
            raise
        try:
            value = json.loads(await response.read())
        except NETWORK_ERRORS as error:
            raise network_error(what, error) from error
        except ValueError as error:
            raise KUBE_UNEXPECTED(f"{what}: the answer is not JSON") from error
        finally:
            response.release()
        if not isinstance(value, dict):
            raise KUBE_UNEXPECTED(f"{what}: the answer is not an object")
        return value

    async def _send(
        self,
        method: str,
        path: str,
        what: str,
        *,
        limits: aiohttp.ClientTimeout,
        body: object = None,
        content_type: str = _JSON,
        as_user: str | None = None,
        accept: str = _JSON,
    ) -> aiohttp.ClientResponse:
        """Send one request; return the open response of a success, raise our error of anything else."""
        headers = {"Accept": accept, "Content-Type": content_type, "User-Agent": "cellward-agent"}
        if as_user is not None:
            headers["Impersonate-User"] = as_user
        try:
            await self._api.update_params_for_auth(headers, [], ["BearerToken"], path, method, body)
            url = self._api.configuration.host + path
            # The pool has no queue limit of its own; a full one would otherwise block for ever.
            async with asyncio.timeout(REQUEST_SECONDS + 1):
                answer = await self._api.rest_client.request(
                    method, url, headers=headers, body=body, _request_timeout=limits
                )
            response: aiohttp.ClientResponse = answer.response
            if response.status < 300:
                return response
            text = await response.text(errors="replace")
            response.release()
        except NETWORK_ERRORS as error:
            raise network_error(what, error) from error
        raise error_of(response.status, _status_of(text), what)


def _names(items: object, field: str) -> list[str]:
    """Return one field of each entry of an answer of discovery; raises kube/unexpected for another form."""
    if items is None:
        return []
    if not isinstance(items, list) or not all(
        isinstance(one, dict) and isinstance(one.get(field), str) for one in items
    ):
        raise KUBE_UNEXPECTED("discover: the answer is not what Kubernetes defines")
    return [one[field] for one in items]


def _status_of(text: str) -> Mapping[str, Any]:
    try:
        value = json.loads(text)
    except ValueError:
        return {"message": text}
    return value if isinstance(value, dict) else {"message": text}


def _digest_of(file: str | None) -> str:
    """SHA-256 of a file, hex; empty for none and for one that cannot be read."""
    try:
        return hashlib.sha256(Path(file).read_bytes()).hexdigest() if file else ""
    except OSError:
        return ""
