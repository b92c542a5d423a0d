package main

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"time"
)

// mirror copies an etcd to an agent. The position moves only once the agent has what is before it, so that what runs
// again from there writes the same once more and misses nothing.
type mirror struct {
	src *etcdSource
	out *batcher
	at  position
	bar *progress

	left  int64 // keys that were left out
	noted time.Time
}

// stopped says where the next run goes on.
func (m *mirror) stopped(err error) error {
	if err == nil {
		return nil
	}
	code := exitTemporary
	if e, ok := errors.AsType[*exitError](err); ok {
		code = e.code
	} else if e, ok := errors.AsType[*etcdError](err); ok && e.final() {
		code = exitRefused
	}
	if serr := m.save(true); serr != nil {
		return exitf(code, "%w; and the state file cannot be written: %w", err, serr)
	}
	if m.src.state == "" {
		return exitf(code, "%w; without --state the next run begins anew", err)
	}
	return exitf(code, "%w; the same command goes on from there", err)
}

// save notes the position.
func (m *mirror) save(now bool) error {
	if m.src.state == "" || m.at.Revision == 0 || !now && time.Since(m.noted) < stateEvery {
		return nil
	}
	m.noted = time.Now()
	return writePosition(m.src.state, m.at)
}

// again does one step after the other until there is none. It tries again what fails and may not the next time, tries
// times in a row, or for ever if that is 0.
func again(ctx context.Context, tries int, step func() (more bool, err error)) error {
	pause := sourcePause
	for failed := 0; ; {
		more, err := step()
		if err == nil {
			if failed, pause = 0, sourcePause; !more {
				return nil
			}
			continue
		}
		failed++
		_, told := errors.AsType[*exitError](err)
		refused, said := errors.AsType[*etcdError](err)
		if ctx.Err() != nil || told || said && refused.final() || tries > 0 && failed >= tries {
			return err
		}
		timer := time.NewTimer(pause)
		pause = min(2*pause, sourcePauseMax)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return err
		}
	}
}

// copy copies what is left of the revision that the copy is of.
func (m *mirror) copy(ctx context.Context) error {
	limit := sourceKeys
	return again(ctx, sourceTries, func() (bool, error) {
		if m.at.Copied {
			return false, m.sameCluster(ctx)
		}
		err := m.copyPage(ctx, limit)
		if errors.Is(err, errLargePage) && limit > 1 {
			limit /= 2
			return true, nil
		}
		return true, err
	})
}

type rangeAnswer struct {
	Header etcdHeader `json:"header"`
	KVs    []etcdKV   `json:"kvs"`
	More   bool       `json:"more"`
	Count  number64   `json:"count"`
}

func (m *mirror) copyPage(ctx context.Context, limit int) error {
	if err := m.src.login(ctx); err != nil {
		return err
	}
	from, end := m.src.span(m.at.After)
	var a rangeAnswer
	err := m.src.ask(ctx, "/v3/kv/range", map[string]any{"key": from, "range_end": end, "limit": limit, "revision": m.at.Revision}, &a)
	if e, ok := errors.AsType[*etcdError](err); ok && e.compacted() {
		return m.gone()
	}
	if err != nil {
		return err
	}
	if err := m.of(a.Header); err != nil {
		return err
	}
	if m.at.Revision == 0 {
		m.at.Revision = int64(a.Header.Revision)
	}
	for _, kv := range a.KVs {
		if kv.Lease != 0 && !m.src.leased {
			m.left++
			continue
		}
		if err := m.out.add(ctx, putLine(kv.Key, kv.Value)); err != nil {
			return err
		}
	}
	if err := m.out.flush(ctx); err != nil {
		return err
	}
	if err := m.out.outcome(); err != nil {
		return err // the position stays before a key that is not here
	}
	if n := len(a.KVs); n > 0 {
		m.at.After = a.KVs[n-1].Key
	}
	if !a.More {
		m.at.Copied, m.at.Followed = true, m.at.Revision
	}
	m.bar.show("%d keys, %d to go", m.out.written, int64(a.Count)-int64(len(a.KVs)))
	return m.save(m.at.Copied)
}

