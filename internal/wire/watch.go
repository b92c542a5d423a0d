package wire

import "holdfast/kv"

const (
	specBy byte = 1 << iota
	specToken
)

// AppendWatchSpec appends the encoding of w to dst. Control is not part of it: each request that comes through it is a
// message of its own, see AppendWatchControl.
func AppendWatchSpec(dst []byte, w kv.WatchSpec) []byte {
	dst = appendStart(dst, kindWatchSpec)
	hasBy, hasToken := w.By.Named() != kv.By{}, w.By.Token != ""
	dst = append(dst, bit(hasBy, specBy)|bit(hasToken, specToken))
	if hasBy {
		dst = appendBy(dst, w.By)
	}
	if hasToken {
		dst = appendBytes(dst, w.By.Token)
	}
	return appendList(dst, w.Watches, appendWatch)
}

// DecodeWatchSpec is the inverse of AppendWatchSpec; Control is nil. Byte slices in the spec alias b.
func DecodeWatchSpec(b []byte) (kv.WatchSpec, error) { return decode(b, kindWatchSpec, watchSpec) }

func watchSpec(r *reader) (w kv.WatchSpec) {
	f := r.flags(specBy|specToken, "watch")
	if f&specBy != 0 {
		w.By = by(r)
	}
	if f&specToken != 0 {
		w.By.Token = token(r)
	}
	w.Watches = list(r, 5, "watches", watch)
	return w
}

const (
	controlAdd byte = 1 << iota
	controlProgress
	controlFlags = controlAdd | controlProgress
)

// AppendWatchControl appends the encoding of c to dst.
func AppendWatchControl(dst []byte, c kv.WatchControl) []byte {
	dst = appendStart(dst, kindWatchControl)
	dst = append(dst, bit(c.Add != nil, controlAdd)|bit(c.Progress, controlProgress))
	dst = appendInt(dst, c.Cancel)
	if c.Add != nil {
		dst = appendWatch(dst, c.Add)
	}
	return dst
}

// DecodeWatchControl is the inverse of AppendWatchControl. Byte slices in the request alias b.
func DecodeWatchControl(b []byte) (kv.WatchControl, error) {
	return decode(b, kindWatchControl, watchControl)
}

func watchControl(r *reader) (c kv.WatchControl) {
	f := r.flags(controlFlags, "watch control")
	c.Progress = f&controlProgress != 0
	c.Cancel = r.int("watch id")
	if f&controlAdd != 0 {
		w := watch(r)
		c.Add = &w
	}
	return c
}

const (
	watchPrevKV byte = 1 << iota
	watchProgress
	watchNoPuts
	watchNoDeletes
	watchFragment
	watchFlags = watchPrevKV | watchProgress | watchNoPuts | watchNoDeletes | watchFragment
)

func appendWatch(dst []byte, w *kv.Watch) []byte {
	dst = append(dst, bit(w.PrevKV, watchPrevKV)|bit(w.Progress, watchProgress)|bit(w.NoPuts, watchNoPuts)|
		bit(w.NoDeletes, watchNoDeletes)|bit(w.Fragment, watchFragment))
	dst = appendInt(dst, w.ID)
	dst = appendBytes(dst, w.Key)
	dst = appendBytes(dst, w.End)
	return appendInt(dst, w.From)
}

func watch(r *reader) (w kv.Watch) {
	f := r.flags(watchFlags, "watch")
	w.PrevKV, w.Progress, w.Fragment = f&watchPrevKV != 0, f&watchProgress != 0, f&watchFragment != 0
	w.NoPuts, w.NoDeletes = f&watchNoPuts != 0, f&watchNoDeletes != 0
	w.ID = r.int("watch id")
	w.Key = r.bytes("key")
	w.End = r.bytes("end of range")
	w.From = r.int("first revision")
	return w
}

const (
	batchCreated byte = 1 << iota
	batchCanceled
	batchErr
	batchProgress
	batchFragment
	batchFlags = batchCreated | batchCanceled | batchErr | batchProgress | batchFragment
)

// AppendBatch appends the encoding of b to dst.
func AppendBatch(dst []byte, b kv.Batch) []byte {
	dst = appendStart(dst, kindBatch)
	dst = append(dst, bit(b.Created, batchCreated)|bit(b.Canceled, batchCanceled)|bit(b.Err != nil, batchErr)|
		bit(b.Progress, batchProgress)|bit(b.Fragment, batchFragment))
	dst = appendHeader(dst, &b.Header)
	dst = appendInt(dst, b.WatchID)
	dst = append(dst, byte(b.State))
	if b.Err != nil {
		dst = appendError(dst, b.Err)
	}
	return appendList(dst, b.Events, appendEvent)
}

// DecodeBatch is the inverse of AppendBatch. Byte slices in the batch alias b.
func DecodeBatch(b []byte) (kv.Batch, error) { return decode(b, kindBatch, batch) }

func batch(r *reader) (b kv.Batch) {
	f := r.flags(batchFlags, "batch")
	b.Created, b.Canceled = f&batchCreated != 0, f&batchCanceled != 0
	b.Progress, b.Fragment = f&batchProgress != 0, f&batchFragment != 0
	b.Header = header(r)
	b.WatchID = r.int("watch id")
	b.State = enum(r, kv.WatchResync, "state of the link")
	if f&batchErr != 0 {
		b.Err = errorBody(r)
	}
	b.Events = list(r, 7, "events", event)
	return b
}

const (
	eventDelete byte = 1 << iota
	eventPrev
	eventFlags = eventDelete | eventPrev
)

func appendEvent(dst []byte, e *kv.Event) []byte {
	dst = append(dst, bit(e.Delete, eventDelete)|bit(e.Prev != nil, eventPrev))
	dst = appendKeyValue(dst, &e.KV)
	if e.Prev != nil {
		dst = appendKeyValue(dst, e.Prev)
	}
	return dst
}

func event(r *reader) (e kv.Event) {
	f := r.flags(eventFlags, "event")
	e.Delete = f&eventDelete != 0
	e.KV = keyValue(r)
	if f&eventPrev != 0 {
		v := keyValue(r)
		e.Prev = &v
	}
	return e
}
