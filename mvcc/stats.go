package mvcc

import (
	"sync/atomic"
	"time"
)

// counters count since Open.
type counters struct {
	flushes    atomic.Int64
	flushNanos atomic.Int64
	stalls     atomic.Int64
	freed      atomic.Int64
	fileBytes  atomic.Int64
	freeBytes  atomic.Int64
}

// Stats is a look at the store, taken from memory.
type Stats struct {
	Applied, Durable         uint64
	Revision, Compact, Swept int64 // Swept: the compaction whose space is free
	OverlayBytes             int64 // memory of unflushed changes
	OverlayRecords           int64
	TailBytes                int64 // memory of changes kept for watches, unflushed ones included
	FileBytes, FreeBytes     int64 // size of the file, and how much of it is free for reuse, at the last flush
	Streams, Watches         int64
	Flushes                  int64
	FlushTime                time.Duration // of all flushes
	Stalls                   int64         // times that Apply had to wait for a flush
	Freed                    int64         // records that compaction has removed
}

// Stats never blocks on the disk.
func (s *Store) Stats() Stats {
	st := Stats{
		Applied: s.Applied(), Durable: s.Durable(),
		Revision: s.Revision(), Compact: s.CompactRevision(), Swept: s.swept.Load(),
		TailBytes: s.tail.size(),
		FileBytes: s.counts.fileBytes.Load(), FreeBytes: s.counts.freeBytes.Load(),
		Flushes: s.counts.flushes.Load(), FlushTime: time.Duration(s.counts.flushNanos.Load()),
		Stalls: s.counts.stalls.Load(), Freed: s.counts.freed.Load(),
	}
	l := s.layers.Load()
	for _, o := range [2]*overlay{l.active, l.flushing} {
		if o != nil {
			st.OverlayBytes += o.bytes.Load()
			st.OverlayRecords += o.count.Load()
		}
	}
	st.Streams, st.Watches = s.hub.size()
	return st
}

// measure takes the size of the file. The caller holds flushMu.
func (s *Store) measure() {
	used, free := s.layers.Load().file.size()
	s.counts.fileBytes.Store(used)
	s.counts.freeBytes.Store(free)
}
