package namespace

import (
	"bytes"
	"context"
	"encoding/base64"

	"holdfast/api"
)

// Queue shows the writes of next whose keys begin with prefix, without it. Status, Pause and Flush are about all of it: how full a
// queue is and whether it drains is the same for everybody who uses it.
func Queue(next api.Queue, prefix string) api.Queue {
	return queue{next, &Namespace{prefix: []byte(prefix)}}
}

type queue struct {
	api.Queue
	n *Namespace
}

func (q queue) item(i api.QueueItem) (api.QueueItem, bool) {
	key, err := base64.StdEncoding.DecodeString(i.KeyBase64)
	if err != nil || !bytes.HasPrefix(key, q.n.prefix) {
		return api.QueueItem{}, false
	}
	key = q.n.outside(key)
	i.Key, i.KeyBase64 = string(key), base64.StdEncoding.EncodeToString(key)
	i.Detail = q.n.text(i.Detail)
	return i, true
}

func (q queue) List(f api.QueueFilter) ([]api.QueueItem, error) {
	f.Prefix = string(q.n.inside([]byte(f.Prefix)))
	all, err := q.Queue.List(f)
	if err != nil {
		return nil, q.n.fault(err)
	}
	items := make([]api.QueueItem, 0, len(all))
	for _, i := range all {
		if i, ok := q.item(i); ok {
			items = append(items, i)
		}
	}
	return items, nil
}

func (q queue) Get(ctx context.Context, id string, wait bool) (api.QueueItem, bool, error) {
	if wait { // not for what is of no concern here
		if _, found, err := q.Get(ctx, id, false); !found || err != nil {
			return api.QueueItem{}, false, err
		}
	}
	i, found, err := q.Queue.Get(ctx, id, wait)
	if !found || err != nil {
		return api.QueueItem{}, false, q.n.fault(err)
	}
	i, found = q.item(i)
	return i, found, nil
}

func (q queue) Discard(id string) (done, found bool, err error) {
	if _, found, err := q.Get(context.Background(), id, false); !found || err != nil {
		return false, false, err
	}
	done, found, err = q.Queue.Discard(id)
	return done, found, q.n.fault(err)
}

func (q queue) Retry(ctx context.Context, id string) (newID string, found bool, err error) {
	if _, found, err := q.Get(ctx, id, false); !found || err != nil {
		return "", false, err
	}
	newID, found, err = q.Queue.Retry(ctx, id)
	return newID, found, q.n.fault(err)
}

func (q queue) Last(key []byte) (api.QueueItem, bool, error) {
	i, found, err := q.Queue.Last(q.n.inside(key))
	if !found || err != nil {
		return api.QueueItem{}, false, q.n.fault(err)
	}
	i, found = q.item(i)
	return i, found, nil
}
