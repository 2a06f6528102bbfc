"""An API server in memory, good enough for the engine: optimistic versions, field ownership, namespaces, watches.

Held to the same contract suite as the real one (tests/contract/test_kube.py). What it does not have: schemas (only the
top-level fields are known), defaults, admission, rights, controllers, finalizers. ``down`` makes every call fail and
interrupts the watches; ``on_request`` sees every call before it is carried out and may raise.
"""

from __future__ import annotations

import asyncio
import copy
import json
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from agent.kube.errors import KUBE_CONFLICT, KUBE_INVALID, KUBE_NOT_FOUND, KUBE_STALE, KUBE_UNAVAILABLE
from agent.kube.interfaces import JSONObject, ObjectRef, WatchEvent, WatchType, ref_of
from agent.kube.kinds import kind_of, object_path

Fields = dict[str, Any]
Leaf = tuple[str, ...]
_TOP = frozenset(
    {"apiVersion", "kind", "metadata", "spec", "data", "type", "roleRef", "subjects", "automountServiceAccountToken"}
)
_MISSING = object()


@dataclass
class _Watcher:
    api_version: str
    kind: str
    selector: dict[str, str | None]
    namespace: str = ""
    queue: asyncio.Queue[WatchEvent] = field(default_factory=asyncio.Queue)

    def wants(self, obj: Mapping[str, Any]) -> bool:
        return self.namespace in {"", obj["metadata"].get("namespace")} and _selected(obj, self.selector)


