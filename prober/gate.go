package main

import (
	"fmt"
	"strings"
	"sync"
	"time"
)

// held is what became of a pod at its start gate.
type held struct {
	result
	// Why the pod must not go on; empty when it may.
	Why string
}

// hold tries all targets in rounds, until whatever should be closed was closed in three rounds in a row and the pod is
// known to be able to send: something was open to it, if only what should be. Closed ends prove nothing of a pod that
// reaches nobody. It gives up when the plan's time is over.
func (p *plan) hold(try func(target) bool, now func() time.Time, rest func(time.Duration)) held {
	lags, last := make([]int, len(p.Targets)), make([]int, len(p.Targets))
	begun, settle := now(), time.Duration(p.SettleMS)*time.Millisecond
	sends, row := false, 0
	for round := 1; ; round++ {
		open := p.round(try)
		elapsed := now().Sub(begun)
		row++
		for i, passed := range open {
			sends = sends || passed
			if passed && p.Targets[i].Closed {
				lags[i], last[i], row = int(elapsed.Milliseconds()), round, 0
			}
		}
		if row >= inARow && sends {
			return held{result{letters(open), lags}, ""}
		}
		if elapsed > settle {
			return held{result{letters(open), lags}, p.why(last, round, settle)}
		}
		rest(pause)
	}
}

// why names what was open in one of the last rounds.
func (p *plan) why(last []int, round int, settle time.Duration) string {
	names := []string{}
	for i, at := range last {
		if at > 0 && at > round-inARow {
			names = append(names, fmt.Sprintf("%s (%s)", p.Targets[i].To, p.Targets[i].How))
		}
	}
	if len(names) == 0 {
		return "nothing answers this pod, not even its name server, so what is closed to it proves nothing"
	}
	return fmt.Sprintf("open after %d s, and must be closed: %s", int(settle.Seconds()), strings.Join(names, ", "))
}

// round tries every target once, all at the same time.
func (p *plan) round(try func(target) bool) []bool {
	open, all := make([]bool, len(p.Targets)), sync.WaitGroup{}
	for i, one := range p.Targets {
		all.Add(1)
		go func() {
			defer all.Done()
			open[i] = try(one)
		}()
	}
	all.Wait()
	return open
}
