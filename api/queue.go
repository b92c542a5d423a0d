package api

import (
	"context"
	"time"
)

// QueuePage is the most writes that one list of a queue has.
const QueuePage = 1000

// Queue is a node's store-and-forward queue as its servers see it.
type Queue interface {
	// Status answers from memory.
	Status() QueueStatus
	// List returns writes in line and those kept for a look, by lane and number, at most QueuePage of them, and
	// those behind the one with the id after. Empty fields match everything. An unknown state is Invalid.
	List(f QueueFilter) ([]QueueItem, error)
	// Get returns one write with its value. Waiting until it has ended, or ctx has, is up to wait.
	Get(ctx context.Context, id string, wait bool) (item QueueItem, found bool, err error)
	// Discard gives a write up that was surely not sent, or forgets one that has ended; one that
	// may have been sent is given up if the cluster turns out not to have it: then done is false, and Get says how it ended.
	Discard(id string) (done, found bool, err error)
	// Pause stops sending until it is called with false, over restarts too.
	Pause(on bool) error
	// Flush sends what waits at once, whatever the rate and the pause after a failure.
	Flush()
	// Retry files a write that has ended otherwise than committed anew, by what this node knows now, and forgets the old
	// one. found false: it is not listed, or its value is gone.
	Retry(ctx context.Context, id string) (newID string, found bool, err error)
	// Last is the newest write of a key that waits, found false if none does.
	Last(key []byte) (item QueueItem, found bool, err error)
}

// QueueFilter says which writes a list has.
type QueueFilter struct {
	State, Prefix, After string
	Author               string // as in QueueItem
}

// QueueStatus is the body of GET /v1/queue without a filter, and a part of Status.
type QueueStatus struct {
	Depth         int     `json:"depth"` // writes acknowledged by this disk and not settled
	Bytes         int64   `json:"bytes"`
	MaxBytes      int64   `json:"max_bytes"`
	OldestSeconds float64 `json:"oldest_seconds"`
	Kept          int     `json:"kept"` // conflicts, rejections and the like that wait to be looked at
	DiskBytes     int64   `json:"disk_bytes"`
	Epoch         uint64  `json:"queue_epoch"`
	Down          string  `json:"down,omitempty"` // why nothing can be sent at present
	Paused        bool    `json:"paused"`         // nothing is sent until somebody resumes
	DrainRate     float64 `json:"drain_rate"`     // writes settled a second, of the last ten
	ETASeconds    float64 `json:"eta_seconds"`    // until it is drained at that rate, 0 if not known
}

// QueueItem is one write in the queue's listing.
type QueueItem struct {
	ID        string     `json:"id"`
	Key       string     `json:"key"`
	KeyBase64 string     `json:"key_base64"`
	Op        string     `json:"op,omitempty"` // put or delete; in GET /v1/queue/{id}
	Value     []byte     `json:"value,omitempty"`
	State     string     `json:"state"`
	Lane      string     `json:"lane"`
	Author    string     `json:"author,omitempty"` // the user who wrote it, or "device:" and the id of a token; empty: not known
	Queued    time.Time  `json:"queued"`
	Expires   *time.Time `json:"expires,omitempty"`
	Revision  int64      `json:"revision,omitempty"` // committed: its revision; conflict: the key's present one
	Code      string     `json:"code,omitempty"`     // why it ended otherwise
	Detail    string     `json:"detail,omitempty"`
}