class FakeKube:
    """Satisfies ``KubeApi``.

    Attributes:
        down: set by ``go_down`` and ``come_back``.
        on_request: called with verb, reference and impersonated user.
        requests: every call so far as (verb, reference, user).
    """

    def __init__(self) -> None:
        self.down = False
        self.on_request: Callable[[str, ObjectRef, str | None], None] | None = None
        self.requests: list[tuple[str, ObjectRef, str | None]] = []
        self._objects: dict[ObjectRef, JSONObject] = {}
        self._watchers: list[_Watcher] = []
        self._version = 0
        self._uids = 0

    # -- KubeApi ------------------------------------------------------------------------------------------------------

    async def apply(
        self,
        obj: Mapping[str, Any],
        *,
        manager: str,
        force: bool = False,
        dry_run: bool = False,
        as_user: str | None = None,
    ) -> JSONObject:
        """Server-side apply with ownership per leaf."""
        ref = self._begin("dry-run" if dry_run else "apply", ref_of(obj), as_user)
        _check_known(obj)
        old = self._objects.get(ref)
        new = self._created(obj) if old is None else copy.deepcopy(old)
        stated = _leaves(_body(obj))
        if old is not None:
            self._refuse_conflicts(ref, new, stated, manager, force=force)
        # The name of a list item goes last: the item is found by it.
        for leaf in sorted(_owned(old, manager) - set(stated), key=lambda leaf: leaf[-1] == "f:name"):
            if not any(leaf in _fields_of(entry) for entry in _entries(new) if not _is_apply(entry, manager)):
                _remove(new, leaf)
        for leaf, value in stated.items():
            _set(new, leaf, copy.deepcopy(value))
        _own(new, manager, "Apply", set(stated), old)
        return self._store(ref, old, new, dry_run=dry_run)

    async def create_dry_run(self, obj: Mapping[str, Any], *, manager: str, as_user: str | None = None) -> JSONObject:
        """Check that the object could be created."""
        del manager
        ref = self._begin("dry-run", ref_of(obj), as_user)
        _check_known(obj)
        if ref in self._objects:
            raise KUBE_STALE(f"{ref} already exists")
        new, body = self._created(obj), copy.deepcopy(_body(obj))
        return {**new, **body, "metadata": {**new["metadata"], **body.get("metadata", {})}}

    async def get(self, ref: ObjectRef, *, as_user: str | None = None) -> JSONObject:
        """Return a copy."""
        self._begin("get", ref, as_user)
        return copy.deepcopy(self._must(ref))

    async def list(
        self, api_version: str, kind: str, *, namespace: str = "", label_selector: str = "", as_user: str | None = None
    ) -> tuple[JSONObject, ...]:
        """Return copies."""
        kind_of(api_version, kind)
        self._begin("list", ObjectRef(api_version, kind, namespace, ""), as_user)
        wanted = _parse(label_selector)
        return tuple(
            copy.deepcopy(obj)
            for ref, obj in sorted(self._objects.items())
            if ref[:2] == (api_version, kind) and namespace in {"", ref.namespace} and _selected(obj, wanted)
        )

    async def list_metadata(
        self, api_version: str, kind: str, *, namespace: str, label_selector: str = ""
    ) -> AsyncIterator[JSONObject]:
        """Yield copies of the metadata."""
        for found in await self.list(api_version, kind, namespace=namespace, label_selector=label_selector):
            yield {"apiVersion": api_version, "kind": kind, "metadata": found["metadata"]}

    async def delete(
        self,
        ref: ObjectRef,
        *,
        propagation: str = "Background",
        uid: str = "",
        resource_version: str = "",
        as_user: str | None = None,
    ) -> None:
        """Delete at once, a namespace with everything in it."""
        del propagation
        self._begin("delete", ref, as_user)
        metadata = self._must(ref)["metadata"]
        if uid not in {"", metadata["uid"]} or resource_version not in {"", metadata["resourceVersion"]}:
            raise KUBE_STALE(f"{ref} is another object by now")
        self._drop(ref)
        if ref.kind == "Namespace":
            for other in [other for other in self._objects if other.namespace == ref.name]:
                self._drop(other)

    async def patch_json(
        self,
        ref: ObjectRef,
        operations: Sequence[Mapping[str, Any]],
        *,
        manager: str,
        as_user: str | None = None,
    ) -> JSONObject:
        """Apply add, replace and remove."""
        self._begin("patch", ref, as_user)
        old = self._must(ref)
        new = copy.deepcopy(old)
        for operation in operations:
            _patch(new, operation)
        if new["metadata"]["resourceVersion"] != old["metadata"]["resourceVersion"]:
            raise KUBE_STALE(f"{ref} has version {old['metadata']['resourceVersion']}")
        before, after = _leaves(_body(old)), _leaves(_body(new))
        changed = {leaf for leaf, value in after.items() if before.get(leaf, _MISSING) != value}
        if changed:
            _own(new, manager, "Update", changed, old)
        return self._store(ref, old, new)

    async def watch(
        self,
        api_version: str,
        kind: str,
        *,
        label_selector: str = "",
        namespace: str = "",
        field_selector: str = "",
        as_user: str | None = None,
    ) -> AsyncIterator[WatchEvent]:
        """Yield the initial list, then what happens; field selectors select everything here."""
        del field_selector, as_user
        kind_of(api_version, kind)
        watcher = _Watcher(api_version, kind, _parse(label_selector), namespace)
        self._watchers.append(watcher)
        try:
            self._announce(watcher)
            while True:
                yield await watcher.queue.get()
        finally:
            self._watchers.remove(watcher)

    async def served_versions(self, api_version: str, kind: str) -> tuple[str, ...]:
        """Every kind is served here as it is known."""
        kind_of(api_version, kind)
        return (api_version.rsplit("/", maxsplit=1)[-1],)

    async def close(self) -> None:
        """Do nothing."""

    # -- what tests do ------------------------------------------------------------------------------------------------

    def go_down(self) -> None:
        """Answer nothing any more."""
        self.down = True
        for watcher in self._watchers:
            watcher.queue.put_nowait(WatchEvent(WatchType.INTERRUPTED, {}, "the API server is down"))

    def come_back(self) -> None:
        """Answer again; watches start with a whole list."""
        self.down = False
        for watcher in self._watchers:
            self._announce(watcher)

    def set_status(self, ref: ObjectRef, status: JSONObject) -> None:
        """Write the status as a controller does, through the subresource."""
        old = self._must(ref)
        self._store(ref, old, {**copy.deepcopy(old), "status": status})

    # -- inside -------------------------------------------------------------------------------------------------------

    def _begin(self, verb: str, ref: ObjectRef, user: str | None) -> ObjectRef:
        if verb != "list":
            object_path(ref)
        self.requests.append((verb, ref, user))
        if self.on_request is not None:
            self.on_request(verb, ref, user)
        if self.down:
            raise KUBE_UNAVAILABLE(f"{verb} {ref}: the API server is down")
        place = ObjectRef("v1", "Namespace", "", ref.namespace)
        if verb in {"apply", "dry-run"} and ref.namespace and place not in self._objects:
            raise KUBE_NOT_FOUND(f"{verb} {ref}: namespace {ref.namespace} not found")
        return ref

    def _must(self, ref: ObjectRef) -> JSONObject:
        if ref not in self._objects:
            raise KUBE_NOT_FOUND(f"{ref} not found")
        return self._objects[ref]

    def _created(self, obj: Mapping[str, Any]) -> JSONObject:
        self._uids += 1
        system = {"uid": f"uid-{self._uids}", "generation": 0, "managedFields": [], "resourceVersion": ""}
        kept = {key: obj["metadata"][key] for key in ("name", "namespace") if key in obj["metadata"]}
        return {"apiVersion": obj["apiVersion"], "kind": obj["kind"], "metadata": {**kept, **system}}

    def _refuse_conflicts(
        self, ref: ObjectRef, old: JSONObject, stated: Mapping[Leaf, Any], manager: str, *, force: bool
    ) -> None:
        current = _leaves(_body(old))
        others = [entry for entry in _entries(old) if not _is_apply(entry, manager)]
        taken = {
            leaf: entry["manager"]
            for entry in others
            for leaf in _fields_of(entry)
            if leaf in stated and current.get(leaf, _MISSING) != stated[leaf]
        }
        if taken and not force:
            names = ", ".join(sorted(set(taken.values())))
            raise KUBE_CONFLICT(f"apply {ref}: conflict with {names}", managers=names)
        for entry in others:
            kept = _fields_of(entry) - set(taken)
            entry["fieldsV1"] = _tree(kept)

    def _store(self, ref: ObjectRef, old: JSONObject | None, new: JSONObject, *, dry_run: bool = False) -> JSONObject:
        new["metadata"]["managedFields"] = [e for e in _entries(new) if e["fieldsV1"]]
        if old is not None and new == old:
            return copy.deepcopy(old)
        if old is None or new.get("spec") != old.get("spec"):
            new["metadata"]["generation"] = (old["metadata"]["generation"] if old else 0) + 1
        if dry_run:
            return copy.deepcopy(new)
        self._version += 1
        new["metadata"]["resourceVersion"] = str(self._version)
        self._objects[ref] = new
        self._tell(old, new)
        return copy.deepcopy(new)

    def _drop(self, ref: ObjectRef) -> None:
        old = self._objects.pop(ref)
        self._version += 1
        self._tell(old, None)

    def _tell(self, old: JSONObject | None, new: JSONObject | None) -> None:
        ref = ref_of(new or old or {})
        for watcher in self._watchers:
            if self.down or (watcher.api_version, watcher.kind) != ref[:2]:
                continue
            was, is_now = old is not None and watcher.wants(old), new is not None and watcher.wants(new)
            if was and not is_now:
                watcher.queue.put_nowait(WatchEvent(WatchType.DELETED, copy.deepcopy(new or old or {})))
            elif is_now:
                kind = WatchType.MODIFIED if was else WatchType.ADDED
                watcher.queue.put_nowait(WatchEvent(kind, copy.deepcopy(new or {})))

    def _announce(self, watcher: _Watcher) -> None:
        watcher.queue.put_nowait(WatchEvent(WatchType.RESTARTED, {}))
        for ref, obj in sorted(self._objects.items()):
            if ref[:2] == (watcher.api_version, watcher.kind) and watcher.wants(obj):
                watcher.queue.put_nowait(WatchEvent(WatchType.ADDED, copy.deepcopy(obj)))
        watcher.queue.put_nowait(WatchEvent(WatchType.SYNCED, {}))


