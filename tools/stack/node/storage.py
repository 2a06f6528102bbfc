"""Volumes of a cluster with real nodes: directories of this machine, one for each claim that is expected.

They are of type ``local``, as disks of a node are: the kubelet gives such a volume the group of a pod, which it does
not for ``hostPath``, and that is where faults of file modes show.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from tools.stack.api import ApiClient, JSONObject

_CLASS: Final = "local"


def install(admin: ApiClient) -> None:
    """Make the default class; a claim is bound once a pod that uses it is placed."""
    default = {"storageclass.kubernetes.io/is-default-class": "true"}
    manifest: JSONObject = {
        "apiVersion": "storage.k8s.io/v1",
        "kind": "StorageClass",
        "metadata": {"name": _CLASS, "annotations": default},
        "provisioner": "kubernetes.io/no-provisioner",
        "volumeBindingMode": "WaitForFirstConsumer",
    }
    admin.must(admin.create(manifest), "create the storage class")


def offer(admin: ApiClient, name: str, node: str, directory: Path, claim: tuple[str, str]) -> None:
    """Offer a directory of this machine as a volume.

    Args:
        admin: makes it.
        name: of the PersistentVolume.
        node: that has it.
        directory: made when it is not there; what is in it stays.
        claim: namespace and name of the one claim that it is for.
    """
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    namespace, claimed = claim
    on_node = {"key": "kubernetes.io/hostname", "operator": "In", "values": [node]}
    manifest: JSONObject = {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": name},
        "spec": {
            "capacity": {"storage": "100Gi"},
            "accessModes": ["ReadWriteOnce"],
            "persistentVolumeReclaimPolicy": "Retain",
            "storageClassName": _CLASS,
            "claimRef": {"namespace": namespace, "name": claimed},
            "local": {"path": str(directory)},
            "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [on_node]}]}},
        },
    }
    admin.must(admin.create(manifest), f"create volume {name}")
