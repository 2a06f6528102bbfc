// Command load holds many light agents of one hub, so that a benchmark of the hub measures the hub.
//
// It speaks the protocol of bench/fleet/worker.py: its argument is a file with its task as JSON; it says "ready", waits
// for a line on standard input, then runs all agents at once until standard input ends. Events go to standard output,
// one JSON line each; times are CLOCK_MONOTONIC, which all processes share.
//
// An agent here is on the wire what a real one is: a join with its own key, mutual TLS, numbered frames, documents
// fetched and compared with their digests, signed receipts, a chained and signed audit log, metrics. It verifies no
// policy and keeps nothing on disk.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	"sync"
	"syscall"
	"time"
	"unsafe"
)

// task is what the parent wants; paths are absolute.
type task struct {
	Mode         string `json:"mode"` // "hub" or "floor"
	Realm        string `json:"realm"`
	HubCA        string `json:"hub_ca"`
	Enrolment    string `json:"enrolment"`
	Environment  string `json:"environment"`
	PushAudit    string `json:"push_audit"`    // "yes" or "no"
	Metrics      string `json:"metrics"`       // file with a MetricsBatch, or empty for none
	MetricsEvery string `json:"metrics_every"` // seconds
	Directory    string `json:"directory"`
	Agents       string `json:"agents"`  // names, separated by commas
	Address      string `json:"address"` // floor only
	Certificate  string `json:"certificate"`
	Key          string `json:"key"`
}

type event struct {
	Kind  string  `json:"kind"`
	Agent string  `json:"agent"`
	At    float64 `json:"at"`
	What  string  `json:"what"`
}

var out struct {
	sync.Mutex
	buffer *bufio.Writer
}

// now is CLOCK_MONOTONIC in seconds, what Python calls time.monotonic().
func now() float64 {
	var at syscall.Timespec
	const clockMonotonic = 1
	_, _, failed := syscall.Syscall(syscall.SYS_CLOCK_GETTIME, clockMonotonic, uintptr(unsafe.Pointer(&at)), 0)
	if failed != 0 {
		panic(failed)
	}
	return float64(at.Sec) + float64(at.Nsec)/1e9
}

// emit tells the parent what happened; buffered, so that a thousand events are not a thousand writes.
func emit(kind, agent, what string) {
	line, err := json.Marshal(event{kind, agent, now(), what})
	if err != nil {
		panic(err)
	}
	out.Lock()
	defer out.Unlock()
	_, _ = out.buffer.Write(append(line, '\n'))
}

func flush() {
	out.Lock()
	defer out.Unlock()
	_ = out.buffer.Flush()
}

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: load TASK.json")
		os.Exit(2)
	}
	data, err := os.ReadFile(os.Args[1])
	if err != nil {
		fail(err)
	}
	var wanted task
	if err := json.Unmarshal(data, &wanted); err != nil {
		fail(err)
	}
	// The load must not collect garbage in the middle of what is measured more than it has to.
	debug.SetGCPercent(400)
	out.buffer = bufio.NewWriterSize(os.Stdout, 1<<16)
	run, err := prepare(&wanted)
	if err != nil {
		fail(err)
	}
	emit("ready", "", "")
	flush()
	go func() {
		for range time.Tick(5 * time.Millisecond) {
			flush()
		}
	}()
	input := bufio.NewReader(os.Stdin)
	if _, err := input.ReadString('\n'); err != nil {
		return
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	run(ctx)
	_, _ = io.Copy(io.Discard, input)
	flush()
}

// prepare makes the keys of all agents before the clock starts, and returns what begins them.
func prepare(wanted *task) (func(context.Context), error) {
	names := strings.Split(wanted.Agents, ",")
	if wanted.Mode == "floor" {
		return prepareFloor(wanted, names)
	}
	return prepareAgents(wanted, names)
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, "load:", err)
	os.Exit(1)
}
