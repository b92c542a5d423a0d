package member

import (
	"container/heap"
	"math"
	"sync"
	"time"

	"holdfast/kv"
)

// lessor keeps the time of leases. Only the leader does, from the moment its LeaderTerm is applied (it takes office) until
// it learns of another; the LeaderTerm's nonce, which is the office, goes with all that it decides.
//
// A lease ends no earlier than its TTL after it was granted or renewed, or after the present leader took office. Its time
// passes only while the leader runs: between two looks at the clock it moves by leaseStep at most, so that after a pause
// of the process, or a jump of the clock, the renewals that wait to be read come first.
type lessor struct {
	clock func() time.Duration

	mu      sync.Mutex
	office  uint64        // 0 while this replica does not keep the time
	changed chan struct{} // closed when office changes
	taking  map[int64]int64
	seen    time.Duration // when the clock was looked at last
	now     time.Duration // time that has passed for leases
	leases  map[int64]*lease
	order   expiries

	renewed, expired int64
}

// leaseStep is how far the time of leases moves between two looks at the clock, at most. One is made each leaseTick.
const (
	leaseTick = 100 * time.Millisecond
	leaseStep = 500 * time.Millisecond
)

// leaseRetry is when a lease that could not be revoked is tried again.
const leaseRetry = time.Second

// lease is one that is looked after.
type lease struct {
	id, ttl  int64 // seconds
	ends     time.Duration
	holds    int           // renewals that have arrived and wait for their round: it does not end meanwhile
	revoking chan struct{} // closed when its revocation is decided; nil while there is none
	place    int           // in lessor.order, -1 for none
}

func newLessor(clock func() time.Duration) *lessor {
	return &lessor{clock: clock, changed: make(chan struct{})}
}

// told is mvcc's Options.OnLease: a lease begins, or with a TTL of 0 ends.
func (l *lessor) told(id, ttl int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.taking != nil {
		l.taking[id] = ttl
	}
	if l.office != 0 {
		l.set(id, ttl)
	}
}

// set begins or ends a lease. The caller holds mu.
func (l *lessor) set(id, ttl int64) {
	if old := l.leases[id]; old != nil {
		if old.place >= 0 {
			heap.Remove(&l.order, old.place)
		}
		old.decided()
		delete(l.leases, id)
	}
	if ttl > 0 {
		l.pass()
		x := &lease{id: id, ttl: ttl, ends: l.end(ttl)}
		l.leases[id] = x
		heap.Push(&l.order, x)
	}
}

// decided lets go of those who wait for a revocation.
func (x *lease) decided() {
	if x.revoking != nil {
		close(x.revoking)
		x.revoking = nil
	}
}

// assume takes office: every lease has its full TTL from now on. List returns the leases there are; what begins or ends
// while it works is known from told.
func (l *lessor) assume(office uint64, list func() ([]kv.Lease, error)) error {
	l.mu.Lock()
	l.taking = map[int64]int64{}
	l.mu.Unlock()
	there, err := list()
	l.mu.Lock()
	defer l.mu.Unlock()
	taking := l.taking
	l.taking = nil
	if err != nil {
		return err
	}
	l.clear()
	l.leases = make(map[int64]*lease, len(there))
	l.seen, l.now = l.clock(), 0
	for _, x := range there {
		if _, newer := taking[x.ID]; !newer {
			l.set(x.ID, x.Granted)
		}
	}
	for id, ttl := range taking {
		l.set(id, ttl)
	}
	l.turn(office)
	return nil
}

// resign gives the office up, if it is held.
func (l *lessor) resign() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.office != 0 {
		l.clear()
		l.turn(0)
	}
}

func (l *lessor) clear() {
	for _, x := range l.leases {
		x.decided()
	}
	l.leases, l.order = nil, nil
}

func (l *lessor) turn(office uint64) {
	l.office = office
	close(l.changed)
	l.changed = make(chan struct{})
}

// inOffice returns the office, 0 for none, and a channel that is closed when it changes.
func (l *lessor) inOffice() (office uint64, changed <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.office, l.changed
}

