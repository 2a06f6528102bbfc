"""Who owns which field of an object, what counts as drift, and how to take it back; pure.

Server-side apply alone does not take back *additions*: a forced apply leaves a sidecar or an ``ingress: [{}]`` that
somebody else added. So foreign managers' fields are moved into our own managedFields entry first; the forced apply then
removes what we own and no longer state. What nobody owns (an entry of managedFields can be edited away) is seen by
comparing the whole object with its baseline, what the API server made of the released manifest.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Final

from agent.kube.interfaces import JSONObject

Path = tuple[str, ...]
Fields = dict[str, Any]

_FINALIZERS: Final[Path] = ("metadata", "finalizers")
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
    # Of a deletion by the garbage collector; how we delete decides again about both.
    (*_FINALIZERS, "foregroundDeletion"),
    (*_FINALIZERS, "orphan"),
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
        # Storage drivers have their own; it is never pruned, and an end waits for it.
        _FINALIZERS,
    ),
    # What makes load balancers takes them away before the Service goes.
    "Service": (
        (*_FINALIZERS, "service.kubernetes.io/load-balancer-cleanup"),
        (*_FINALIZERS, "service.k8s.aws/resources"),
        (*_FINALIZERS, "gke.networking.io/*"),
        (*_FINALIZERS, "networking.gke.io/*"),
    ),
    "NetworkPolicy": ((*_FINALIZERS, "networking.k8s.aws/resources"),),
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
#: What an autoscaler decides on its target.
_SCALED: Final[Path] = ("spec", "replicas")


@dataclass(frozen=True, slots=True)
class Flexible:
    """The number of pods that an autoscaler of the release decides, within its bounds; what was released is right too.

    ``released`` is None where the release leaves it open.
    """

    lowest: int
    highest: int
    released: int | None

    def allows(self, live: Mapping[str, Any]) -> bool:
        """Whether the number is one the autoscaler may have chosen."""
        value = _scale_of(live)
        return value is None or value == self.released or self.lowest <= value <= self.highest

    def nearest(self, live: Mapping[str, Any]) -> int | None:
        """Return the number that is to be stated: that of the live object, or what is right instead; None if open."""
        value = _scale_of(live)
        if value is None or self.allows(live):
            return self.released if value is None else value
        # At zero an autoscaler is off: it begins again with what was released.
        begin = self.highest if value > self.highest else self.released or self.lowest
        return max(self.lowest, min(self.highest, begin))


def flexible_of(manifests: Sequence[Mapping[str, Any]], target: Mapping[str, Any]) -> Flexible | None:
    """Return what a declared autoscaler among ``manifests`` may change of ``target``, a released manifest."""
    for manifest in manifests:
        if manifest["kind"] != "HorizontalPodAutoscaler":
            continue
        if "spec" not in manifest:
            continue  # found without a record of it
        spec = manifest["spec"]
        scaled = spec["scaleTargetRef"]
        if (scaled["kind"], scaled["name"]) == (target["kind"], target["metadata"]["name"]):
            lowest = spec.get("minReplicas")
            return Flexible(1 if lowest is None else int(lowest), int(spec["maxReplicas"]), _scale_of(target))
    return None


def as_scaled(manifest: JSONObject, live: Mapping[str, Any], flexible: Flexible | None) -> JSONObject:
    """Return a manifest with the number of pods of the live object, where an autoscaler may have chosen it.

    A forced apply of what the release says would set an autoscaled workload back at every release and every repair; to
    leave the field out would set it to its default where nobody has scaled yet.
    """
    stated = None if flexible is None else flexible.nearest(live)
    if stated is None:
        return manifest
    return {**manifest, "spec": {**(manifest.get("spec") or {}), "replicas": stated}}


def _scale_of(obj: Mapping[str, Any]) -> int | None:
    value = (obj.get("spec") or {}).get("replicas")
    return value if isinstance(value, int) else None


def strip(obj: Mapping[str, Any], flexible: Flexible | None = None) -> JSONObject:
    """Return the part of an object that must stay as released: without status, bookkeeping and controllers' fields."""
    kept = _prune(obj, (), str(obj["kind"]), flexible)
    return {"apiVersion": obj["apiVersion"], "kind": obj["kind"], **kept}


def as_found(live: Mapping[str, Any]) -> JSONObject:
    """Return what is taken for released of an object of ours that is on no record.

    That is everything but finalizers: nobody knows who put them on, and whoever needs one there puts it on again.
    """
    body = strip(live)
    body["metadata"].pop("finalizers", None)
    return body


def drift_of(
    live: Mapping[str, Any], baseline: Mapping[str, Any], manager: str, flexible: Flexible | None = None
) -> str:
    """Say in a few words how an object differs from its baseline, or return an empty text when it does not."""
    foreign = [name for name, guarded in _foreign(live, manager, flexible) if guarded]
    if foreign:
        return f"fields of {', '.join(sorted(set(foreign)))}"
    if strip(live, flexible) != baseline:
        return "content differs"
    if flexible is not None and not flexible.allows(live):
        bounds = f"the autoscaler decides from {flexible.lowest} to {flexible.highest}"
        return f"scaled to {_scale_of(live)}, and {bounds}"
    if not applied_by(live, manager):
        # Edited away: what proves whose the object is, once our record of it is lost.
        return "our entry of managedFields is gone"
    return ""