def _check_known(obj: Mapping[str, Any]) -> None:
    unknown = set(obj) - _TOP
    if unknown:
        raise KUBE_INVALID(f"{ref_of(obj)}: unknown field {min(unknown)!r}")


def _body(obj: Mapping[str, Any]) -> JSONObject:
    """Return what can be owned: without identity, bookkeeping and status."""
    owned = ("labels", "annotations", "ownerReferences")
    metadata = {key: obj["metadata"][key] for key in owned if key in obj["metadata"]}
    rest = {key: value for key, value in obj.items() if key not in {"apiVersion", "kind", "metadata", "status"}}
    return {**rest, **({"metadata": metadata} if metadata else {})}


def _leaves(value: Any, path: Leaf = ()) -> dict[Leaf, Any]:
    """Flatten into leaves; lists of named things are maps by name, other lists are one leaf."""
    if isinstance(value, dict) and value:
        return {leaf: v for key, inner in value.items() for leaf, v in _leaves(inner, (*path, f"f:{key}")).items()}
    if isinstance(value, list) and value and all(isinstance(item, dict) and "name" in item for item in value):
        return {leaf: v for item in value for leaf, v in _leaves(item, (*path, _key(item["name"]))).items()}
    return {path: value} if path else {}


def _key(name: str) -> str:
    return "k:" + json.dumps({"name": name}, separators=(",", ":"))