// gone is for a revision that the etcd has compacted: what was deleted there meanwhile cannot be learnt any more.
func (m *mirror) gone() error {
	return exitf(exitRefused, "etcd has compacted what came after revision %d, so what was deleted there since is not known: delete what was imported, remove %s and begin anew (compact less often meanwhile)",
		max(m.at.Revision, m.at.Followed), orNone(m.src.state))
}

// of checks that the etcd is the one that the copy was begun from.
func (m *mirror) of(h etcdHeader) error {
	if m.at.Cluster == "" {
		m.at.Cluster = h.Cluster
	}
	if h.Cluster != m.at.Cluster {
		return exitf(exitRefused, "%s is of cluster %s, the import was begun from cluster %s: remove %s to begin anew", m.src.from, h.Cluster, m.at.Cluster, m.src.state)
	}
	return nil
}

func (m *mirror) sameCluster(ctx context.Context) error {
	if err := m.src.login(ctx); err != nil {
		return err
	}
	var a rangeAnswer
	from, _ := m.src.span(nil)
	if err := m.src.ask(ctx, "/v3/kv/range", map[string]any{"key": from, "count_only": true}, &a); err != nil {
		return err
	}
	return m.of(a.Header)
}

// follow carries changes over until ctx ends.
func (m *mirror) follow(ctx context.Context) error {
	return again(ctx, 0, func() (bool, error) {
		if err := m.src.login(ctx); err != nil {
			return true, err
		}
		return true, m.followOnce(ctx)
	})
}

type watchAnswer struct {
	Result struct {
		Header   etcdHeader `json:"header"`
		Created  bool       `json:"created"`
		Canceled bool       `json:"canceled"`
		Reason   string     `json:"cancel_reason"`
		Compact  number64   `json:"compact_revision"`
		Fragment bool       `json:"fragment"`
		Events   []struct {
			Type string `json:"type"`
			KV   etcdKV `json:"kv"`
		} `json:"events"`
	} `json:"result"`
	Error *struct {
		Message string `json:"message"`
	} `json:"error"`
}

// followOnce carries over what one watch brings.
func (m *mirror) followOnce(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	from, end := m.src.span(nil)
	resp, err := m.src.post(ctx, "/v3/watch", map[string]any{"create_request": map[string]any{
		"key": from, "range_end": end, "start_revision": m.at.Followed + 1, "progress_notify": true,
	}})
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	d := json.NewDecoder(resp.Body)
	for {
		var a watchAnswer
		if err := d.Decode(&a); err != nil {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return err
		}
		if a.Error != nil {
			return errors.New("etcd ended the watch: " + a.Error.Message)
		}
		if err := m.take(ctx, &a); err != nil {
			return err
		}
	}
}

// take carries over one message of a watch: the changes of whole revisions, in order.
func (m *mirror) take(ctx context.Context, a *watchAnswer) error {
	r := &a.Result
	if r.Compact != 0 {
		return m.gone()
	}
	if err := m.of(r.Header); err != nil {
		return err
	}
	if r.Canceled {
		return errors.New("etcd ended the watch: " + r.Reason)
	}
	for _, e := range r.Events {
		l := putLine(e.KV.Key, e.KV.Value)
		if e.Type == "DELETE" || e.KV.Lease != 0 && !m.src.leased {
			l = batchLine{Delete: opOn(e.KV.Key)}
		}
		if err := m.out.add(ctx, l); err != nil {
			return err
		}
	}
	if err := m.out.flush(ctx); err != nil {
		return err
	}
	if err := m.out.outcome(); err != nil {
		return err // a key that cannot be carried over: what comes after it would only look right
	}
	if !r.Created { // a created watch says the newest revision, whose events are still to come
		m.at.Followed = max(m.at.Followed, lastRevision(r.Header, a))
	}
	m.bar.show("followed up to revision %d, %d changes", m.at.Followed, m.out.written)
	return m.save(false)
}

// lastRevision is up to where everything has been seen with this message: with events up to the newest of them, since a
// slow watch may be far behind what the header says, without any up to what the header says.
func lastRevision(h etcdHeader, a *watchAnswer) int64 {
	n := len(a.Result.Events)
	if n == 0 {
		return int64(h.Revision)
	}
	return int64(a.Result.Events[n-1].KV.Mod)
}
