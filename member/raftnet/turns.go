package raftnet

import (
	"context"
	"errors"
	"sync/atomic"
)

// The library may begin a snapshot to a peer that is getting one. How one ended is reported to its raft a second later, and once more
// when the peer confirms it; if raft has begun another one by then, because the log after the first is gone, it takes the report
// for that of the second, looks where the peer is, finds that it needs a snapshot, and begins a third. Were each to end the
// one before, as its receiver does with what it is sent, each of those ends would be reported in turn, and on a link on which a
// snapshot takes longer than the second none would ever arrive.
//
//	one goes ---> another begins: it waits ---> the first arrived: the second fails, and raft sees what the peer has now
//	                                       +--> the first failed: the second goes
//
// Only one waits, since it may hold eight megabytes.

// turns lets one snapshot at a time go to a peer.
type turns struct {
	going   chan struct{} // of one place: held by the one that goes
	waiting chan struct{} // of one place: held by the one that waits
	arrived atomic.Uint64 // how many have
}

func newTurns() turns { return turns{going: make(chan struct{}, 1), waiting: make(chan struct{}, 1)} }

var (
	errTurn    = errors.New("two snapshots to it are under way or wait")
	errArrived = errors.New("another snapshot has just arrived there, which may do")
)

// take waits until no other snapshot goes. The turn is over with end.
func (t *turns) take(ctx context.Context, closing <-chan struct{}) error {
	select {
	case t.going <- struct{}{}:
		return nil
	default:
	}
	select {
	case t.waiting <- struct{}{}:
		defer func() { <-t.waiting }()
	default:
		return errTurn
	}
	before := t.arrived.Load()
	select {
	case t.going <- struct{}{}:
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-closing:
		return errClosed
	}
	if t.arrived.Load() != before {
		t.end(false)
		return errArrived
	}
	return nil
}

// end lets the next one go.
func (t *turns) end(arrived bool) {
	if arrived {
		t.arrived.Add(1)
	}
	<-t.going
}
