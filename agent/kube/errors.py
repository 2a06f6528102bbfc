"""Errors of the API server in our own tree.

The class of an error says whether it is worth trying again: ``Unavailable`` is, everything else is not.
"""

from __future__ import annotations

from cellward.errors import Conflict, Denied, Exhausted, Internal, InvalidInput, NotFound, Unavailable, define

#: The object is not there, or its namespace is not.
KUBE_NOT_FOUND = define(
    "kube/not-found",
    NotFound,
    "The object does not exist on the API server.",
    hint="Somebody may be deleting it or its namespace; look there, then deploy again.",
)
#: Fields belong to another field manager; details ``fields`` and ``managers``.
KUBE_CONFLICT = define(
    "kube/field-conflict",
    Conflict,
    "Another field manager owns fields of the object.",
    hint="Remove the object or let its owner give up the fields, then deploy again.",
)
#: resourceVersion or uid moved on, or the object exists already.
KUBE_STALE = define(
    "kube/stale",
    Conflict,
    "Conflict: the object was changed on the API server.",
    hint="Read it again and decide again.",
)
#: RBAC, an admission policy or a webhook says no; details ``by``.
KUBE_FORBIDDEN = define(
    "kube/forbidden",
    Denied,
    "Not authorized by the API server.",
    hint="Compare the agent's rights with the chart; a policy of the cluster may refuse the object.",
)
#: The API server does not accept our credentials.
KUBE_UNAUTHENTICATED = define(
    "kube/unauthenticated",
    Unavailable,
    "Not authenticated: the API server does not accept the agent's credentials.",
    hint="Check the service account token of the agent.",
)
#: The object is malformed; the same object will never work.
KUBE_INVALID = define(
    "kube/invalid",
    InvalidInput,
    "The API server rejects the object as invalid.",
    hint="Correct the object in the release; the message names the field.",
)
#: A field cannot be changed on an existing object.
KUBE_IMMUTABLE = define(
    "kube/immutable-field",
    InvalidInput,
    "A field of the object cannot be changed once it exists.",
    hint="Sign a release with replace: true, or give the object another name.",
)
#: The API server cannot begin a watch with the whole list.
KUBE_TOO_OLD = define(
    "kube/too-old",
    Unavailable,
    "The API server does not let a watch begin with the whole list.",
    hint="Upgrade the cluster to Kubernetes 1.34 or newer, or enable the feature gate WatchList of its API server.",
)
#: No answer, an answer in time, or an answer that says later.
KUBE_UNAVAILABLE = define(
    "kube/unavailable",
    Unavailable,
    "The API server does not answer.",
    hint="It is retried automatically; look at the API server, its webhooks and the network to it.",
)
#: The TLS certificate of the API server does not hold.
KUBE_BAD_CERTIFICATE = define(
    "kube/bad-certificate",
    Unavailable,
    "The certificate of the API server is not valid for the authority and the address the agent has.",
    hint="Compare the authority and the address in the kubeconfig, or the pod's service account, with the API server.",
)
#: The API server asks us to slow down.
KUBE_THROTTLED = define(
    "kube/throttled",
    Unavailable,
    "The API server limits the rate of requests.",
    hint="It is retried automatically.",
)
#: A quota of the cluster is used up.
KUBE_QUOTA = define(
    "kube/quota",
    Exhausted,
    "A quota of the namespace is used up.",
    hint="Ask the cluster's administrators for quota, or request less.",
)
#: Not one of the kinds Cellward manages.
KUBE_UNKNOWN_KIND = define(
    "kube/unknown-kind",
    InvalidInput,
    "Cellward does not manage objects of this kind.",
    hint="The reference of the Cell lists the kinds that are allowed.",
)
#: Neither a kubeconfig nor a service account, or one that cannot be read.
KUBE_NO_CREDENTIALS = define(
    "kube/no-credentials",
    InvalidInput,
    "There are no usable credentials for the API server.",
    hint="Set kubeconfig in the agent's settings, or run the agent in a pod with its service account.",
)
#: Anything else; our own mistake until proven otherwise.
KUBE_UNEXPECTED = define(
    "kube/unexpected",
    Internal,
    "Unexpected answer of the API server.",
    hint="Compare the API server's version with those Cellward supports; report it with the agent's log.",
)
