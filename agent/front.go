package agent

import (
	"context"
	"encoding/base64"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"holdfast/api"
	"holdfast/config"
	"holdfast/kv"
	"holdfast/queue"
)

// The folder of the queue in a data dir, used in every mode.
const queueName = "queue"

var _ api.Backend = (*queue.Queue)(nil)

// openQueue puts a queue in front of next if the configuration wants one, or if there may be writes left in one.
func (a *Agent) openQueue(next queue.Next) (*queue.Queue, error) {
	dir := a.dir.join(queueName)
	if len(a.cfg.Queue.Prefixes) == 0 {
		if there, err := a.dir.look(queueName); err != nil || there != filled {
			return nil, err
		}
	}
	q, err := queue.Open(next, queue.Options{
		Dir:         dir,
		Origin:      a.planned().node,
		Rules:       rules(a.cfg.Queue),
		MaxBytes:    int64(a.cfg.Queue.MaxBytes),
		DeviceBytes: int64(a.cfg.Queue.DeviceMaxBytes),
		DrainRate:   a.cfg.Queue.DrainRate,
		Free:        a.queueSpace(dir),
		Log:         a.opts.Log,
		Metrics:     a.opts.Metrics,
	})
	if err != nil {
		return nil, openError(err)
	}
	a.queue.Store(&queueView{q})
	return q, nil
}

// rules are queue.prefixes with what they leave empty filled in.
func rules(c config.Queue) []queue.Rule {
	var all []queue.Rule
	for _, p := range c.Prefixes {
		r := queue.Rule{Prefix: []byte(p.Prefix), MaxBytes: int64(p.MaxBytes), Expires: c.Expires}
		if p.Expires != 0 {
			r.Expires = p.Expires
		}
		if or(p.Guard, c.Guard) == "none" {
			r.Guard = queue.GuardNone
		}
		switch or(p.OnFull, c.OnFull) {
		case "coalesce":
			r.OnFull = queue.OnFullCoalesce
		case "drop-oldest":
			r.OnFull = queue.OnFullDropOldest
		}
		switch or(p.Lane, c.Lane) {
		case "high":
			r.Lane = kv.LaneHigh
		case "bulk":
			r.Lane = kv.LaneBulk
		default:
			r.Lane = kv.LaneNormal
		}
		all = append(all, r)
	}
	return all
}

func or(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

// spaceFresh is for how long what is free on the disk of the queue is taken as found: each write asks. What is written
// meanwhile comes out of the reserve, which is there for that.
const spaceFresh = 100 * time.Millisecond

func (a *Agent) queueSpace(dir string) func() (free, reserve int64) {
	type found struct {
		at            time.Time
		free, reserve int64
	}
	var last atomic.Pointer[found]
	return func() (int64, int64) {
		now := time.Now()
		if f := last.Load(); f != nil && now.Sub(f.at) < spaceFresh {
			return f.free, f.reserve
		}
		free, size, err := diskSpace(dir)
		if err != nil {
			return 0, 0 // the write itself will tell
		}
		f := &found{now, free, int64(a.cfg.Queue.DiskReserve.Of(config.Size(size)))}
		last.Store(f)
		return f.free, f.reserve
	}
}

// behind runs what stands behind the gate in the order in which it has to end: the queue first, then what it sends to.
func (a *Agent) behind(ctx context.Context, q *queue.Queue, next func(context.Context) error) error {
	if q == nil {
		return next(ctx)
	}
	rest, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	sending, halt := context.WithCancel(ctx)
	defer halt()
	var wg sync.WaitGroup
	var queueErr error
	wg.Go(func() {
		queueErr = errors.Join(q.Run(sending), q.Close())
		stop()
	})
	err := next(rest)
	halt()
	wg.Wait()
	return errors.Join(queueErr, err)
}

// Both are the size of a page; a difference does not compile.
var _ = [1]struct{}{}[queue.ListMax-api.QueuePage]

// queueView shows the queue to the servers.
type queueView struct{ q *queue.Queue }

var _ api.Queue = (*queueView)(nil)

// Status describes the queue.
func (v *queueView) Status() api.QueueStatus {
	s := v.q.Status()
	return api.QueueStatus{Depth: s.Depth, Bytes: s.Bytes, MaxBytes: s.MaxBytes, OldestSeconds: s.Oldest.Seconds(), Kept: s.Kept,
		DiskBytes: s.Disk, Epoch: s.Epoch, Down: s.Down, Paused: s.Paused, DrainRate: s.Rate, ETASeconds: s.ETA.Seconds()}
}

// Pause stops sending, or goes on.
func (v *queueView) Pause(on bool) error {
	if on {
		return v.q.Pause()
	}
	return v.q.Resume()
}

// Flush sends what waits at once.
func (v *queueView) Flush() { v.q.Flush() }

// Retry files a write anew.
func (v *queueView) Retry(ctx context.Context, id string) (string, bool, error) {
	return v.q.Retry(ctx, id)
}

// Last is the newest write of a key that waits.
func (v *queueView) Last(key []byte) (api.QueueItem, bool, error) {
	i, found, err := v.q.Last(key)
	item := describeItem(i)
	item.Op = "put"
	if i.Delete {
		item.Op = "delete"
	}
	item.Value = i.Value
	return item, found, err
}

// List lists writes.
func (v *queueView) List(f api.QueueFilter) ([]api.QueueItem, error) {
	only := -1
	if f.State != "" {
		s, ok := queue.ParseState(f.State)
		if !ok {
			return nil, kv.Errorf(kv.Invalid, "state %q is none of a queued write", f.State)
		}
		only = int(s)
	}
	items := []api.QueueItem{}
	found, err := v.q.ListOf(f.Author, only, f.Prefix, f.After)
	if err != nil {
		return nil, err
	}
	for _, i := range found {
		items = append(items, describeItem(i))
	}
	return items, nil
}

// Get finds a write.
func (v *queueView) Get(ctx context.Context, id string, wait bool) (api.QueueItem, bool, error) {
	var waited queue.Item
	if wait {
		var found bool
		var err error
		if waited, found, err = v.q.Wait(ctx, id); !found || err != nil {
			return describeItem(waited), found, err
		}
	}
	i, found, err := v.q.Get(id)
	if !found && err == nil && wait { // forgotten in between
		return describeItem(waited), true, nil
	}
	item := describeItem(i)
	item.Op = "put"
	if i.Delete {
		item.Op = "delete"
	}
	item.Value = i.Value
	return item, found, err
}

// Discard gives a write up.
func (v *queueView) Discard(id string) (done, found bool, err error) {
	if _, found, err = v.q.Get(id); !found || err != nil {
		return false, found, err
	}
	done, err = v.q.Discard(id)
	return done, true, err
}

var laneNames = map[kv.Lane]string{kv.LaneHigh: "high", kv.LaneNormal: "normal", kv.LaneBulk: "bulk"}

func describeItem(i queue.Item) api.QueueItem {
	item := api.QueueItem{ID: i.ID, Key: string(i.Key), KeyBase64: base64.StdEncoding.EncodeToString(i.Key), State: i.State.String(),
		Lane: laneNames[i.Lane], Author: i.Author, Queued: i.Queued.UTC(), Revision: i.Revision}
	if !i.Expires.IsZero() {
		at := i.Expires.UTC()
		item.Expires = &at
	}
	if i.Err != nil {
		item.Code, item.Detail = i.Err.Code.String(), i.Err.Error()
	}
	return item
}
