# METADATA
# title: Tenancy
# description: A cell takes nothing that is another's, and is in nobody's way.
package starter.tenancy

import data.starter.lib

# Taints of a node that is lost; Kubernetes itself gives every pod a toleration of them, for 300 seconds. Others of that
# prefix say that a node is drained or short of something, or are somebody's own.
lost_node := {"node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"}

default max_toleration_seconds := 3600

max_toleration_seconds := lib.parameters.scheduling.maxTolerationSeconds if {
	is_number(lib.parameters.scheduling.maxTolerationSeconds)
}

default max_grace_seconds := 3600

max_grace_seconds := lib.parameters.scheduling.maxGraceSeconds if is_number(lib.parameters.scheduling.maxGraceSeconds)

listed(group, name) := {item | some item in lib.parameters[group][name]}

# Where the object is to live; without a namespace nothing is its own.
default own_namespace := ""

own_namespace := input.object.metadata.namespace if is_string(input.object.metadata.namespace)

# METADATA
# title: Pods take only their own place on nodes
# description: >-
#   No priority class, scheduler or runtime class that the binding does not list, no node named past the scheduler, no
#   toleration of a taint but those of a lost node (node.kubernetes.io/not-ready and unreachable, with tolerationSeconds of
#   at most an hour), and no affinity that looks at pods of other namespaces.
# custom:
#   id: starter/tenancy/scheduling
#   severity: high
#   remediation: >-
#     Remove the field named. If the platform offers it to tenants, have the security team sign a binding whose parameters
#     scheduling.priorityClasses, schedulers, runtimeClasses or tolerations list it, or whose scheduling.maxTolerationSeconds
#     is higher.
#   controls: ["NIST SP 800-53 SC-6", "NIST SP 800-53 SC-4", "NIST SP 800-53 AC-4"]
deny contains lib.denial(rego.metadata.rule(), reason) if some reason in displaces

# The pods of everybody with a lower priority make room for it.
displaces contains sprintf("the pod has priority class %v", [class]) if {
	class := lib.pod.spec.priorityClassName
	not class in ({"", null} | listed("scheduling", "priorityClasses"))
}

displaces contains sprintf("the pod has priority %v", [priority]) if {
	priority := lib.pod.spec.priority
	not priority in {0, null}
	not listed_class
}

# The API server refuses a number that is not the class's own.
listed_class if lib.pod.spec.priorityClassName in listed("scheduling", "priorityClasses")

displaces contains sprintf("the pod is for scheduler %v", [scheduler]) if {
	scheduler := lib.pod.spec.schedulerName
	not scheduler in ({"", null, "default-scheduler"} | listed("scheduling", "schedulers"))
}

displaces contains sprintf("the pod has runtime class %v", [class]) if {
	class := lib.pod.spec.runtimeClassName
	not class in ({"", null} | listed("scheduling", "runtimeClasses"))
}

displaces contains sprintf("the pod names node %v itself", [node]) if {
	node := lib.pod.spec.nodeName
	not node in {"", null}
}

displaces contains sprintf("the pod tolerates taint %v", [taint]) if {
	some toleration in lib.pod.spec.tolerations
	taint := taint_of(toleration)
	not tolerable(taint, toleration)
}

# Without a key it tolerates every taint.
taint_of(toleration) := toleration.key if {
	is_string(toleration.key)
	toleration.key != ""
} else := "(every one)"

tolerable(taint, toleration) if {
	taint in lost_node
	is_number(toleration.tolerationSeconds)
	toleration.tolerationSeconds <= max_toleration_seconds
}

tolerable(taint, _) if taint in listed("scheduling", "tolerations")

displaces contains sprintf("a term of %s looks at pods of other namespaces", [kind]) if {
	some kind in {"podAffinity", "podAntiAffinity"}
	some term in affinity_terms(kind)
	looks_elsewhere(term)
}

affinity_terms(kind) := {term |
	some term in lib.pod.spec.affinity[kind].requiredDuringSchedulingIgnoredDuringExecution
} | {weighted.podAffinityTerm |
	some weighted in lib.pod.spec.affinity[kind].preferredDuringSchedulingIgnoredDuringExecution
}

# An empty selector selects every namespace; only none at all selects the pod's own.
looks_elsewhere(term) if {
	is_object(term)
	object.get(term, "namespaceSelector", null) != null
}

looks_elsewhere(term) if {
	some namespace in term.namespaces
	namespace != own_namespace
}

# METADATA
# title: Volumes are the cell's own
# description: >-
#   A claim gets a new volume of the cluster's default storage class, or of one that the binding lists: of another name there
#   may be no class at all, only volumes made by hand. It names no volume, selects none, has no annotation of the volume
#   controllers (they read volume.beta.kubernetes.io/storage-class before storageClassName), and copies nothing from another
#   namespace. Pods mount no inline CSI volume whose driver the binding does not list.
# custom:
#   id: starter/tenancy/storage
#   severity: high
#   remediation: >-
#     Remove the field or annotation named and let the default class make the volume. A class whose volumes are made on demand,
#     an inline CSI driver or an annotation that is safe for tenants is listed by the security team in parameter
#     storage.classes, storage.inlineDrivers or storage.annotations of the binding.
#   controls: ["NIST SP 800-53 SC-4", "NIST SP 800-53 AC-3", "NIST SP 800-53 AC-4"]
deny contains lib.denial(rego.metadata.rule(), reason) if some reason in takes

# Every claim of the object: itself, those of a StatefulSet, and those that go with a pod.
claims contains {"of": "the claim", "spec": input.object.spec} if input.object.kind == "PersistentVolumeClaim"

