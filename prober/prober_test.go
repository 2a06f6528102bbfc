package main

import (
	"net"
	"strings"
	"testing"
	"time"
)

func TestEveryWayFindsWhatAnswers(t *testing.T) {
	one, err := listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer one.close()
	address := one.stream.Addr().String()
	wanted := plan{SettleMS: 300, Targets: []target{
		{address, "tcp", false}, {address, "echo", false}, {address, "udp", false},
		{"127.0.0.1:1", "tcp", true}, {"127.0.0.1:1", "udp", true}, {"127.0.0.1:1", "dns", true},
		{address, "tcp", true},
	}}
	found := wanted.tryAll()
	if found.Open != "1110001" {
		t.Errorf("open is %s", found.Open)
	}
	if found.LagMS[6] < 200 || found.LagMS[3] != 0 {
		t.Errorf("lags are %v", found.LagMS)
	}
}

func TestASilentListenerIsNoAnswer(t *testing.T) {
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	if once(target{silent.Addr().String(), "echo", false}) {
		t.Error("nothing came back")
	}
	if !once(target{silent.Addr().String(), "tcp", false}) {
		t.Error("the kernel accepts it")
	}
}

func TestClosedMeansThreeTimesInARow(t *testing.T) {
	tries := []bool{true, false, false, true, false, false, false, true}
	n := 0
	passed, lag := target{Closed: true}.follow(time.Now().Add(-time.Second), time.Minute, func(target) bool {
		n++
		return tries[n-1]
	})
	if passed || n != 7 || lag < 1000 {
		t.Errorf("passed %v after %d tries, lag %d", passed, n, lag)
	}
}

func TestOpenIsEnoughOnce(t *testing.T) {
	n := 0
	passed, _ := target{}.follow(time.Now(), time.Minute, func(target) bool { n++; return n == 2 })
	if !passed || n != 2 {
		t.Errorf("passed %v after %d tries", passed, n)
	}
}

func TestAPlanIsReadStrictly(t *testing.T) {
	found, err := read(`{"settle_ms": 1, "targets": [{"to": "NODE:10250", "how": "tcp", "closed": true}]}`, "10.1.2.3")
	if err != nil || found.Targets[0].To != "10.1.2.3:10250" {
		t.Errorf("%v %v", found, err)
	}
	for _, text := range []string{"", "[]", `{"targets": [{"to": "a", "how": "tcp"}]}`,
		`{"targets": [{"to": "a:1", "how": "shell"}]}`, `{"command": "x"}`} {
		if _, err := read(text, ""); err == nil {
			t.Errorf("%q was taken", text)
		}
	}
}

func TestAWholeResultFitsTheTerminationMessage(t *testing.T) {
	// 4 KiB hold what the agent asks for at most: see agent/isolation/probing.
	most := 200
	if size := most + most*len("60000,") + len(`{"open":"","lag_ms":[]}`); size > longest || !strings.Contains(terminationLog, "termination") {
		t.Errorf("%d", size)
	}
}
