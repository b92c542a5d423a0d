package mvcc

import (
	"context"
	"time"

	"holdfast/kv"
)

// Run does the work in the background until ctx ends: flushes, by size and by time, and freeing what compaction has
// given up. It writes nothing while nothing has changed. An error is the store's failure; without Run the store works,
// and flushes only when told to or when HardBytes are reached.
func (s *Store) Run(ctx context.Context) error {
	ticker := time.NewTicker(s.opts.FlushEvery)
	defer ticker.Stop()
	var again <-chan time.Time // while the disk is full
	waited := 0
	for {
		var err error
		select {
		case <-ctx.Done():
			return nil
		case <-s.closed:
			return nil
		case <-s.wakeFlush:
			waited, err = 0, s.flush(false)
		case <-s.wakeSweep:
			err = s.sweepUp(ctx)
		case <-again:
			again, err = nil, s.flush(false)
		case <-ticker.C:
			if waited = s.waits(waited); waited == 0 {
				err = s.flush(false)
			}
		}
		switch {
		case kv.CodeOf(err) == kv.NoSpace:
			again = time.After(spaceRetry)
		case err != nil && ctx.Err() == nil:
			return err
		}
	}
}

// spaceRetry is how often a flush that found no space is tried again.
const spaceRetry = time.Second

// waits decides at a tick whether to go on waiting, and returns for how many ticks it has, 0 to flush now.
func (s *Store) waits(ticks int) int {
	s.applyMu.Lock()
	unsaved := s.unsaved
	s.applyMu.Unlock()
	little := s.layers.Load().active.bytes.Load() < s.opts.FlushBytes/smallShare
	if !unsaved || !little || ticks+1 >= smallWait {
		return 0
	}
	return ticks + 1
}
