package main

import (
	"fmt"
	"io"
	"time"
)

// progressEvery is how often a line on a terminal is written anew.
const progressEvery = 200 * time.Millisecond

// progress shows on a terminal how far something has come; elsewhere nothing.
type progress struct {
	out   io.Writer // nil: not a terminal
	last  time.Time
	shown bool
}

func (p *program) progress() *progress {
	if isTerminal(p.stderr) {
		return &progress{out: p.stderr}
	}
	return &progress{}
}

func (g *progress) show(format string, args ...any) {
	if g.out == nil || time.Since(g.last) < progressEvery {
		return
	}
	g.last, g.shown = time.Now(), true
	fmt.Fprintf(g.out, "\r\x1b[K"+format, args...)
}

// end takes the line away.
func (g *progress) end() {
	if g.shown {
		fmt.Fprint(g.out, "\r\x1b[K")
	}
}

// steps shows on a terminal which step of some work is being done and for how long, where nobody can say how far it has come.
type steps struct {
	now  chan string
	over chan struct{}
}

// steps begins with one step. Elsewhere than on a terminal it shows nothing.
func (p *program) steps(what string) *steps {
	s := &steps{now: make(chan string), over: make(chan struct{})}
	go s.run(p.progress(), what)
	return s
}

// next is the next step.
func (s *steps) next(what string) { s.now <- what }

// end takes the line away and waits for that.
func (s *steps) end() {
	close(s.now)
	<-s.over
}

func (s *steps) run(bar *progress, what string) {
	defer close(s.over)
	defer bar.end()
	tick := time.NewTicker(progressEvery)
	defer tick.Stop()
	for begun := time.Now(); ; {
		select {
		case next, more := <-s.now:
			if !more {
				return
			}
			what, begun = next, time.Now()
		case <-tick.C:
			bar.show("%s: %d s", what, int(time.Since(begun).Seconds()))
		}
	}
}
