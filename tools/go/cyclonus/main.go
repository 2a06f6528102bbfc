// Command cyclonus judges traffic by NetworkPolicies with the matcher of github.com/mattfenwick/cyclonus: a second
// opinion that shares nothing with the evaluator it is compared with.
//
// Each line of its input is a question with policies, pods and what traffic is asked about; each line of its output is
// {"verdicts": [[ingress, egress], ...]} in the same order, or {"error": "..."}.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"

	"github.com/mattfenwick/cyclonus/pkg/matcher"
	v1 "k8s.io/api/core/v1"
	networking "k8s.io/api/networking/v1"
)

// That of the matcher in go.mod, put there by the linker.
var version string

// Longest line of the input.
const longest = 16 << 20

type port struct {
	Name     string      `json:"name"`
	Port     int         `json:"port"`
	Protocol v1.Protocol `json:"protocol"`
}

// end is a pod, or an address outside when it has no namespace.
type end struct {
	IP              string            `json:"ip"`
	Namespace       string            `json:"namespace"`
	NamespaceLabels map[string]string `json:"namespaceLabels"`
	PodLabels       map[string]string `json:"podLabels"`
	Ports           []port            `json:"ports"`
}

type traffic struct {
	From     int         `json:"from"`
	To       int         `json:"to"`
	Port     int         `json:"port"`
	Protocol v1.Protocol `json:"protocol"`
}

type question struct {
	Policies []*networking.NetworkPolicy `json:"policies"`
	Ends     []end                       `json:"ends"`
	Traffic  []traffic                   `json:"traffic"`
}

type answer struct {
	Verdicts [][2]bool `json:"verdicts,omitempty"`
	Error    string    `json:"error,omitempty"`
}

func main() {
	if len(os.Args) == 2 && os.Args[1] == "version" {
		fmt.Println("cyclonus " + version)
		return
	}
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(make([]byte, 0, 1<<20), longest)
	out := bufio.NewWriter(os.Stdout)
	encoder := json.NewEncoder(out)
	for lines.Scan() {
		if err := encoder.Encode(judge(lines.Bytes())); err != nil {
			fail(err)
		}
		// Whoever asks line by line waits for each answer.
		if err := out.Flush(); err != nil {
			fail(err)
		}
	}
	if err := lines.Err(); err != nil {
		fail(err)
	}
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, "cyclonus:", err)
	os.Exit(1)
}

// judge answers one line. The matcher panics where it is asked about what the API server would have refused.
func judge(line []byte) (found answer) {
	defer func() {
		if reason := recover(); reason != nil {
			found = answer{Error: fmt.Sprint(reason)}
		}
	}()
	var asked question
	if err := json.Unmarshal(line, &asked); err != nil {
		return answer{Error: err.Error()}
	}
	for _, policy := range asked.Policies {
		setDefaults(&policy.Spec)
	}
	policy := matcher.BuildNetworkPolicies(false, asked.Policies)
	for _, one := range asked.Traffic {
		to := asked.Ends[one.To]
		result := policy.IsTrafficAllowed(&matcher.Traffic{
			Source:           peer(asked.Ends[one.From]),
			Destination:      peer(to),
			ResolvedPort:     one.Port,
			ResolvedPortName: nameOf(to, one),
			Protocol:         one.Protocol,
		})
		found.Verdicts = append(found.Verdicts, [2]bool{result.Ingress.IsAllowed(), result.Egress.IsAllowed()})
	}
	return found
}

// setDefaults is what an API server does before it stores a policy: the matcher expects stored ones.
func setDefaults(spec *networking.NetworkPolicySpec) {
	if len(spec.PolicyTypes) > 0 {
		return
	}
	spec.PolicyTypes = []networking.PolicyType{networking.PolicyTypeIngress}
	if len(spec.Egress) > 0 {
		spec.PolicyTypes = append(spec.PolicyTypes, networking.PolicyTypeEgress)
	}
}

func peer(one end) *matcher.TrafficPeer {
	if one.Namespace == "" {
		return &matcher.TrafficPeer{IP: one.IP}
	}
	inside := &matcher.InternalPeer{
		PodLabels:       one.PodLabels,
		NamespaceLabels: one.NamespaceLabels,
		Namespace:       one.Namespace,
	}
	return &matcher.TrafficPeer{Internal: inside, IP: one.IP}
}

// nameOf is how the receiver calls the port that the traffic goes to.
func nameOf(to end, asked traffic) string {
	for _, one := range to.Ports {
		if one.Port == asked.Port && one.Protocol == asked.Protocol {
			return one.Name
		}
	}
	return ""
}
