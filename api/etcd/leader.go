package etcd

import (
	"context"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
)

// hasLeader reports whether writes have somewhere to go: a leader, or on a proxy an uplink that answers.
func (s *Server) hasLeader() bool {
	st := s.opts.Reporter.Report()
	switch {
	case st.Member != nil:
		return st.Member.Leader != ""
	case st.Proxy != nil:
		return !st.Proxy.UplinkLost
	}
	return false
}

// A stream that requires a leader is ended once none was seen so often in a row, as in etcd: to open streams again costs
// more than to wait for an election.
const (
	leaderLook   = time.Second
	leaderMisses = 3
)

// leaders ends the streams that require a leader. It looks for one only while there are such streams.
type leaders struct {
	has func() bool

	mu      sync.Mutex
	closed  bool
	streams map[*context.CancelCauseFunc]struct{}
	stop    chan struct{} // closed when nobody is left to look for, nil while nobody looks
	wg      sync.WaitGroup
}

func newLeaders(has func() bool) *leaders {
	return &leaders{has: has, streams: map[*context.CancelCauseFunc]struct{}{}}
}

// watch calls cancel when there is no leader, unless done is called before.
func (l *leaders) watch(cancel context.CancelCauseFunc) (done func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	key := &cancel
	l.streams[key] = struct{}{}
	if l.stop == nil && !l.closed {
		stop := make(chan struct{})
		l.stop = stop
		l.wg.Go(func() { l.look(stop) })
	}
	return func() { l.forget(key) }
}

func (l *leaders) forget(key *context.CancelCauseFunc) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.streams, key)
	if len(l.streams) == 0 {
		l.end()
	}
}

// end is called with mu held.
func (l *leaders) end() {
	if l.stop != nil {
		close(l.stop)
		l.stop = nil
	}
}

func (l *leaders) look(stop chan struct{}) {
	ticker := time.NewTicker(leaderLook)
	defer ticker.Stop()
	misses := 0
	for {
		select {
		case <-stop:
			return
		case <-ticker.C:
		}
		if misses++; l.has() {
			misses = 0
		}
		if misses >= leaderMisses {
			l.mu.Lock()
			for cancel := range l.streams {
				(*cancel)(rpctypes.ErrGRPCNoLeader)
			}
			l.mu.Unlock()
		}
	}
}

// close waits until nobody looks any more.
func (l *leaders) close() {
	l.mu.Lock()
	l.closed = true
	l.end()
	l.mu.Unlock()
	l.wg.Wait()
}