claims contains {"of": sprintf("claim template %s", [lib.name_of(template.metadata)]), "spec": template.spec} if {
	input.object.kind == "StatefulSet"
	some template in input.object.spec.volumeClaimTemplates
}

claims contains {"of": sprintf("volume %s", [volume.name]), "spec": volume.spec.ephemeral.volumeClaimTemplate.spec} if {
	some volume in lib.volumes
}

takes contains sprintf("%s names volume %v", [claim.of, name]) if {
	some claim in claims
	name := claim.spec.volumeName
	not name in {"", null}
}

takes contains sprintf("%s selects volumes that are there", [claim.of]) if {
	some claim in claims
	claim.spec.selector != null
}

takes contains sprintf("%s has storage class \"\", so it takes a volume made by hand", [claim.of]) if {
	some claim in claims
	claim.spec.storageClassName == ""
}

takes contains sprintf("%s has storage class %v, which the binding does not list", [claim.of, class]) if {
	some claim in claims
	class := claim.spec.storageClassName
	not class in ({"", null} | listed("storage", "classes"))
}

# The older way to say it, where the binding lets claims have the annotation.
takes contains sprintf("%s has storage class %v, which the binding does not list", [claim.of, class]) if {
	some claim in claim_metadata
	class := claim.metadata.annotations["volume.beta.kubernetes.io/storage-class"]
	not class in listed("storage", "classes")
}

# Apart from the claims: metadata may be missing there.
claim_metadata contains {"of": "the claim", "metadata": input.object.metadata} if {
	input.object.kind == "PersistentVolumeClaim"
}

claim_metadata contains {
	"of": sprintf("claim template %s", [lib.name_of(template.metadata)]),
	"metadata": template.metadata,
} if {
	input.object.kind == "StatefulSet"
	some template in input.object.spec.volumeClaimTemplates
}

claim_metadata contains {
	"of": sprintf("volume %s", [volume.name]),
	"metadata": volume.spec.ephemeral.volumeClaimTemplate.metadata,
} if {
	some volume in lib.volumes
}

# Kubernetes' own controllers, and the importer of KubeVirt, which copies from any namespace.
controller_domains := {
	"volume.kubernetes.io", "volume.beta.kubernetes.io", "volume.alpha.kubernetes.io", "pv.kubernetes.io",
	"cdi.kubevirt.io",
}

takes contains sprintf("%s has annotation %s", [claim.of, name]) if {
	some claim in claim_metadata
	some name, _ in claim.metadata.annotations
	lib.of_domain(name, controller_domains)
	not name in listed("storage", "annotations")
}

takes contains sprintf("%s has annotation k8s.io/CloneRequest", [claim.of]) if {
	some claim in claim_metadata
	some name, _ in claim.metadata.annotations
	name == "k8s.io/CloneRequest"
}

takes contains sprintf("%s copies from namespace %v", [claim.of, namespace]) if {
	some claim in claims
	some field in {"dataSource", "dataSourceRef"}
	namespace := claim.spec[field].namespace
	not namespace in {"", null, own_namespace}
}

takes contains sprintf("volume %s is made by CSI driver %v for whoever asks", [volume.name, driver]) if {
	some volume in lib.volumes
	volume.spec.csi != null
	driver := object.get(volume.spec.csi, "driver", "(none)")
	not driver in listed("storage", "inlineDrivers")
}

# METADATA
# title: Nothing delays its own deletion
# description: >-
#   No object, pod template or claim template has finalizers, and no pod or probe a terminationGracePeriodSeconds above an
#   hour: both hold up its end, and that of its namespace and node.
# custom:
#   id: starter/tenancy/finalizers
#   severity: medium
#   remediation: >-
#     Remove metadata.finalizers; what has to be done before an end belongs into a preStop hook. Set
#     terminationGracePeriodSeconds to what the pod needs; the security team may raise parameter scheduling.maxGraceSeconds of
#     the binding.
#   controls: ["NIST SP 800-53 SC-6", "NIST SP 800-53 CP-10"]
deny contains lib.denial(rego.metadata.rule(), reason) if some reason in stays

stays contains sprintf("%s has finalizer %v", [owner.of, finalizer]) if {
	some owner in owners
	some finalizer in owner.metadata.finalizers
	not of_kubernetes(owner.of, finalizer)
}

stays contains sprintf("the pod may take %v seconds to end, more than %v", [seconds, max_grace_seconds]) if {
	seconds := lib.pod.spec.terminationGracePeriodSeconds
	seconds > max_grace_seconds
}

stays contains sprintf("%s of container %s gives it %v seconds to end, more than %v", [
	probe,
	container.name,
	seconds,
	max_grace_seconds,
]) if {
	some container in lib.containers
	some probe in {"livenessProbe", "startupProbe"}
	seconds := container.spec[probe].terminationGracePeriodSeconds
	seconds > max_grace_seconds
}

owners contains {"of": "the object", "metadata": input.object.metadata}

owners contains {"of": "the pod template", "metadata": lib.pod.metadata} if input.object.kind != "Pod"

owners contains {"of": "the job template", "metadata": input.object.spec.jobTemplate.metadata}

owners contains {"of": "a claim template", "metadata": template.metadata} if {
	some template in input.object.spec.volumeClaimTemplates
}

owners contains {"of": "a claim template", "metadata": volume.spec.ephemeral.volumeClaimTemplate.metadata} if {
	some volume in lib.volumes
}

# Kubernetes puts these on what exists, and takes them off by itself; a template has no use for them.
of_kubernetes("the object", finalizer) if {
	finalizer in {"batch.kubernetes.io/job-tracking", "kubernetes.io/pvc-protection"}
}
