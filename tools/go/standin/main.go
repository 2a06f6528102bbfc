// Command standin stands in for the public images of the demonstration's shop where they cannot be pulled.
//
//	standin pause             holds the namespaces of a pod
//	standin serve PORT...     answers HTTP, gRPC health checks and plain TCP on these ports, and keeps calling
//	                          whatever its environment names as NAME_ADDR=host:port
//
// What became of the calls is at /standin/calls on every port, as JSON, and at /metrics as Prometheus reads it.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
)

const (
	// Between two calls of one address; a person who watches sees an edge open or close within it.
	pause = time.Second
	// One call, with its connection.
	patience = 2 * time.Second
)

// outcome is what became of the calls of one address.
type outcome struct {
	Answered uint64 `json:"answered"`
	Failed   uint64 `json:"failed"`
	Last     string `json:"last"`
}

// calls remembers outcomes by address.
type calls struct {
	// Requests that were answered here.
	asked atomic.Uint64
	lock  sync.Mutex
	found map[string]*outcome
}

func (c *calls) note(address string, err error) {
	c.lock.Lock()
	defer c.lock.Unlock()
	one := c.found[address]
	if one == nil {
		one = &outcome{}
		c.found[address] = one
	}
	if err == nil {
		one.Answered, one.Last = one.Answered+1, "answered"
	} else {
		one.Failed, one.Last = one.Failed+1, err.Error()
	}
}

func (c *calls) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	c.lock.Lock()
	defer c.lock.Unlock()
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(c.found)
}

// metrics writes how many requests were answered, and what became of the calls.
func (c *calls) metrics(w http.ResponseWriter, _ *http.Request) {
	c.lock.Lock()
	defer c.lock.Unlock()
	fmt.Fprintf(w, "# TYPE standin_requests_total counter\nstandin_requests_total %d\n", c.asked.Load())
	fmt.Fprintln(w, "# TYPE standin_calls_total counter")
	for address, one := range c.found {
		fmt.Fprintf(w, "standin_calls_total{address=%q,result=\"answered\"} %d\n", address, one.Answered)
		fmt.Fprintf(w, "standin_calls_total{address=%q,result=\"failed\"} %d\n", address, one.Failed)
	}
}

func main() {
	stop, cancel := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer cancel()
	if len(os.Args) < 2 {
		fail(errors.New("pause or serve is wanted"))
	}
	switch os.Args[1] {
	case "version":
		fmt.Println("standin 1.0.0")
	case "pause":
		<-stop.Done()
	case "serve":
		fail(serve(stop, os.Args[2:]))
	default:
		fail(fmt.Errorf("%q is neither pause nor serve", os.Args[1]))
	}
}

func fail(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "standin:", err)
		os.Exit(1)
	}
}

// serve answers on every port until it is told to stop.
func serve(stop context.Context, ports []string) error {
	seen := &calls{found: map[string]*outcome{}}
	for _, address := range addresses(os.Environ()) {
		go keepCalling(stop, address, seen)
	}
	handler := handler(seen)
	failed := make(chan error, len(ports))
	for _, port := range ports {
		listener, err := net.Listen("tcp", ":"+port)
		if err != nil {
			return err
		}
		server := &http.Server{Handler: handler, ReadHeaderTimeout: 10 * time.Second, Protocols: new(http.Protocols)}
		server.Protocols.SetHTTP1(true)
		// gRPC on the same port, without TLS.
		server.Protocols.SetUnencryptedHTTP2(true)
		go func() { failed <- server.Serve(listener) }()
	}
	select {
	case <-stop.Done():
		return nil
	case err := <-failed:
		return err
	}
}

// handler answers gRPC where it is spoken, and everything else with 200.
func handler(seen *calls) http.Handler {
	rpc := grpc.NewServer()
	healthpb.RegisterHealthServer(rpc, health.NewServer())
	mux := http.NewServeMux()
	mux.Handle("/standin/calls", seen)
	mux.HandleFunc("/metrics", seen.metrics)
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "a stand-in answers") })
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		seen.asked.Add(1)
		if r.ProtoMajor == 2 && strings.HasPrefix(r.Header.Get("Content-Type"), "application/grpc") {
			rpc.ServeHTTP(w, r)
			return
		}
		mux.ServeHTTP(w, r)
	})
}

// addresses returns what the variables called NAME_ADDR name.
func addresses(environment []string) []string {
	var found []string
	for _, variable := range environment {
		name, value, _ := strings.Cut(variable, "=")
		if _, _, err := net.SplitHostPort(value); strings.HasSuffix(name, "_ADDR") && err == nil {
			found = append(found, value)
		}
	}
	return found
}

func keepCalling(stop context.Context, address string, seen *calls) {
	for {
		seen.note(address, call(stop, address))
		select {
		case <-stop.Done():
			return
		case <-time.After(pause):
		}
	}
}

// call asks for the health of whoever answers there; something that speaks no gRPC is asked for a page.
func call(stop context.Context, address string) error {
	limit, cancel := context.WithTimeout(stop, patience)
	defer cancel()
	// A connection of its own each time: a new one is what a network policy decides on.
	client, err := grpc.NewClient("passthrough:///"+address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer func() { _ = client.Close() }()
	if _, err = healthpb.NewHealthClient(client).Check(limit, &healthpb.HealthCheckRequest{}); err == nil {
		return nil
	}
	if limit.Err() != nil {
		return fmt.Errorf("no answer within %s", patience)
	}
	return page(limit, address)
}

func page(limit context.Context, address string) error {
	connection, err := (&net.Dialer{}).DialContext(limit, "tcp", address)
	if err != nil {
		return err
	}
	defer func() { _ = connection.Close() }()
	deadline, _ := limit.Deadline()
	_ = connection.SetDeadline(deadline)
	if _, err = fmt.Fprintf(connection, "GET / HTTP/1.0\r\nHost: %s\r\n\r\n", address); err != nil {
		return err
	}
	_, err = bufio.NewReader(connection).ReadString('\n')
	return err
}