// pass lets the time of leases pass. The caller holds mu.
func (l *lessor) pass() {
	clock := l.clock()
	l.now += min(max(clock-l.seen, 0), leaseStep)
	l.seen = clock
}

// hold keeps a lease from ending until release is called, because a renewal has arrived for it.
func (l *lessor) hold(id int64) (release func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	x := l.leases[id]
	if x == nil {
		return func() {}
	}
	x.holds++
	return func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		x.holds--
	}
}

// renew gives a lease its full TTL, unless the office is another. If its revocation is under way it returns a channel
// that is closed when that is decided.
func (l *lessor) renew(office uint64, id int64) (kv.Lease, <-chan struct{}, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	x := l.leases[id]
	switch {
	case l.office != office:
		return kv.Lease{}, nil, notInOffice()
	case x == nil:
		return kv.Lease{}, nil, leaseNotFound(id)
	case x.revoking != nil:
		return kv.Lease{}, x.revoking, nil
	}
	l.pass()
	x.ends = l.end(x.ttl)
	heap.Fix(&l.order, x.place)
	l.renewed++
	return kv.Lease{ID: id, TTL: x.ttl, Granted: x.ttl}, nil, nil
}

// left returns what a lease has left, in whole seconds, with a TTL of -1 if there is none.
func (l *lessor) left(office uint64, id int64) (kv.Lease, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	x := l.leases[id]
	switch {
	case l.office != office:
		return kv.Lease{}, notInOffice()
	case x == nil:
		return kv.Lease{ID: id, TTL: -1}, nil
	}
	l.pass()
	return kv.Lease{ID: id, TTL: int64(max(x.ends-l.now, 0) / time.Second), Granted: x.ttl}, nil
}

// due returns leases that have ended, most of them at a time, and the office; settle must be called for them.
func (l *lessor) due(most int) (office uint64, due []*lease) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.office == 0 {
		return 0, nil
	}
	l.pass()
	var held []*lease
	for len(due) < most && len(l.order) > 0 && l.order[0].ends <= l.now {
		x, _ := heap.Pop(&l.order).(*lease)
		if x.holds > 0 {
			held = append(held, x)
			continue
		}
		x.revoking = make(chan struct{})
		due = append(due, x)
	}
	for _, x := range held {
		heap.Push(&l.order, x)
	}
	return l.office, due
}

// settle ends an attempt to revoke what was due: what still is there is tried again.
func (l *lessor) settle(office uint64, due []*lease) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.office != office {
		return // they are others now
	}
	for _, x := range due {
		if l.leases[x.id] != x {
			l.expired++
			continue
		}
		x.decided()
		x.ends = l.now + leaseRetry
		heap.Push(&l.order, x)
	}
}

// count returns how many leases this replica looks after.
func (l *lessor) count() (leases, renewed, expired int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return int64(len(l.leases)), l.renewed, l.expired
}

// end is when a lease with a TTL in seconds ends if it begins now. The longest just fits into a Duration.
func (l *lessor) end(ttl int64) time.Duration {
	d := time.Duration(ttl) * time.Second
	return l.now + min(d, math.MaxInt64-l.now)
}

func leaseNotFound(id int64) *kv.Error {
	return kv.Errorf(kv.LeaseNotFound, "there is no lease %016x, or it has expired", uint64(id))
}

func notInOffice() *kv.Error {
	return noLeader("this member does not keep the time of leases at present")
}

// expiries is leases by when they end, the next one first: a heap.
type expiries []*lease

func (e expiries) Len() int           { return len(e) }
func (e expiries) Less(i, j int) bool { return e[i].ends < e[j].ends }

func (e expiries) Swap(i, j int) {
	e[i], e[j] = e[j], e[i]
	e[i].place, e[j].place = i, j
}

// Push implements heap.Interface.
func (e *expiries) Push(v any) {
	x, _ := v.(*lease)
	x.place = len(*e)
	*e = append(*e, x)
}

// Pop implements heap.Interface.
func (e *expiries) Pop() any {
	last := len(*e) - 1
	x := (*e)[last]
	(*e)[last] = nil
	*e = (*e)[:last]
	x.place = -1
	return x
}
