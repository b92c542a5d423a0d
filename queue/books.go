package queue

// opOverhead is what an op costs beside key and value, on disk and in memory.
const opOverhead = 64

// count adds a durable op to what is counted, or takes it off again.
func (q *Queue) count(o *op, by int64) {
	size := by * int64(o.size)
	q.bytes += size
	if o.rule >= 0 {
		q.ruleBytes[o.rule] += size
	}
	if o.live != nil && o.device != "" {
		if q.devices[o.device] += size; q.devices[o.device] <= 0 {
			delete(q.devices, o.device)
		}
	}
}

func (q *Queue) addKey(o *op) {
	k := q.keys[o.key]
	if k.last != nil {
		k.last.succ = o
		if o.rule >= 0 && k.last.n > k.last.lane.handed {
			q.dups[o.rule]++
		}
	}
	k.count++
	k.last = o
	q.keys[o.key] = k
}

// dropKey takes an op out of those of its key.
func (q *Queue) dropKey(o *op) {
	k, there := q.keys[o.key]
	if !there {
		return
	}
	if k.count--; k.count <= 0 {
		delete(q.keys, o.key)
		return
	}
	if k.last == o { // it was given up: the one before it is the last again
		if i, found := o.lane.find(o.pred); found && !o.lane.pending[i].skip {
			k.last = o.lane.pending[i]
			k.last.succ = nil
		}
	}
	q.keys[o.key] = k
}