def _tree(leaves: set[Leaf]) -> Fields:
    tree: Fields = {}
    for leaf in leaves:
        inner = tree
        for part in leaf:
            inner = inner.setdefault(part, {})
    return tree


def _walk(fields: Fields, path: Leaf = ()) -> Iterator[Leaf]:
    inner = {key: value for key, value in fields.items() if key != "."}
    if not inner and path:
        yield path
    for key, value in inner.items():
        yield from _walk(value, (*path, key))


def _entries(obj: Mapping[str, Any]) -> list[JSONObject]:
    found: list[JSONObject] = obj["metadata"]["managedFields"]
    return found


def _fields_of(entry: Mapping[str, Any]) -> set[Leaf]:
    return set(_walk(entry["fieldsV1"]))


def _is_apply(entry: Mapping[str, Any], manager: str) -> bool:
    return bool(entry["manager"] == manager and entry["operation"] == "Apply")


def _owned(obj: JSONObject | None, manager: str) -> set[Leaf]:
    entries = _entries(obj) if obj is not None else []
    return {leaf for entry in entries if _is_apply(entry, manager) for leaf in _fields_of(entry)}


def _own(obj: JSONObject, manager: str, operation: str, leaves: set[Leaf], old: JSONObject | None) -> None:
    """Give leaves to a manager; a changed value leaves all other managers."""
    entries = _entries(obj)
    same = [e for e in entries if (e["manager"], e["operation"]) == (manager, operation)]
    if operation == "Update":
        for entry in entries:
            entry["fieldsV1"] = _tree(_fields_of(entry) - leaves)
    elif old is not None:
        current = _leaves(_body(obj))
        for entry in entries:
            if entry not in same:
                entry["fieldsV1"] = _tree({leaf for leaf in _fields_of(entry) if leaf in current})
    before = {leaf for entry in same for leaf in _fields_of(entry)} if operation == "Update" else set()
    for entry in same:
        entries.remove(entry)
    shape = {"manager": manager, "operation": operation, "apiVersion": obj["apiVersion"], "fieldsType": "FieldsV1"}
    entries.append({**shape, "fieldsV1": _tree(before | leaves)})


def _set(obj: JSONObject, leaf: Leaf, value: Any) -> None:
    target: Any = obj
    for index, part in enumerate(leaf[:-1]):
        target = _child(target, part, [] if leaf[index + 1].startswith("k:") else {})
    target[leaf[-1][2:]] = value


def _child(target: Any, part: str, empty: Any) -> Any:
    if part.startswith("k:"):
        name = json.loads(part[2:])["name"]
        found = next((item for item in target if item.get("name") == name), None)
        if found is None:
            found = {"name": name}
            target.append(found)
        return found
    if not target.get(part[2:]):
        target[part[2:]] = empty
    return target[part[2:]]


def _remove(obj: JSONObject, leaf: Leaf) -> None:
    trail: list[tuple[Any, str]] = []
    target: Any = obj
    for part in leaf[:-1]:
        trail.append((target, part))
        if part.startswith("k:"):
            target = next((item for item in target if item.get("name") == json.loads(part[2:])["name"]), None)
        else:
            target = target.get(part[2:])
        if target is None:
            return
    target.pop(leaf[-1][2:], None)
    for parent, part in reversed(trail):
        if part.startswith("k:"):
            parent[:] = [item for item in parent if item]
        elif parent.get(part[2:]) in ({}, []):
            del parent[part[2:]]


def _patch(obj: JSONObject, operation: Mapping[str, Any]) -> None:
    parts = [part.replace("~1", "/").replace("~0", "~") for part in operation["path"].split("/")[1:]]
    target: Any = obj
    for part in parts[:-1]:
        target = target[int(part)] if isinstance(target, list) else target[part]
    last = parts[-1]
    if operation["op"] == "remove":
        del target[int(last) if isinstance(target, list) else last]
    elif isinstance(target, list):
        value = copy.deepcopy(operation["value"])
        if last == "-":
            target.append(value)
        else:
            target[int(last)] = value
    else:
        target[last] = copy.deepcopy(operation["value"])


def _parse(selector: str) -> dict[str, str | None]:
    """Return values by label; None for one that has to be there whatever it says."""
    parts = (part.partition("=") for part in selector.split(",") if part)
    return {key: value if equals else None for key, equals, value in parts}


def _selected(obj: Mapping[str, Any], wanted: Mapping[str, str | None]) -> bool:
    labels = obj["metadata"].get("labels") or {}
    return all(key in labels and value in {None, labels[key]} for key, value in wanted.items())
