"""Stamps: what tells an accepted namespace from one that only says that it is a cell; pure.

Labels of a namespace say which cell it is; before the guards were there, anybody could write them. So each namespace
that an agent accepted carries two stamps besides, one of its project and one of the cluster, and every selector of
isolation asks for one of them. They are derived from a random key that only the agent holds: nobody can compute them,
though everybody who reads namespaces can copy them. What keeps a copy from being written is the chart's guard; after
any absence of it the agent takes another key.

While it changes over, selectors accept the stamps of two keys and namespaces carry those of one (``Stamps``).
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from cellward.cells import labels
from cellward.errors import CellwardError

_LENGTH: Final = 40
#: Bytes of a key.
KEY_BYTES: Final = 32
_KEYS: Final = (labels.STAMP, labels.CLUSTER_STAMP)


def _derived(key: bytes, what: str) -> str:
    return hmac.new(key, f"cellward-stamp/v1/{what}".encode(), hashlib.sha256).hexdigest()[:_LENGTH]


@dataclass(frozen=True, slots=True)
class Stamps:
    """Which stamps hold on a cluster.

    Attributes:
        accepted: keys whose stamps selectors accept, the newest first.
        carried: the key whose stamps namespaces carry; None while those of an older chart carry none.
        closed: False while namespaces of an older chart are being stamped: their selectors stay as they are.
    """

    accepted: tuple[bytes, ...]
    carried: bytes | None
    closed: bool = True

    @classmethod
    def of(cls, key: bytes) -> Stamps:
        """Return the stamps of one key, as they hold when nothing is being changed."""
        return cls((key,), key)

    def of_namespace(self, project: str) -> dict[str, str]:
        """Return the labels of a namespace of a project."""
        if self.carried is None:
            return {}
        return {
            labels.STAMP: _derived(self.carried, f"project/{project}"),
            labels.CLUSTER_STAMP: _derived(self.carried, "cluster"),
        }

    def require(self, selector: Mapping[str, Any]) -> dict[str, Any]:
        """Return a namespace selector that selects stamped cells only; one that means no cell stays as it is.

        What it required of stamps before is replaced, so that the same function makes a selector and renews it.
        """
        bare = _without_stamps(selector)
        label, what = _meant(bare)
        if not label or not self.closed:
            return bare
        values = [_derived(key, what) for key in self.accepted]
        if len(values) == 1:
            return {**bare, "matchLabels": {**bare.get("matchLabels", {}), label: values[0]}}
        either = {"key": label, "operator": "In", "values": values}
        return {**bare, "matchExpressions": [*bare.get("matchExpressions", []), either]}

    def restamp(self, manifest: Mapping[str, Any]) -> dict[str, Any]:
        """Return a rendered namespace or NetworkPolicy with these stamps; anything else as it is."""
        if manifest["kind"] == "Namespace":
            return self._namespace(manifest)
        if manifest["kind"] != "NetworkPolicy":
            return dict(manifest)
        spec = dict(manifest["spec"])
        for field, side in (("ingress", "from"), ("egress", "to")):
            spec[field] = [self._rule(rule, side) for rule in spec.get(field) or ()]
        return {**manifest, "spec": spec}

    def _namespace(self, manifest: Mapping[str, Any]) -> dict[str, Any]:
        metadata = manifest["metadata"]
        own = {name: value for name, value in metadata["labels"].items() if name not in _KEYS}
        return {**manifest, "metadata": {**metadata, "labels": {**own, **self.of_namespace(own[labels.PROJECT])}}}

    def _rule(self, rule: Mapping[str, Any], side: str) -> dict[str, Any]:
        if side not in rule:
            return dict(rule)
        return {**rule, side: [self._peer(peer) for peer in rule[side]]}

    def _peer(self, peer: Mapping[str, Any]) -> dict[str, Any]:
        if "namespaceSelector" not in peer:
            return dict(peer)
        return {**peer, "namespaceSelector": self.require(peer["namespaceSelector"])}


#: For previews and trials, where no namespace is made: a key that is no secret.
PLACEHOLDER: Final = Stamps.of(bytes(KEY_BYTES))


def is_stamped(namespace: Mapping[str, Any], stamps: Stamps) -> bool:
    """Whether a live namespace carries the stamps of the project that its labels name."""
    found = namespace["metadata"].get("labels") or {}
    wanted = stamps.of_namespace(str(found.get(labels.PROJECT, "")))
    return bool(wanted) and all(found.get(name) == value for name, value in wanted.items())


def _without_stamps(selector: Mapping[str, Any]) -> dict[str, Any]:
    bare = dict(selector)
    if "matchLabels" in bare:
        bare["matchLabels"] = {name: value for name, value in bare["matchLabels"].items() if name not in _KEYS}
    if "matchExpressions" in bare:
        bare["matchExpressions"] = [one for one in bare["matchExpressions"] if one["key"] not in _KEYS]
        if not bare["matchExpressions"]:
            del bare["matchExpressions"]
    return bare


def _meant(selector: Mapping[str, Any]) -> tuple[str, str]:
    """Say which stamp namespaces of a selector carry, and what it is derived from; empty texts when they are no cells.

    A name with two double hyphens is a cell's: the namespaces of DNS and agent have none. Whatever else is selected by
    our labels is a cell of any project.
    """
    wanted = selector.get("matchLabels") or {}
    if labels.NAMESPACE_NAME in wanted:
        project = _project_of(wanted[labels.NAMESPACE_NAME])
        return (labels.STAMP, f"project/{project}") if project else ("", "")
    if labels.PROJECT in wanted:
        return labels.STAMP, f"project/{wanted[labels.PROJECT]}"
    return labels.CLUSTER_STAMP, "cluster"


def _project_of(namespace: str) -> str:
    parts = namespace.split("--")
    try:
        return parts[0] if labels.namespace_of(*parts) == namespace else ""
    except (CellwardError, TypeError):
        return ""
