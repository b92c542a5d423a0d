package mvcc

import (
	"log/slog"
	"time"
)

// Options of a Store. The zero value of each field is the default named at it.
type Options struct {
	// FlushBytes is the memory of unflushed changes at which Run flushes. Default 8 MiB.
	FlushBytes int64
	// HardBytes is the memory of unflushed changes, those being flushed not counted, at which Apply itself flushes and
	// so waits for the disk. Default twice FlushBytes. One command may overshoot it by its own changes.
	HardBytes int64
	// FlushEvery is the longest that Run leaves changes unflushed. Default 30 s. Little of them (1/64 of FlushBytes)
	// waits ten times as long: replaying that much costs nothing, and each flush rewrites whole pages.
	FlushEvery time.Duration
	// RingBytes is the memory of flushed changes kept for watches that are almost up to date; those further behind read
	// the file. Default 2 MiB.
	RingBytes int64
	// ProgressEvery is how often an idle watch that asked for it announces its progress. Default 10 min, as in etcd.
	ProgressEvery time.Duration
	// Audit is told of each kv.Audit that is not void, as it is applied. It must not block. Default: nobody is.
	Audit func(AuditCall)
	// OnLease is told by Apply of each lease that begins, with its TTL in seconds, and of each that ends, with 0, in the
	// order of the log. It must not call the store. Default: nobody is told.
	OnLease func(id, ttl int64)
	// OnRecord is told by Apply of the name of each record that a command has set or removed, and with "" that any may have
	// changed. It must not call the store. Default: nobody is told.
	OnRecord func(name string)
	// Log gets what an operator should know. Default: nothing is logged.
	Log *slog.Logger

	step  func(name string) error // failpoints of tests
	nodes int64                   // flushNodes, in tests another

	catchUp int64 // catchUpBytes, in tests another
}

const (
	defaultFlushBytes    = 8 << 20
	defaultFlushEvery    = 30 * time.Second
	defaultRingBytes     = 2 << 20
	defaultProgressEvery = 10 * time.Minute

	// smallShare and smallWait are the terms on which a little waits longer; see Options.FlushEvery.
	smallShare = 64
	smallWait  = 10
)

func (o Options) withDefaults() Options {
	if o.FlushBytes <= 0 {
		o.FlushBytes = defaultFlushBytes
	}
	if o.HardBytes <= 0 {
		o.HardBytes = 2 * o.FlushBytes
	}
	if o.FlushEvery <= 0 {
		o.FlushEvery = defaultFlushEvery
	}
	if o.RingBytes <= 0 {
		o.RingBytes = defaultRingBytes
	}
	if o.ProgressEvery <= 0 {
		o.ProgressEvery = defaultProgressEvery
	}
	if o.nodes <= 0 {
		o.nodes = flushNodes
	}
	if o.catchUp <= 0 {
		o.catchUp = catchUpBytes
	}
	if o.Audit == nil {
		o.Audit = func(AuditCall) {}
	}
	if o.OnLease == nil {
		o.OnLease = func(int64, int64) {}
	}
	if o.OnRecord == nil {
		o.OnRecord = func(string) {}
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return o
}

// at is a point where a test may make the process die or an I/O error happen.
func (o *Options) at(name string) error {
	if o.step == nil {
		return nil
	}
	return o.step(name)
}
