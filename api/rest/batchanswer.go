package rest

import (
	"net/http"
	"sync"
	"time"
)

// answers are the lines that a batch answers with: written in the order of their places, whichever is known first. A
// client may take its time to read as long as it sends. It is in a hurry once it has nothing more to send, or
// batchAnswersMax bytes of answers wait and nothing more is taken from it: then it has to read within stall.
type answers struct {
	w     http.ResponseWriter
	rc    *http.ResponseController
	stall time.Duration // longest that the client may take to read
	gone  func()        // called once the client does not take answers any more

	mu      sync.Mutex
	changed *sync.Cond
	line    []*answer // not yet written
	bytes   int       // known and not yet written
	closed  bool      // nothing follows
	writing bool
	hurried bool // the client has to read
	broken  bool // the client does not take answers
}

type answer struct {
	body []byte
	done bool
}

func newAnswers(w http.ResponseWriter, rc *http.ResponseController, stall time.Duration, gone func()) *answers {
	a := &answers{w: w, rc: rc, stall: stall, gone: gone}
	a.changed = sync.NewCond(&a.mu)
	return a
}

// place takes the next place.
func (a *answers) place() *answer {
	a.mu.Lock()
	defer a.mu.Unlock()
	p := &answer{}
	a.line = append(a.line, p)
	return p
}

// fill says what stands at a place.
func (a *answers) fill(p *answer, body []byte) {
	a.mu.Lock()
	defer a.mu.Unlock()
	p.body, p.done = body, true
	a.bytes += len(body)
	a.changed.Broadcast()
}

func (a *answers) put(body []byte) { a.fill(a.place(), body) }

// room waits until more may be answered; false if the client does not take answers.
func (a *answers) room() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.bytes >= batchAnswersMax {
		a.pace(true)
		for a.bytes >= batchAnswersMax && !a.broken {
			a.changed.Wait()
		}
		a.pace(false)
	}
	return !a.broken
}

// hurry says that the client sends nothing more.
func (a *answers) hurry() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.pace(true)
}

// pace gives the write under way its deadline. There is none between writes: over HTTP/2 it would end the stream.
func (a *answers) pace(hurried bool) {
	a.hurried = hurried
	var deadline time.Time
	if a.writing && hurried {
		deadline = time.Now().Add(a.stall)
	}
	_ = a.rc.SetWriteDeadline(deadline) // a recorder in a test has none
}

func (a *answers) failed() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.broken
}

// close says that every place has been taken and filled.
func (a *answers) close() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.closed = true
	a.changed.Broadcast()
}

// run writes answers until close. Whatever is known by then goes out in one piece.
func (a *answers) run() {
	var buf []byte
	for {
		buf = a.take(buf[:0])
		if len(buf) == 0 {
			return
		}
		var err error
		if !a.failed() {
			if _, err = a.w.Write(buf); err == nil {
				err = a.rc.Flush()
			}
		}
		a.taken(len(buf), err)
	}
}

// take waits for answers that can be written and appends them to buf, for a write that begins now; none is the end.
func (a *answers) take(buf []byte) []byte {
	a.mu.Lock()
	defer a.mu.Unlock()
	for {
		n := 0
		for n < len(a.line) && a.line[n].done {
			buf = append(buf, a.line[n].body...)
			n++
		}
		clear(a.line[:n]) // what was sent need not be kept
		a.line = a.line[n:]
		if a.writing = len(buf) > 0; a.writing {
			a.pace(a.hurried)
		}
		if a.writing || a.closed {
			return buf
		}
		a.changed.Wait()
	}
}

// taken notes that so many bytes are off our hands. Once that has failed the rest is dropped.
func (a *answers) taken(n int, err error) {
	a.mu.Lock()
	a.bytes -= n
	a.writing = false
	if err == nil {
		a.pace(a.hurried)
	}
	first := err != nil && !a.broken
	a.broken = a.broken || err != nil
	a.changed.Broadcast()
	a.mu.Unlock()
	if first {
		a.gone()
	}
}
