"""Who owns which field of an object, what counts as drift, and how to take it back; pure.

Server-side apply alone does not take back *additions*: a forced apply leaves a sidecar or an ``ingress: [{}]`` that
somebody else added. So foreign managers' fields are moved into our own managedFields entry first; the forced apply then
removes what we own and no longer state. What nobody owns (an entry of managedFields can be edited away) is seen by
comparing the whole object with its baseline, what the API server made of the released manifest.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, Final

from agent.kube.interfaces import JSONObject

Path = tuple[str, ...]
Fields = dict[str, Any]

#: What the API server and its controllers own on every object.
_SYSTEM: Final[tuple[Path, ...]] = (
    ("status",),
    ("metadata", "managedFields"),
    ("metadata", "resourceVersion"),
    ("metadata", "generation"),
    ("metadata", "uid"),
    ("metadata", "creationTimestamp"),
    ("metadata", "selfLink"),
    ("metadata", "deletionTimestamp"),
    ("metadata", "deletionGracePeriodSeconds"),
    # Set by load balancer, storage and job controllers; they can delay a deletion, never change what runs.
    ("metadata", "finalizers"),
)
#: What the controllers of one kind write beside its status.
_BY_CONTROLLERS: Final[Mapping[str, tuple[Path, ...]]] = {
    "Deployment": (("metadata", "annotations", "deployment.kubernetes.io/*"),),
    "DaemonSet": (("metadata", "annotations", "deprecated.daemonset.template.generation"),),
    "PersistentVolumeClaim": (
        ("metadata", "annotations", "pv.kubernetes.io/*"),
        ("metadata", "annotations", "volume.kubernetes.io/*"),
        ("metadata", "annotations", "volume.beta.kubernetes.io/*"),
        ("spec", "volumeName"),
    ),
    "ServiceAccount": (("secrets",),),
    "HorizontalPodAutoscaler": (("metadata", "annotations", "autoscaling.alpha.kubernetes.io/*"),),
}
#: A namespace is shared with the cluster's own tools: only these parts of it are ours.
_NAMESPACE_OURS: Final[tuple[Path, ...]] = (
    ("metadata", "labels", "cellward.dev/*"),
    ("metadata", "labels", "app.kubernetes.io/*"),
    ("metadata", "labels", "pod-security.kubernetes.io/*"),
    ("metadata", "annotations", "cellward.dev/*"),
)
#: What an autoscaler that the release itself declares may change on its target.
AUTOSCALED: Final[tuple[Path, ...]] = (("spec", "replicas"),)


def flexible_paths(manifests: Sequence[Mapping[str, Any]], target: Mapping[str, Any]) -> tuple[Path, ...]:
    """Return the paths of ``target`` that a declared autoscaler among ``manifests`` may change."""
    for manifest in manifests:
        if manifest["kind"] != "HorizontalPodAutoscaler":
            continue
        scaled = manifest["spec"]["scaleTargetRef"]
        if (scaled["kind"], scaled["name"]) == (target["kind"], target["metadata"]["name"]):
            return AUTOSCALED
    return ()


def as_scaled(manifest: JSONObject, live: Mapping[str, Any], flexible: Sequence[Path]) -> JSONObject:
    """Return a manifest with its flexible fields as they are on the live object.

    A forced apply of what the release says would set an autoscaled workload back at every release and every repair; to
    leave the field out would set it to its default where nobody has scaled yet.
    """
    scaled = copy.deepcopy(manifest) if flexible else manifest
    for *parents, last in flexible:
        source, target = live, scaled
        for name in parents:
            source, target = source.get(name) or {}, target.get(name) or {}
        if last in source and last in target:
            target[last] = source[last]
    return scaled


def strip(obj: Mapping[str, Any], flexible: Sequence[Path] = ()) -> JSONObject:
    """Return the part of an object that must stay as released: without status, bookkeeping and controllers' fields."""
    kept = _prune(obj, (), str(obj["kind"]), flexible)
    return {"apiVersion": obj["apiVersion"], "kind": obj["kind"], **kept}


def drift_of(live: Mapping[str, Any], baseline: Mapping[str, Any], manager: str, flexible: Sequence[Path] = ()) -> str:
    """Say in a few words how an object differs from its baseline, or return an empty text when it does not."""
    foreign = [name for name, guarded in _foreign(live, manager, flexible) if guarded]
    if foreign:
        return f"fields of {', '.join(sorted(set(foreign)))}"
    if strip(live, flexible) != baseline:
        return "content differs"
    return ""


