package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"testing"
	"time"
)

func freePort(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = listener.Close() }()
	return fmt.Sprint(listener.Addr().(*net.TCPAddr).Port)
}

// Two of them: one calls the other, and tells what became of it.
func TestCallsAreMadeAndCounted(t *testing.T) {
	stop, cancel := context.WithCancel(context.Background())
	defer cancel()
	called, caller, nobody := freePort(t), freePort(t), freePort(t)
	go func() { _ = serve(stop, []string{called}) }()
	t.Setenv("CALLED_ADDR", "127.0.0.1:"+called)
	t.Setenv("NOBODY_ADDR", "127.0.0.1:"+nobody)
	t.Setenv("PORT", "1")
	go func() { _ = serve(stop, []string{caller}) }()
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		found := map[string]outcome{}
		if answer, err := http.Get("http://127.0.0.1:" + caller + "/standin/calls"); err == nil {
			_ = json.NewDecoder(answer.Body).Decode(&found)
			_ = answer.Body.Close()
		}
		open, closed := found["127.0.0.1:"+called], found["127.0.0.1:"+nobody]
		if len(found) == 2 && open.Answered > 0 && closed.Failed > 0 && closed.Answered == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("calls: %+v", found)
		}
	}
}