def managers_of(live: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the names of all field managers but those of subresources."""
    return tuple(sorted({str(e.get("manager", "")) for e in _entries(live) if not e.get("subresource")}))


def applied_by(live: Mapping[str, Any], manager: str) -> bool:
    """Whether ``manager`` has an Apply entry on the object."""
    return any(_is_ours(entry, manager) for entry in _entries(live))


def takeover(live: Mapping[str, Any], manager: str, flexible: Flexible | None = None) -> list[JSONObject]:
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
        _version_of(live),
    ]


def restore(live: Mapping[str, Any], baseline: Mapping[str, Any], flexible: Flexible | None = None) -> list[JSONObject]:
    """Return the JSON patch that sets the content back to the baseline; empty when nothing differs.

    What must not stay as released is left as it is: labels of a namespace that are its cluster's, for one.
    """
    ours = strip(live, flexible)
    others = _finalizers(live, guarded=False)
    if others:  # of one list; what is a controller's own stays in it
        ours = _with_finalizers(ours, others)
        baseline = _with_finalizers(baseline, others)
    operations = list(_difference(ours, baseline, live, ""))
    return [*operations, _version_of(live)] if operations else []


def loosen(live: Mapping[str, Any], manifest: Mapping[str, Any]) -> list[JSONObject]:
    """Return the JSON patch that takes off what holds a deleted object; empty when nothing of a stranger does.

    What the manifest names, or a controller of Kubernetes, is left to whoever takes it off.
    """
    held = holding(live)
    kept = [*_finalizers(live, guarded=False), *(manifest.get("metadata", {}).get("finalizers") or ())]
    left = [name for name in held if name in kept]
    if left == list(held):
        return []
    return [{"op": "replace", "path": "/metadata/finalizers", "value": left}, _version_of(live)]


def holding(live: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the finalizers of an object."""
    return tuple(str(name) for name in live.get("metadata", {}).get("finalizers") or ())


def _version_of(live: Mapping[str, Any]) -> JSONObject:
    """Return the operation that lets a patch fail as stale when anything changed in between."""
    return {"op": "replace", "path": "/metadata/resourceVersion", "value": live["metadata"]["resourceVersion"]}


def _finalizers(live: Mapping[str, Any], *, guarded: bool) -> list[str]:
    """Return, sorted, the finalizers that must be as released, or the others."""
    kind = str(live["kind"])
    return sorted(name for name in holding(live) if _guarded(kind, (*_FINALIZERS, name), None) is guarded)


def _with_finalizers(obj: Mapping[str, Any], others: Sequence[str]) -> JSONObject:
    metadata = obj.get("metadata") or {}
    return {**obj, "metadata": {**metadata, "finalizers": [*(metadata.get("finalizers") or ()), *others]}}


def _entries(live: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    return live.get("metadata", {}).get("managedFields") or ()


def _is_ours(entry: Mapping[str, Any], manager: str) -> bool:
    same = entry.get("manager") == manager and entry.get("operation") == "Apply"
    return same and not entry.get("subresource")


def _foreign(live: Mapping[str, Any], manager: str, flexible: Flexible | None) -> Iterator[tuple[str, Fields]]:
    for entry in _entries(live):
        if not entry.get("subresource") and not _is_ours(entry, manager):
            guarded, _ = _split(entry.get("fieldsV1") or {}, (), str(live["kind"]), flexible)
            yield str(entry.get("manager", "")), guarded


def _guarded(kind: str, path: Path, flexible: Flexible | None) -> bool:
    if kind == "Namespace":
        return any(_matches(pattern, path) for pattern in _NAMESPACE_OURS)
    ignored = (*_SYSTEM, *_BY_CONTROLLERS.get(kind, ()), *(() if flexible is None else (_SCALED,)))
    return not any(_matches(pattern, path) for pattern in ignored)


def _matches(pattern: Path, path: Path) -> bool:
    head = path[: len(pattern)]
    return len(head) == len(pattern) and all(fnmatchcase(part, want) for part, want in zip(head, pattern, strict=True))


def _prune(value: Mapping[str, Any], path: Path, kind: str, flexible: Flexible | None) -> JSONObject:
    """Drop unguarded fields and what becomes empty by it; lists, but that of finalizers, are kept or dropped whole."""
    kept: JSONObject = {}
    for key, inner in value.items():
        here = (*path, key)
        if here == _FINALIZERS:
            found = sorted(str(name) for name in inner or () if _guarded(kind, (*here, str(name)), flexible))
            kept |= {key: found} if found else {}
            continue
        if isinstance(inner, Mapping):
            pruned = _prune(inner, here, kind, flexible)
            if pruned or (not inner and _guarded(kind, here, flexible)):
                kept[key] = pruned
        elif _guarded(kind, here, flexible):
            kept[key] = inner
    return kept


def _split(fields: Mapping[str, Any], path: Path, kind: str, flexible: Flexible | None) -> tuple[Fields, Fields]:
    """Split a fieldsV1 tree into what must stay as released and the rest."""
    guarded: Fields = {}
    rest: Fields = {}
    for key, inner in fields.items():
        if key == ".":
            continue
        here = _below(path, key)
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


def _below(path: Path, key: str) -> Path:
    """Return the path of a member of a fieldsV1 tree; the items of a list that is no set are not distinguished."""
    if key.startswith("v:"):
        return (*path, str(json.loads(key[2:])))
    return (*path, key[2:]) if key.startswith("f:") else path


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
