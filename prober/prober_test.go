package main

import (
	"errors"
	"io"
	"net"
	"os"
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

// scripted is a world in which each round takes 100 ms, and a target answers as its name says round by round.
type scripted struct {
	rounds int
}

func (s *scripted) try(one target) bool {
	answers, _, _ := net.SplitHostPort(one.To)
	return answers[min(s.rounds, len(answers)-1)] == '1'
}

func (s *scripted) now() time.Time { return time.UnixMilli(int64(s.rounds) * 100) }

func (s *scripted) rest(time.Duration) { s.rounds++ }

func TestV9AGateOpensWhenAllIsClosedThreeRoundsInARow(t *testing.T) {
	for _, one := range []struct {
		forbidden, allowed string
		rounds             int
		why                string
	}{
		{"0", "1", 2, ""},
		{"1100", "1", 4, ""},
		// Twice is not enough, and another target is no excuse.
		{"1001000", "1", 6, ""},
		// It was open, so the pod can send, whatever became of its name server.
		{"1000", "0", 3, ""},
		// Nothing answered, until the name server did.
		{"0", "000001", 5, ""},
		{"0", "0", 11, "nothing answers"},
		{"1", "1", 11, "1:1 (tcp)"},
		{"0000000000001", "0", 11, "nothing answers"},
	} {
		world := &scripted{}
		wanted := plan{SettleMS: 1000, Targets: []target{
			{one.forbidden + ":1", "tcp", true}, {"0:1", "udp", true}, {one.allowed + ":1", "dns", false},
		}}
		found := wanted.hold(world.try, world.now, world.rest)
		if world.rounds != one.rounds || (found.Why == "") != (one.why == "") || !strings.Contains(found.Why, one.why) {
			t.Errorf("%v: %d rounds, %q", one, world.rounds, found.Why)
		}
		if strings.Contains(found.Why, "0:1 (udp)") {
			t.Errorf("%v: names what was closed: %q", one, found.Why)
		}
	}
}

func TestAGateSaysHowLongItWasOpen(t *testing.T) {
	world := &scripted{}
	wanted := plan{SettleMS: 10_000, Targets: []target{{"111110:1", "tcp", true}, {"1:1", "dns", false}}}
	found := wanted.hold(world.try, world.now, world.rest)
	if found.Why != "" || found.LagMS[0] != 400 || found.LagMS[1] != 0 || found.Open != "01" {
		t.Errorf("%+v", found)
	}
}

func TestV9AGateEndsByWhatItFoundAndSaysSo(t *testing.T) {
	one, err := listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer one.close()
	address, message := one.stream.Addr().String(), t.TempDir()+"/message"
	for _, shut := range []bool{false, true} {
		forbidden := "127.0.0.1:1"
		if shut {
			forbidden = address
		}
		plan := `{"settle_ms": 500, "targets": [{"to": "` + forbidden + `", "how": "tcp", "closed": true},` +
			`{"to": "` + address + `", "how": "udp", "closed": false}]}`
		getenv := func(name string) string { return map[string]string{"PROBE_PLAN": plan}[name] }
		err := run([]string{"gate"}, getenv, io.Discard, message)
		said, _ := os.ReadFile(message)
		if shut != errors.Is(err, errShut) || shut != strings.Contains(string(said), address+" (tcp)") {
			t.Errorf("%v %s", err, said)
		}
		if !shut && string(said) != `{"open":"01","lag_ms":[0,0]}` {
			t.Errorf("%s", said)
		}
	}
}
