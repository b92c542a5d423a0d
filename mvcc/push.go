package mvcc

import (
	"errors"
	"sync"
	"time"

	"holdfast/kv"
)

// asksMax is how many requests to a pushed stream wait for it; who asks for more waits too.
const asksMax = 16

// Push is Watch for a consumer that does not wait: see kv.WatchPush. Ten thousand streams that rest take no stack.
func (s *Store) Push(spec kv.WatchSpec, to kv.WatchSink) kv.WatchPush {
	p := &pushed{to: to, first: spec.Watches}
	p.room.L = &p.mu
	p.stream = stream{s: s, push: p, watches: map[int64]*watch{}}
	p.stream.yield = func(b kv.Batch, _ error) bool { return to.Bring(b) }
	return p
}

// pushed is a stream with a goroutine only while there is something to do for it.
//
//	new --Start--> awake --nothing left to do--> asleep --told, asked or stopped--> awake --> ... --> over
type pushed struct {
	stream
	to    kv.WatchSink
	first []kv.Watch // those of the spec, until they are added
	timer *time.Timer

	mu      sync.Mutex // taken under the hub's; held for a moment only
	room    sync.Cond  // asks got fewer, or the stream is over
	state   pushState
	asks    []kv.WatchControl
	cuts    []int64
	closed  bool // nothing more will be asked for
	stopped bool
	due     bool // progress is to be announced
}

type pushState uint8

const (
	pushNew    pushState = iota
	pushAwake            // its goroutine runs
	pushAgain            // and is to look around once more
	pushAsleep           // it has none
	pushOver
)

func (p *pushed) Start() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.state = pushAwake
	go p.run()
}

func (p *pushed) Ask(c kv.WatchControl) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for len(p.asks) >= asksMax && p.state != pushOver {
		p.room.Wait()
	}
	p.asks = append(p.asks, c)
	p.poke()
}

func (p *pushed) Cut(id int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cuts = append(p.cuts, id)
	p.poke()
}

func (p *pushed) Close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	p.poke()
}

func (p *pushed) Stop() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.stopped = true
	p.poke()
}

// announces has idle watches told from time to time how far they are.
func (p *pushed) announces() {
	if p.timer != nil {
		return
	}
	p.timer = time.AfterFunc(p.s.opts.ProgressEvery, func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.due = true
		p.poke()
	})
}

// rouse has the stream look whether there is something for it. It may be called with the hub's mu held.
func (p *pushed) rouse() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.poke()
}

// poke is rouse with mu held. A stream that is new looks around when it starts.
func (p *pushed) poke() {
	switch p.state {
	case pushAsleep:
		p.state = pushAwake
		go p.run()
	case pushAwake:
		p.state = pushAgain
	}
}

// run does what there is to do. The sink waits for its end: End is the last that it does.
func (p *pushed) run() {
	for {
		asleep, err := p.turn()
		if err != nil {
			p.finish(err)
			return
		}
		if asleep {
			return
		}
	}
}

// turn does one thing that was asked for, and sends a bounded amount. It reports whether there was nothing left to do.
func (p *pushed) turn() (asleep bool, err error) {
	if p.s.isClosed() {
		return false, errClosed()
	}
	if err := p.open(); err != nil {
		return false, err
	}
	if err := p.obeyNext(); err != nil {
		return false, err
	}
	idle, err := p.step()
	if err != nil || !idle {
		return false, err
	}
	return p.rest()
}

// open begins the stream.
func (p *pushed) open() error {
	if p.hubbed {
		return nil
	}
	p.enter()
	first := p.first
	p.first = nil
	for _, w := range first {
		if err := p.add(w); err != nil {
			return err
		}
	}
	return nil
}

// obeyNext takes one of the things that wait.
func (p *pushed) obeyNext() error {
	p.mu.Lock()
	var c kv.WatchControl
	ask, due := true, false
	switch {
	case p.stopped:
		p.mu.Unlock()
		return errStopped
	case len(p.cuts) > 0:
		if c.Cancel, p.cuts = p.cuts[0], p.cuts[1:]; len(p.cuts) == 0 {
			p.cuts = nil
		}
	case len(p.asks) > 0:
		if c, p.asks = p.asks[0], p.asks[1:]; len(p.asks) == 0 {
			p.asks = nil
		}
		p.room.Broadcast()
	default:
		ask, due, p.due = false, p.due, false
	}
	p.mu.Unlock()
	switch {
	case ask:
		return p.obey(c, true)
	case due:
		p.timer.Reset(p.s.opts.ProgressEvery)
		return p.announce()
	}
	return nil
}

// rest has the stream sleep, unless there is something to do. It ends one that has nothing left to bring.
func (p *pushed) rest() (asleep bool, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.state == pushAgain || p.stopped || p.due || len(p.asks)+len(p.cuts) > 0:
		p.state = pushAwake // only here: the next step looks at what it was told, which one in the midst of something does not
		return false, nil
	case p.closed && len(p.watches) == 0:
		return false, errStopped
	}
	p.state = pushAsleep
	return true, nil
}

func (p *pushed) finish(err error) {
	p.stream.close()
	if p.timer != nil {
		p.timer.Stop()
	}
	p.mu.Lock()
	p.state = pushOver
	p.room.Broadcast()
	p.mu.Unlock()
	if errors.Is(err, errStopped) {
		p.to.End(nil)
		return
	}
	p.to.End(asError(err))
}