def managers_of(live: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the names of all field managers but those of subresources."""
    return tuple(sorted({str(e.get("manager", "")) for e in _entries(live) if not e.get("subresource")}))


def applied_by(live: Mapping[str, Any], manager: str) -> bool:
    """Whether ``manager`` has an Apply entry on the object."""
    return any(_is_ours(entry, manager) for entry in _entries(live))


def takeover(live: Mapping[str, Any], manager: str, flexible: Sequence[Path] = ()) -> list[JSONObject]:
    """Return the JSON patch that moves all foreign guarded fields into our Apply entry; empty when there are none.

    It carries the resourceVersion, so it fails as stale when anything changed in between.
    """
    moved: Fields = {}
    entries: list[JSONObject] = []
    for entry in _entries(live):
        if entry.get("subresource") or _is_ours(entry, manager):
            entries.append(dict(entry))
            continue
        guarded, rest = _split(entry.get("fieldsV1") or {}, (), str(live["kind"]), flexible)
        moved = _merge(moved, guarded)
        if rest:
            entries.append({**entry, "fieldsV1": rest})
    if not moved:
        return []
    ours = next((entry for entry in entries if _is_ours(entry, manager)), None)
    if ours is None:
        ours = {"manager": manager, "operation": "Apply", "apiVersion": live["apiVersion"], "fieldsType": "FieldsV1"}
        entries.append(ours)
    ours["fieldsV1"] = _merge(ours.get("fieldsV1") or {}, moved)
    return [
        {"op": "replace", "path": "/metadata/managedFields", "value": entries},
        {"op": "replace", "path": "/metadata/resourceVersion", "value": live["metadata"]["resourceVersion"]},
    ]


def restore(live: Mapping[str, Any], baseline: Mapping[str, Any], flexible: Sequence[Path] = ()) -> list[JSONObject]:
    """Return the JSON patch that sets the content back to the baseline; empty when nothing differs.

    What must not stay as released is left as it is: labels of a namespace that are its cluster's, for one.
    """
    operations = list(_difference(strip(live, flexible), baseline, live, ""))
    if not operations:
        return []
    version = {"op": "replace", "path": "/metadata/resourceVersion", "value": live["metadata"]["resourceVersion"]}
    return [*operations, version]


def _entries(live: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    return live.get("metadata", {}).get("managedFields") or ()


def _is_ours(entry: Mapping[str, Any], manager: str) -> bool:
    same = entry.get("manager") == manager and entry.get("operation") == "Apply"
    return same and not entry.get("subresource")


def _foreign(live: Mapping[str, Any], manager: str, flexible: Sequence[Path]) -> Iterator[tuple[str, Fields]]:
    for entry in _entries(live):
        if not entry.get("subresource") and not _is_ours(entry, manager):
            guarded, _ = _split(entry.get("fieldsV1") or {}, (), str(live["kind"]), flexible)
            yield str(entry.get("manager", "")), guarded


def _guarded(kind: str, path: Path, flexible: Sequence[Path]) -> bool:
    if kind == "Namespace":
        return any(_matches(pattern, path) for pattern in _NAMESPACE_OURS)
    ignored = (*_SYSTEM, *_BY_CONTROLLERS.get(kind, ()), *flexible)
    return not any(_matches(pattern, path) for pattern in ignored)


def _matches(pattern: Path, path: Path) -> bool:
    head = path[: len(pattern)]
    return len(head) == len(pattern) and all(fnmatchcase(part, want) for part, want in zip(head, pattern, strict=True))


def _prune(value: Mapping[str, Any], path: Path, kind: str, flexible: Sequence[Path]) -> JSONObject:
    """Drop unguarded fields and what becomes empty by it; lists are kept or dropped as a whole."""
    kept: JSONObject = {}
    for key, inner in value.items():
        here = (*path, key)
        if isinstance(inner, Mapping):
            pruned = _prune(inner, here, kind, flexible)
            if pruned or (not inner and _guarded(kind, here, flexible)):
                kept[key] = pruned
        elif _guarded(kind, here, flexible):
            kept[key] = inner
    return kept


def _split(fields: Mapping[str, Any], path: Path, kind: str, flexible: Sequence[Path]) -> tuple[Fields, Fields]:
    """Split a fieldsV1 tree into what must stay as released and the rest."""
    guarded: Fields = {}
    rest: Fields = {}
    for key, inner in fields.items():
        if key == ".":
            continue
        here = (*path, key[2:]) if key.startswith("f:") else path
        if inner:
            ours, theirs = _split(inner, here, kind, flexible)
            if not ours and not theirs:  # only the member itself, as in {".": {}}
                ours, theirs = (dict(inner), {}) if _guarded(kind, here, flexible) else ({}, dict(inner))
                # An empty map or list that somebody merely touched changes nothing.
                ours = ours if key.startswith("k:") else {}
            if ours:
                guarded[key] = ours
            if theirs:
                rest[key] = theirs
        else:
            (guarded if _guarded(kind, here, flexible) else rest)[key] = {}
    if "." in fields:
        if guarded:
            guarded["."] = {}
        elif rest:
            rest["."] = {}
    return guarded, rest


def _merge(first: Mapping[str, Any], second: Mapping[str, Any]) -> Fields:
    merged: Fields = dict(first)
    for key, inner in second.items():
        merged[key] = _merge(merged.get(key) or {}, inner)
    return merged


def _difference(ours: Any, wanted: Any, whole: Any, pointer: str) -> Iterator[JSONObject]:
    """Yield what turns our part of a value into the wanted one; ``whole`` is the value with what is not ours."""
    if json.dumps(ours, sort_keys=True) == json.dumps(wanted, sort_keys=True):
        return
    if not (isinstance(ours, Mapping) and isinstance(wanted, Mapping)):
        yield {"op": "replace", "path": pointer, "value": wanted}
        return
    for key in sorted({*ours, *wanted}):
        here = f"{pointer}/{key.replace('~', '~0').replace('/', '~1')}"
        beside = whole.get(key)
        shared = isinstance(beside, Mapping) and ours.get(key) != beside
        if key not in wanted:
            if shared:
                yield from _difference(ours[key], {}, beside, here)
            else:
                yield {"op": "remove", "path": here}
        elif key in ours or (shared and isinstance(wanted[key], Mapping)):
            yield from _difference(ours.get(key, {}), wanted[key], beside, here)
        else:
            yield {"op": "add", "path": here, "value": wanted[key]}
