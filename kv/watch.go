package kv

// WatchSpec opens one stream that carries many watches. The stream ends when its context ends or Control is closed and
// no watch is left; breaking out of the iteration ends it too.
type WatchSpec struct {
	By      By
	Watches []Watch
	Control <-chan WatchControl // further requests while the stream runs; nil for none
}

// Watch is one range on a stream, told apart by ID, which must be unique on it.
type Watch struct {
	ID                int64
	Key, End          []byte // as in Range
	From              int64  // first revision wanted, 0 for those after the watch was made
	PrevKV            bool   // events carry the value they replaced, where history still has it
	Progress          bool   // announce progress from time to time while idle
	NoPuts, NoDeletes bool
	Fragment          bool // the events of one revision may come in several Batches
}

// WatchControl asks a running stream for one thing: Add, Cancel (an id, if Add is nil and Progress false) or Progress.
type WatchControl struct {
	Add      *Watch
	Cancel   int64
	Progress bool // answer with a Batch that has WatchID -1 and a revision that all synced watches have reached
}

// WatchAll is the WatchID of a Batch that speaks for all watches of a stream.
const WatchAll = int64(-1)

// Batch is one message of a stream. Events are in order of revision; all events of one revision come in one Batch,
// unless the watch allows fragments. Header.Revision is a revision this watch has seen everything up to, for a batch
// with events the last of them or later.
type Batch struct {
	Header
	WatchID  int64
	Created  bool
	Canceled bool // the watch has ended; Err says why, nil if it was asked to
	Err      *Error
	Progress bool
	Fragment bool // more events of the same revision follow
	Events   []Event
	State    WatchState // change of a proxy's link, else WatchSame
}

// WatchState is what a proxy tells its watchers about the link above it.
type WatchState uint8

// The states.
const (
	WatchSame       WatchState = iota
	WatchStale                 // the uplink is lost; what follows may be late
	WatchCatchingUp            // it is back; missed events follow in order
	WatchSynced                // caught up
	WatchResync                // history was lost: a full listing follows
)

// Event is one change of one key. KV of a delete has Key and ModRevision only.
type Event struct {
	Delete bool
	KV     KeyValue
	Prev   *KeyValue // with Watch.PrevKV, nil if there was none or history no longer has it
}

// IsCreate reports whether the event made the key exist.
func (e Event) IsCreate() bool { return !e.Delete && e.KV.CreateRevision == e.KV.ModRevision }
