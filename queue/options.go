package queue

import (
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"holdfast/kv"
)

// Guard is the precondition of an op that was queued without one.
type Guard uint8

// The guards.
const (
	GuardSeen Guard = iota // nobody else wrote the key since what this node had seen
	GuardNone              // the last one wins, by sequence
)

// OnFull is what becomes of a write for which there is no room.
type OnFull uint8

// The ways to be full. What is given up for it was surely not sent.
const (
	OnFullReject     OnFull = iota // it is refused as NoSpace
	OnFullCoalesce                 // of each key the newest write that was not sent yet is kept, and the others end as Superseded
	OnFullDropOldest               // the oldest writes under the same prefix that were not sent yet end as Discarded
)

// Rule says how writes under a prefix are queued. The longest matching prefix counts.
type Rule struct {
	Prefix   []byte
	Lane     kv.Lane
	Guard    Guard
	OnFull   OnFull
	MaxBytes int64         // of queued ops under it, 0 for no bound of its own
	Expires  time.Duration // an op not sent by then is given up, 0 for never
}

// Options of a Queue; zero values are the defaults given.
type Options struct {
	Dir      string        // where segments live; made if missing
	Origin   [16]byte      // the node that numbers
	Rules    []Rule        // none: nothing is ever queued
	MaxBytes int64         // of queued ops, opOverhead for each counted in, 256 MiB; beyond it writes are refused with NoSpace
	Wait     time.Duration // how long WriteAuto waits for a quorum, 1 s
	Retry    time.Duration // longest pause between two attempts to send, 5 s
	// DeviceBytes bounds the queued ops of one device (kv.Command.Device), over restarts, 0 for no bound; beyond it
	// the device's writes are refused as RateLimited.
	DeviceBytes int64
	DrainRate   int // most ops sent per second, 0 for no bound
	Log         *slog.Logger
	Metrics     prometheus.Registerer // nil for none

	// Free returns the bytes free on the file system of Dir and the reserve below which nothing is queued. Nil: no
	// reserve.
	Free func() (free, reserve int64)

	disk disk
}

// The bounds of a queue that have no setting.
const (
	waitDefault     = time.Second
	retryDefault    = 5 * time.Second
	retryFirst      = 50 * time.Millisecond
	maxBytesDefault = 256 << 20
	memoryOps       = 1024               // ops held in memory only; further writers go to disk at once
	batchOps        = kv.OutcomeRing     // ops of one batch: never more unanswered than outcomes are kept for
	batchBytes      = 512 << 10          // of one batch
	markStep        = 1024               // numbers the sent mark is ahead by: one fsync for so many ops
	endsMax         = kv.OutcomeRing / 2 // outcomes of durable ops that may wait to be written down
	keptMax         = 1024               // conflicts and the like that stay listed; beyond it the oldest goes
	keptShare       = 4                  // of so many parts of MaxBytes what stays listed may take one
	recentMax       = 1024               // settled ops that can still be asked for, until a restart, and as many that were given up
	sendTimeout     = 10 * time.Second   // an attempt that takes longer counts as unanswered
	drainShare      = 10                 // of so many batches one takes the lowest lane first
	loadedBytes     = 8 * batchBytes     // commands of durable ops kept in memory, to spare reading them again
)
