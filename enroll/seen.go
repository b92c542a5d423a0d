package enroll

import (
	"cmp"
	"context"
	"slices"
	"strings"
	"sync"
	"time"
)

// LastSeen is when tokens of devices were shown to a node last, in seconds since 1970, by id.
type LastSeen map[string]int64

// seenMax is how many a node tells of, the newest: they fit a frame of the control stream. A member answers another one with as many.
const seenMax = 2500

// NewLastSeen is of at most seenMax times, the newest.
func NewLastSeen(at map[string]time.Time) LastSeen {
	s := make(LastSeen, len(at))
	for id, t := range at {
		s[id] = t.Unix()
	}
	s.trim()
	return s
}

// Merge takes over what u has seen later, and forgets the oldest beyond seenMax.
func (s LastSeen) Merge(u LastSeen) {
	for id, at := range u {
		s[id] = max(s[id], at)
	}
	s.trim()
}

func (s LastSeen) trim() {
	if len(s) <= seenMax {
		return
	}
	ids := make([]string, 0, len(s))
	for id := range s {
		ids = append(ids, id)
	}
	slices.SortFunc(ids, func(a, b string) int { return cmp.Or(cmp.Compare(s[b], s[a]), strings.Compare(a, b)) })
	for _, id := range ids[seenMax:] {
		delete(s, id)
	}
}

// At is when a token was seen, the zero time if it was not.
func (s LastSeen) At(id string) time.Time {
	if at, ok := s[id]; ok {
		return time.Unix(at, 0)
	}
	return time.Time{}
}

// Devices asks every node that is connected when it has seen the tokens of devices last. It takes reportWait at most.
func (r *Roll) Devices(ctx context.Context) LastSeen {
	ctx, cancel := context.WithTimeout(ctx, reportWait)
	defer cancel()
	r.mu.Lock()
	sessions := make([]*session, 0, len(r.sessions))
	for _, s := range r.sessions {
		sessions = append(sessions, s)
	}
	r.mu.Unlock()
	var mu sync.Mutex
	var asking sync.WaitGroup
	all := LastSeen{}
	for _, s := range sessions {
		if s.link.Lost() {
			continue
		}
		asking.Go(func() {
			if rep, came := s.ask(ctx, News{Devices: true}); came {
				mu.Lock()
				defer mu.Unlock()
				all.Merge(rep.Devices)
			}
		})
	}
	asking.Wait()
	return all
}
