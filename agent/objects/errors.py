"""Errors about single objects: why one is not what was released."""

from __future__ import annotations

from cellward.errors import Conflict, Notice, Refused, Unavailable, define

FOREIGN_NAMESPACE = define(
    "cell/namespace-not-ours",
    Conflict,
    "The namespace exists and does not belong to this cell.",
    hint="Remove or rename that namespace; Cellward never takes over what it did not make.",
)
FOREIGN_OBJECT = define(
    "cell/object-not-ours",
    Conflict,
    "An object of that name exists and does not belong to this cell.",
    hint="Remove the object or rename the component; Cellward never takes over what it did not make.",
)
ISOLATION_FIRST = define(
    "cell/isolation-first",
    Unavailable,
    "A deleted workload is not recreated while the isolation of its cell is not in place.",
    hint="See what keeps the isolation of the cell from being repaired; the workload follows by itself.",
)
NOT_REPAIRED = define(
    "cell/not-repaired",
    Conflict,
    "An object of the cell differs from the release and could not be repaired.",
    hint="A cluster administrator must repair it: docs/how-to/mend-what-the-agent-cannot.md lists the commands.",
)
GUARD_BROKEN = define(
    "apply/admission-guard",
    Unavailable,
    "The admission policies that fence the agent are missing or changed, so nothing new is applied.",
    hint="Install the chart of the agent again; it owns these policies.",
)
NEEDS_REPLACE = define(
    "apply/needs-replace",
    Refused,
    "A field that cannot be changed in place would change.",
    hint="Sign a release with replace: true; the object is then deleted and recreated.",
)
DATA_NOT_REPLACED = define(
    "apply/data-not-replaced",
    Refused,
    "An object that holds data would have to be replaced.",
    hint="Give the volume another name, or end the cell by a Tombstone with deleteData: true.",
)
NOT_GONE = define(
    "apply/deletion-pending",
    Unavailable,
    "Deletion of an object is still pending.",
    hint="A finalizer may hold it; Cellward goes on by itself once it is gone.",
)
NAMESPACE_ENDING = define(
    "apply/namespace-terminating",
    Unavailable,
    "The namespace is being deleted.",
    hint="It is recreated once it is gone.",
)

# Why what a cell runs does not run, as Kubernetes says it: conditions of the cell, see agent.objects.pods.
IMAGE_NOT_PULLED = define(
    "cell/image-not-pulled",
    Notice,
    "The image of a container cannot be pulled.",
    hint="Check the image's name and digest, that the cluster reaches the registry, and the cluster's credentials for "
    "it; a corrected name takes a new release.",
)
POD_NOT_ADMITTED = define(
    "cell/pod-not-admitted",
    Notice,
    "Pods of a workload are refused: by a quota, by Pod Security, or by the node.",
    hint="Give the cell what the message names (a larger quota, another Pod Security level), or release it so that it "
    "asks for less; the pods then come by themselves.",
)
POD_NOT_SCHEDULED = define(
    "cell/pod-not-scheduled",
    Notice,
    "No node takes a pod.",
    hint="Add nodes, or release the cell with smaller requests or another placement.",
)
VOLUME_NOT_MOUNTED = define(
    "cell/volume-not-mounted",
    Notice,
    "A volume of a pod cannot be attached or mounted.",
    hint="Look at the volume, its claim, and what it is made of; a missing ConfigMap or Secret must exist in the cell.",
)
CONTAINER_NOT_STARTED = define(
    "cell/container-not-started",
    Notice,
    "A container cannot be started.",
    hint="The message has the reason: mostly a ConfigMap, Secret, command or user that does not exist. Release the "
    "cell corrected.",
)
CONTAINER_CRASHES = define(
    "cell/container-crashes",
    Notice,
    "A container starts and ends again.",
    hint="Look at its log (kubectl logs --previous), then release the cell corrected.",
)
OUT_OF_MEMORY = define(
    "cell/out-of-memory",
    Notice,
    "A container needs more memory than its limit and is killed.",
    hint="Release the cell with a higher memory limit, or find out what needs so much.",
)
START_GATE_SHUT = define(
    "cell/start-gate-shut",
    Notice,
    "A pod may not start: the start gate of this cluster found open what must be closed to it.",
    hint="The message names what stayed open: `cellward isolation test` shows whether the network enforces the cell's "
    "isolation on that node. The node tries again by itself.",
)
START_GATE_PENDING = define(
    "cell/start-gate-pending",
    Notice,
    "Pods of the cell start without the start gate that the installation asks for.",
    hint="Deploy the cell again: what runs is left as it was signed until then.",
)
PODS_NOT_READ = define(
    "cell/pods-not-read",
    Notice,
    "The agent may not look at the pods and events of the cell, so it cannot say why they do not run.",
    hint="Install the chart of the agent again: its ClusterRole cellward-cell lets cells' accounts read them.",
)
