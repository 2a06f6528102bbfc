// Command prober measures which packets get through, from inside a pod. Standard library only.
//
//	prober serve PORT     answers TCP and UDP on the port with what it was sent, until it is told to end
//	prober try            tries every target of the plan in PROBE_PLAN, and writes what became of them
//	prober gate           the same, and ends well only once whatever should be closed is: see gate.go
//
// A plan is JSON: {"settle_ms": 10000, "targets": [{"to": "10.0.0.1:443", "how": "tcp", "closed": true}, ...]}. "how"
// is tcp (a connection is made), echo and udp (what was sent comes back), or dns (a name server answers). In "to",
// NODE stands for the address of the node the pod runs on, from the variable NODE_IP, and RESOLVER for the pod's first
// name server. A target that should be closed is tried until it was closed three times in a row, or until the plan's
// time is over; any other until it is open, or for a third of that time.
//
// The result is JSON of at most 4 KiB in the termination message of the container, the one way out of a pod that may
// talk to nobody: {"open": "1010", "lag_ms": [1200, 0, ...]}. lag_ms is when a target was found open for the last time,
// from the first try on. A gate that gives up says why in its place, and ends with 1.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"
)

const (
	// Where the kubelet reads the result; the default path of every container.
	terminationLog = "/dev/termination-log"
	// The kubelet keeps no more of it.
	longest = 4096
)

// errShut ends a gate that did not open.
var errShut = errors.New("start gate")

func main() {
	if err := run(os.Args[1:], os.Getenv, os.Stdout, terminationLog); err != nil {
		fmt.Fprintln(os.Stderr, "prober:", err)
		if errors.Is(err, errShut) {
			os.Exit(1)
		}
		os.Exit(2)
	}
}

func run(arguments []string, getenv func(string) string, out io.Writer, message string) error {
	switch {
	case len(arguments) == 2 && arguments[0] == "serve":
		ended := make(chan os.Signal, 1)
		signal.Notify(ended, syscall.SIGTERM, os.Interrupt)
		one, err := listen(net.JoinHostPort("", arguments[1]))
		if err != nil {
			return err
		}
		defer one.close()
		<-ended
		return nil
	case len(arguments) == 1 && arguments[0] == "try":
		wanted, err := read(getenv("PROBE_PLAN"), getenv("NODE_IP"))
		if err != nil {
			return err
		}
		said, err := json.Marshal(wanted.tryAll())
		if err != nil {
			return err
		}
		fmt.Fprintln(out, string(said))
		return os.WriteFile(message, said, 0o600)
	case len(arguments) == 1 && arguments[0] == "gate":
		return gate(getenv, out, message)
	}
	return fmt.Errorf("usage: prober serve PORT | prober try | prober gate")
}

// gate returns once the pod may go on; what it leaves behind for the agent holds nobody up.
func gate(getenv func(string) string, out io.Writer, message string) error {
	wanted, err := read(getenv("PROBE_PLAN"), getenv("NODE_IP"))
	if err != nil {
		return err
	}
	found := wanted.hold(once, time.Now, time.Sleep)
	said, err := json.Marshal(found.result)
	if err != nil {
		return err
	}
	fmt.Fprintln(out, string(said))
	if found.Why != "" {
		said = []byte("start gate: " + found.Why)
	}
	if err := os.WriteFile(message, said[:min(len(said), longest)], 0o600); err != nil {
		fmt.Fprintln(out, err)
	}
	if found.Why != "" {
		return fmt.Errorf("%w: %s", errShut, found.Why)
	}
	return nil
}

// read parses a plan, and puts the addresses in that only the pod knows.
func read(text, node string) (*plan, error) {
	found := &plan{}
	decoder := json.NewDecoder(strings.NewReader(text))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(found); err != nil {
		return nil, fmt.Errorf("PROBE_PLAN: %w", err)
	}
	for i := range found.Targets {
		one := &found.Targets[i]
		if !known[one.How] {
			return nil, fmt.Errorf("PROBE_PLAN: %q is no way to try a target", one.How)
		}
		host, port, err := net.SplitHostPort(one.To)
		if err != nil {
			return nil, fmt.Errorf("PROBE_PLAN: %w", err)
		}
		switch host {
		case "NODE":
			one.To = net.JoinHostPort(node, port)
		case "RESOLVER":
			one.To = net.JoinHostPort(resolver(), port)
		}
	}
	return found, nil
}
