package queue

import "unsafe"

// opOverhead is what an op counts beside key and value: what it takes in memory while it waits on disk (an op, its place in
// line and in the index), so that Options.MaxBytes bounds that too.
const opOverhead = 192

// payer is whose share of the queue an op takes.
type payer struct {
	name   string // empty: nobody's
	author bool   // the name is the principal by whom the op was written; else it is of an address, or a user of this machine
}

// writer is the principal that has written what a payer pays for, empty if that is not known.
func (p payer) writer() string {
	if p.author {
		return p.name
	}
	return ""
}

// owner is a payer that has ops in line.
type owner struct {
	payer
	ops   int   // in line
	bytes int64 // of those that are durable
}

// owned puts an op on a payer's account; none has no name.
func (q *Queue) owned(o *op, by payer) {
	if by.name == "" {
		return
	}
	d := q.devices[by]
	if d == nil {
		d = &owner{payer: by}
		q.devices[by] = d
	}
	d.ops++
	o.owner = d
}

// disown takes it off again, at its end.
func (q *Queue) disown(o *op) {
	if o.owner == nil {
		return
	}
	if o.live != nil { // of what is forgotten at once nobody asks for the author
		o.author = o.owner.writer()
	}
	if o.owner.ops--; o.owner.ops == 0 {
		delete(q.devices, o.owner.payer)
	}
	o.owner = nil
}

// payer is whose share the op takes, or its author once it has ended.
func (o *op) payer() payer {
	switch {
	case o.owner != nil:
		return o.owner.payer
	case o.live != nil:
		return payer{o.author, o.author != ""}
	}
	return payer{}
}

// deviceBytes is what the durable ops of a payer take.
func (q *Queue) deviceBytes(by payer) int64 {
	if d := q.devices[by]; d != nil {
		return d.bytes
	}
	return 0
}

// count adds a durable op to what is counted, or takes it off again.
func (q *Queue) count(o *op, by int64) {
	size := by * int64(o.size)
	q.bytes += size
	if o.rule >= 0 {
		q.ruleBytes[o.rule] += size
	}
	if o.owner != nil {
		o.owner.bytes += size
	}
	q.keyBytes += by * int64(len(o.key))
}

// memory is what durable ops take of it: themselves, their keys, their places in line and in the index, and the commands
// that are about to be sent.
func (q *Queue) memory() int64 {
	const each = int64(unsafe.Sizeof(op{}) + unsafe.Sizeof((*op)(nil)))
	return int64(q.depth)*each + q.keyBytes + int64(len(q.keys.slots))*indexSlot +
		int64(len(q.retries))*retryOverhead + q.loaded
}

func (q *Queue) addKey(o *op) {
	o.line = 1
	if last := q.keys.put(o); last != nil {
		last.succ = o
		o.line = last.line + 1
		if o.rule >= 0 && last.n > last.lane.handed {
			q.dups[o.rule]++
		}
	}
}

// dropKey takes an op out of those of its key.
func (q *Queue) dropKey(o *op) {
	last := q.keys.last(o.key)
	if last == nil {
		return
	}
	line := last.line - 1
	if line <= 0 {
		q.keys.remove(o.key)
		return
	}
	if last == o { // it was given up: the one before it is the last again
		if i, found := o.lane.find(o.pred); found && !o.lane.pending[i].skip {
			last = o.lane.pending[i]
			last.succ = nil
			q.keys.put(last)
		}
	}
	last.line = line
}
