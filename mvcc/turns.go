package mvcc

import (
	"runtime"
	"sync"
	"time"
)

// A change that many watch makes a goroutine runnable for each of them, and Go's runtime has whoever comes after, a PUT above
// all, wait until they have had their turn. So only a few streams are woken at once, and the others stand in line:
//
//	few are told, nobody in line  they are woken at once, as is every stream of a node that has little to do
//	many are told                 they are woken a few at a time, and what else is runnable has its turn in between
//	more is told meanwhile        behind each few is a pause as well. Streams in line get what comes meanwhile in one piece, so
//	                              there is less to do, and about half the time the cores are free for others
const (
	// turnsAtOnce is how many streams are woken without standing in line.
	turnsAtOnce = 32
	// turnsFew is how many are woken at a time, or 1/turnsShare of the line if that is more: so a line of any length moves on.
	turnsFew   = 16
	turnsShare = 16
	// turnsPause is the least and turnsPauseMax the longest pause.
	turnsPause    = time.Millisecond
	turnsPauseMax = 20 * time.Millisecond
)

// turns are the streams that are to be woken. All but walking is guarded by the hub's mu.
type turns struct {
	told    []*stream // by what is being shown
	line    []*stream // those that wait for their turn, the next one first
	walks   bool      // somebody goes along the line
	pauses  bool      // with pauses: it has grown since he began
	ended   bool      // nobody stands in line any more
	walking sync.WaitGroup
}

// add is for a stream that was told something.
func (t *turns) add(st *stream) {
	if !st.inLine.Load() {
		t.told = append(t.told, st)
	}
}

// wakeTold wakes those that were told, or has them stand in line. It blocks on nobody. It is called with mu held.
func (h *hub) wakeTold() {
	t := &h.turns
	switch {
	case len(t.told) == 0:
		return
	case t.ended || !t.walks && len(t.told) <= turnsAtOnce:
		for _, st := range t.told {
			st.rouse()
		}
	default:
		for _, st := range t.told {
			st.inLine.Store(true)
		}
		t.line = append(t.line, t.told...)
		t.pauses = t.pauses || t.walks
		if !t.walks {
			t.walks = true
			t.walking.Go(h.walk)
		}
	}
	clear(t.told)
	t.told = t.told[:0]
}

// walk wakes the streams in line, and ends when there are none.
func (h *hub) walk() {
	for {
		few, pauses := h.nextFew()
		if few == nil {
			return
		}
		began := time.Now()
		for _, st := range few {
			st.inLine.Store(false) // first: once it is awake it may be told of what it will not find this time
			st.rouse()
		}
		clear(few)
		runtime.Gosched()
		if pauses {
			time.Sleep(min(max(time.Since(began), turnsPause), turnsPauseMax))
		}
	}
}

// nextFew takes those whose turn it is out of the line, and says whether to pause behind them. If there are none, the caller
// is done.
func (h *hub) nextFew() (few []*stream, pauses bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	t := &h.turns
	n := min(max(turnsFew, len(t.line)/turnsShare), len(t.line))
	if n == 0 {
		t.line, t.walks, t.pauses = nil, false, false
		return nil, false
	}
	if t.ended {
		n = len(t.line)
	}
	few, t.line = t.line[:n], t.line[n:]
	return few, t.pauses && !t.ended
}

// end wakes everybody; nobody stands in line from now on.
func (h *hub) end() {
	h.mu.Lock()
	h.turns.ended = true
	for st := range h.streams {
		st.rouse()
	}
	h.mu.Unlock()
	h.turns.walking.Wait()
}
