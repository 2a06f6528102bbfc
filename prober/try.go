package main

import (
	"crypto/rand"
	"encoding/binary"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"time"
)

const (
	// One try; a packet that was dropped is not waited for any longer.
	patience = 700 * time.Millisecond
	// Between two tries of one target.
	pause = 100 * time.Millisecond
	// How often in a row a target must be closed.
	inARow = 3
	// Targets that are tried at once.
	atOnce = 64
)

// target is one edge.
type target struct {
	To     string `json:"to"`
	How    string `json:"how"`
	Closed bool   `json:"closed"`
}

type plan struct {
	SettleMS int      `json:"settle_ms"`
	Targets  []target `json:"targets"`
}

// result has one letter and one number for each target of the plan, in its order.
type result struct {
	Open  string `json:"open"`
	LagMS []int  `json:"lag_ms"`
}

var known = map[string]bool{"tcp": true, "echo": true, "udp": true, "dns": true}

func (p *plan) tryAll() result {
	open, lags := make([]bool, len(p.Targets)), make([]int, len(p.Targets))
	settle := time.Duration(p.SettleMS) * time.Millisecond
	begun, places, all := time.Now(), make(chan struct{}, atOnce), sync.WaitGroup{}
	for i, one := range p.Targets {
		all.Add(1)
		go func() {
			defer all.Done()
			places <- struct{}{}
			defer func() { <-places }()
			open[i], lags[i] = one.follow(begun, settle, once)
		}()
	}
	all.Wait()
	return result{letters(open), lags}
}

// follow tries until the target is what it should be, or time is over; it returns what it was at the end, and when it
// was open for the last time.
func (t target) follow(begun time.Time, settle time.Duration, try func(target) bool) (bool, int) {
	lag, closed := 0, 0
	if !t.Closed {
		settle /= 3
	}
	for {
		passed := try(t)
		elapsed := time.Since(begun)
		if passed {
			lag, closed = int(elapsed.Milliseconds()), 0
		} else {
			closed++
		}
		done := passed
		if t.Closed {
			done = closed >= inARow
		}
		if done || elapsed > settle {
			return passed, lag
		}
		time.Sleep(pause)
	}
}

// once tries a target one time.
func once(t target) bool {
	network := map[string]string{"tcp": "tcp", "echo": "tcp", "udp": "udp", "dns": "udp"}[t.How]
	connection, err := net.DialTimeout(network, t.To, patience)
	if err != nil {
		return false
	}
	defer connection.Close()
	if t.How == "tcp" {
		return true
	}
	if connection.SetDeadline(time.Now().Add(patience)) != nil {
		return false
	}
	if t.How == "dns" {
		return answers(connection)
	}
	sent, got := make([]byte, 16), make([]byte, 16)
	if _, err := rand.Read(sent); err != nil {
		return false
	}
	if _, err := connection.Write(sent); err != nil {
		return false
	}
	_, err = io.ReadFull(connection, got)
	return err == nil && string(got) == string(sent)
}

// answers asks for the root's name servers (RFC 1035, section 4.1); any answer to this very question will do.
func answers(connection net.Conn) bool {
	question := []byte{0, 0, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 1}
	if _, err := rand.Read(question[:2]); err != nil {
		return false
	}
	if _, err := connection.Write(question); err != nil {
		return false
	}
	answer := make([]byte, 512)
	n, err := connection.Read(answer)
	return err == nil && n >= 12 && binary.BigEndian.Uint16(answer) == binary.BigEndian.Uint16(question)
}

// resolver returns the first name server of this pod.
func resolver() string {
	text, err := os.ReadFile("/etc/resolv.conf")
	if err != nil {
		return ""
	}
	for _, line := range strings.Split(string(text), "\n") {
		if words := strings.Fields(line); len(words) > 1 && words[0] == "nameserver" {
			return words[1]
		}
	}
	return ""
}

// letters writes what was open as the result has it.
func letters(open []bool) string {
	said := strings.Builder{}
	for _, passed := range open {
		said.WriteByte("01"[btoi(passed)])
	}
	return said.String()
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}
