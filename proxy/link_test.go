package proxy

import (
	"context"
	"iter"
	"sync"

	"holdfast/api/apitest"
	"holdfast/kv"
)

// link is an upstream that can be cut, as a client's is when nothing comes back.
type link struct {
	*apitest.Memory
	mu    sync.Mutex
	cut   chan struct{} // closed while cut
	ask   int           // reads that went up
	size  int           // bytes of values that reads brought down
	open  map[int64]bool
	runs  int           // watch streams opened
	loose chan struct{} // answers to reads wait for it, nil for not
	round int           // answers how far it is that were brought
	late  chan struct{} // those wait for it, nil for not

	former  bool          // it is of a version that takes no batch of renewals
	renewed []int         // the leases of each call that renewed some
	slow    chan struct{} // answers to renewals wait for it, nil for not
}

func newLink() *link {
	return &link{Memory: apitest.NewMemory(), cut: make(chan struct{}), open: map[int64]bool{}}
}

func (l *link) setCut(cut bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if cut {
		close(l.cut)
	} else {
		l.cut = make(chan struct{})
	}
}

func (l *link) state() (down bool, c chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	select {
	case <-l.cut:
		return true, l.cut
	default:
		return false, l.cut
	}
}

// found puts another cluster at the other end. The link must be cut.
func (l *link) found() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.Memory = apitest.NewMemory()
}

var errCut = kv.Errorf(kv.UpstreamUnavailable, "the link is cut")

func (l *link) Do(ctx context.Context, c kv.Command) (kv.Result, error) {
	if down, _ := l.state(); down {
		return kv.Result{}, errCut
	}
	if n := len(kv.Renewals(&c)); n > 0 {
		l.mu.Lock()
		l.renewed = append(l.renewed, n)
		former, slow := l.former, l.slow
		l.mu.Unlock()
		if _, batch := c.Ops[0].(kv.Each); batch && former {
			return kv.Result{}, kv.Errorf(kv.Invalid, "a renewal of a lease has to be the only op of its command, without guards")
		}
		res, err := l.Memory.Do(ctx, c)
		if slow != nil {
			<-slow
		}
		return res, err
	}
	return l.Memory.Do(ctx, c)
}

func (l *link) Read(ctx context.Context, q kv.Query) (kv.Page, error) {
	if down, _ := l.state(); down {
		return kv.Page{}, errCut
	}
	page, err := l.Memory.Read(ctx, q)
	l.mu.Lock()
	l.ask++
	for _, op := range page.Ops {
		for _, v := range op.KVs {
			l.size += len(v.Value)
		}
	}
	loose := l.loose
	l.mu.Unlock()
	if loose != nil {
		<-loose
	}
	return page, err
}

// holdAnswers keeps the answers to reads on the way until release.
func (l *link) holdAnswers() (release func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	loose := make(chan struct{})
	l.loose = loose
	return func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		if l.loose == loose {
			l.loose = nil
		}
		close(loose)
	}
}

// holdNoMore lets answers pass again, but for those that are held already.
func (l *link) holdNoMore() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.loose = nil
}

func (l *link) asked() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.ask
}

func (l *link) bytes() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.size
}

func (l *link) streamsOpened() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.runs
}

// watching is how many watches are open; right for one stream at a time.
func (l *link) watching() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.open)
}

func (l *link) Watch(ctx context.Context, w kv.WatchSpec) iter.Seq2[kv.Batch, error] {
	return func(yield func(kv.Batch, error) bool) {
		down, cut := l.state()
		if down {
			yield(kv.Batch{}, errCut)
			return
		}
		ctx, cancel := context.WithCancel(ctx)
		var wg sync.WaitGroup
		wg.Go(func() {
			select {
			case <-cut:
				cancel()
			case <-ctx.Done():
			}
		})
		defer wg.Wait()
		defer cancel()
		l.mu.Lock()
		clear(l.open)
		l.runs++
		l.mu.Unlock()
		for b, err := range l.Memory.Watch(ctx, w) {
			if down, _ := l.state(); down {
				break
			}
			if late := l.note(b); late != nil {
				<-late
			}
			if !yield(b, err) {
				return
			}
		}
		if down, _ := l.state(); down {
			yield(kv.Batch{}, errCut)
		}
	}
}

// note returns what a batch has to wait for, nil for nothing.
func (l *link) note(b kv.Batch) (late chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if b.WatchID == kv.WatchAll && b.Progress {
		l.round++
		return l.late
	}
	if b.Canceled {
		delete(l.open, b.WatchID)
	} else if b.Created {
		l.open[b.WatchID] = true
	}
	return nil
}

func (l *link) rounds() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.round
}

// holdRounds keeps the answers to rounds on the way until release.
func (l *link) holdRounds() (release func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	late := make(chan struct{})
	l.late = late
	return func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.late = nil
		close(late)
	}
}
