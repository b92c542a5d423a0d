package agent

import (
	"context"
	"fmt"
	"time"
)

// vital is by what a node is known to be alive: it answers, and its loop does not hang.
type vital struct {
	answers func(context.Context) error
	loop    *loop
	excused func() bool // the loop waits for what no new start would mend; nil: never
}

// check returns nil if so. It is called by one goroutine.
func (v vital) check(ctx context.Context) error {
	if err := v.loop.look(time.Now()); err != nil && (v.excused == nil || !v.excused()) {
		return err
	}
	return v.answers(ctx)
}

// loop is one that counts up when it begins a piece of work, and when it has ended it.
type loop struct {
	name string
	work func() uint64
	last uint64
	at   time.Time // when it was first seen at last
}

// lookLeast is how long a loop has to be at one piece of work to be said to hang, however soon it is looked at again. What counts is
// that the service manager's patience ends before the work does.
const lookLeast = 500 * time.Millisecond

// look returns an error if the loop is at the same piece of work as when it was looked at before.
func (l *loop) look(now time.Time) error {
	n := l.work()
	if n != l.last || n%2 == 0 {
		l.last, l.at = n, now
		return nil
	}
	if d := now.Sub(l.at); d >= lookLeast {
		return fmt.Errorf("%s has been at the same piece of work for %v", l.name, d.Round(time.Second))
	}
	return nil
}
