package queue

import "errors"

// The log may take twice what is in it, and tidySlack on top, before the oldest segment is emptied.
const tidySlack = 4 * segmentBytes

// tidy moves the few ops that hold the oldest segment forward, so that it can go: a conflict that nobody looks at would
// else keep every segment after it for ever. It runs beside the sender only, which reads what is moved.
func (q *Queue) tidy() error {
	seg := q.log.oldest()
	if seg == nil {
		return nil
	}
	q.writing.Lock()
	defer q.writing.Unlock()
	q.mu.Lock()
	if q.log.bytes() <= 2*(q.bytes+q.keptBytes)+tidySlack {
		q.mu.Unlock()
		return nil
	}
	var held []*op
	for _, o := range q.kept {
		if o.place.seg == seg {
			held = append(held, o)
		}
	}
	for _, l := range q.lanes {
		for _, o := range l.pending {
			if o.place.seg == seg {
				held = append(held, o)
			}
		}
	}
	q.mu.Unlock()
	for _, o := range held {
		if err := q.move(o, seg); err != nil {
			return err
		}
	}
	if err := q.log.drop(); err != nil {
		return err
	}
	q.kick() // there may be more to do
	return nil
}

// move writes an op down once more, if it is still in the segment. q.writing is held.
func (q *Queue) move(o *op, seg *segment) error {
	q.mu.Lock()
	from := o.place
	q.mu.Unlock()
	if from.seg != seg {
		return nil
	}
	b, err := q.log.read(from)
	if err != nil {
		return err
	}
	q.mu.Lock()
	recs := o.records(b)
	var at place
	places := placeOfLast(recs, &at)
	if o.state.Ended() {
		recs = append(recs, o.endRecord())
	} else if o.recall {
		recs = append(recs, record{kind: recordForget, lane: o.lane.id, n: o.n})
	}
	q.mu.Unlock()
	if err := q.log.append(recs, append(places, nil)[:len(recs)]); err != nil {
		return errors.Join(errMove, err)
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if o.place == from {
		o.place = at
		q.log.hold(at, 1)
		q.log.hold(from, -1)
	}
	return nil
}

var errMove = errors.New("queue: move what holds the oldest segment")
