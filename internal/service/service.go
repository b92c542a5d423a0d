// Package service starts the parts of a program in order and stops them in reverse.
package service

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"
)

// StopTimeout is how long a Part may take to stop unless it names another bound.
const StopTimeout = 10 * time.Second

// ErrStuck is the cause of a failure of a part that did not stop in time. Its goroutine is still running: this is the
// only case in which Run leaves anything behind, and the program is expected to exit.
var ErrStuck = errors.New("did not stop in time")

// ErrEnded is the cause of a failure of a part that returned without an error and without having been asked to stop.
var ErrEnded = errors.New("ended without being asked to")

// Part is one long-running piece of a program.
type Part struct {
	Name string

	// Run works until ctx ends, then stops and returns nil or the context's error. It calls ready once the parts
	// after it may rely on it; calling it again does nothing. Returning before ctx has ended is a failure.
	Run func(ctx context.Context, ready func()) error

	// StopTimeout bounds the time from the end of ctx to the return of Run, 0 for the package's StopTimeout.
	StopTimeout time.Duration
}

// Error is the failure of one part.
type Error struct {
	Part string
	Err  error
}

func (e *Error) Error() string { return e.Part + ": " + e.Err.Error() }

// Unwrap returns what the part reported, ErrEnded or ErrStuck.
func (e *Error) Unwrap() error { return e.Err }

// Group is a list of parts that live and die together.
type Group struct {
	log     *slog.Logger
	parts   []Part
	started chan struct{} // closed once every part is ready; it stays open if one fails before that
}

// New returns a Group of parts in the order in which they start.
func New(log *slog.Logger, parts ...Part) *Group {
	return &Group{log: log, parts: parts, started: make(chan struct{})}
}

// Run starts the parts, each once the one before it is ready, and blocks until ctx ends or a part fails. Then it stops
// what it started, the last part first, each one only after the one before has ended or used up its time. It returns
// the first failure as an *Error, or nil if there was none; failures after the first are logged. Run may be called
// once.
func (g *Group) Run(ctx context.Context) error {
	ended := make(chan *runner, len(g.parts)) // room for each part's only message
	var running []*runner
	var failed *runner
	for _, p := range g.parts {
		r := start(ctx, p, ended)
		running = append(running, r)
		select {
		case <-r.ready:
		case failed = <-ended:
		case <-ctx.Done():
		}
		if failed != nil || ctx.Err() != nil {
			break
		}
	}
	if failed == nil && ctx.Err() == nil {
		close(g.started)
		select {
		case failed = <-ended:
		case <-ctx.Done():
		}
	}
	return g.stop(running, failed)
}

// stop ends the parts in reverse and returns the first failure: that of failed, if there is one.
func (g *Group) stop(running []*runner, failed *runner) error {
	var first error
	if failed != nil {
		first = failed.failure()
		g.log.Error("part failed, stopping the others", "part", failed.Name, "err", failed.err)
	}
	for _, r := range slices.Backward(running) {
		err := r.stop()
		switch {
		case err == nil || r == failed:
		case first == nil:
			first = err
		default:
			g.log.Error("part failed while stopping", "part", r.Name, "err", err)
		}
	}
	return first
}

// runner is a part that has been started.
type runner struct {
	Part
	cancel context.CancelFunc
	ready  chan struct{}
	done   chan struct{} // closed after err is set
	err    error
}

func start(ctx context.Context, p Part, ended chan<- *runner) *runner {
	// A part outlives ctx: its own context ends when its turn to stop has come.
	own, cancel := context.WithCancel(context.WithoutCancel(ctx))
	r := &runner{Part: p, cancel: cancel, ready: make(chan struct{}), done: make(chan struct{})}
	go func() {
		once := false
		r.err = p.Run(own, func() {
			if !once {
				once = true
				close(r.ready)
			}
		})
		if own.Err() != nil && errors.Is(r.err, context.Canceled) {
			r.err = nil
		}
		close(r.done)
		ended <- r
	}()
	return r
}

// stop asks the part to end and waits for it as long as it may take.
func (r *runner) stop() error {
	r.cancel()
	bound := cmp.Or(r.StopTimeout, StopTimeout)
	timer := time.NewTimer(bound)
	defer timer.Stop()
	select {
	case <-r.done:
	case <-timer.C:
		return &Error{Part: r.Name, Err: fmt.Errorf("%w (%v)", ErrStuck, bound)}
	}
	if r.err != nil {
		return &Error{Part: r.Name, Err: r.err}
	}
	return nil
}

// failure is the error of a part that ended by itself.
func (r *runner) failure() error {
	<-r.done
	if r.err == nil {
		r.err = ErrEnded
	}
	return &Error{Part: r.Name, Err: r.err}
}
