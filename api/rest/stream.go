package rest

import (
	"errors"
	"net/http"
	"sync"
	"time"
)

// stream writes the messages of one watch, and a sign of life when there are none for a while. It is written to by the
// watch and by its own timer, one at a time.
type stream struct {
	w         http.ResponseWriter
	rc        *http.ResponseController
	sse       bool
	heartbeat time.Duration
	stall     time.Duration
	cancel    func() // ends the watch: its client does not read

	mu     sync.Mutex
	buf    []byte
	at     position // what a client has seen so far
	open   bool     // the reply has begun
	closed bool
	err    error
	timer  *time.Timer
}

// errSlow ends a watch whose client took too long to read, but does read.
var errSlow = errors.New("slow consumer")

const flushAt = 64 << 10 // bytes that may wait in memory for the end of a batch

// begin sends the head of the reply.
func (s *stream) begin(header http.Header) {
	header["Content-Type"] = typeNDJSON
	if s.sse {
		header["Content-Type"] = typeSSE
	}
	header["X-Content-Type-Options"] = nosniff
	header["Cache-Control"] = noStore
	header["X-Accel-Buffering"] = []string{"no"} // nginx would hold events back
	s.w.WriteHeader(http.StatusOK)
	s.open = true
	s.timer = time.AfterFunc(s.heartbeat, s.beat)
}

// put adds a message; it goes out with the next flush, or at once when much is waiting.
func (s *stream) put(m message) {
	if s.err != nil {
		return
	}
	if s.sse {
		s.buf = m.appendSSE(s.buf)
	} else {
		s.buf = m.appendNDJSON(s.buf)
	}
	if m.at != nil {
		s.at = *m.at
	}
	if len(s.buf) >= flushAt {
		s.flush()
	}
}

// flush sends what was put. The client has s.stall to take it; between that and twice as long the stream ends with
// errSlow, which can still be told, and after that the connection is cut.
func (s *stream) flush() {
	if len(s.buf) == 0 || s.err != nil {
		return
	}
	began := time.Now()
	deadline := s.rc.SetWriteDeadline(began.Add(2 * s.stall))
	_, err := s.w.Write(s.buf)
	if err == nil {
		err = s.rc.Flush()
	}
	if cap(s.buf) > 4*flushAt {
		s.buf = nil // one large value must not hold memory for the life of the watch
	}
	s.buf = s.buf[:0]
	switch {
	case err != nil:
		s.fail(err)
	case time.Since(began) > s.stall:
		s.fail(errSlow)
	default:
		if deadline == nil {
			_ = s.rc.SetWriteDeadline(time.Time{}) // over HTTP/2 it would end an idle stream
		}
		s.timer.Reset(s.heartbeat)
	}
}

func (s *stream) fail(err error) {
	s.err = err
	s.cancel()
}

// beat tells an idle client, and whatever is between, that the stream lives.
func (s *stream) beat() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || s.err != nil {
		return
	}
	if s.sse {
		s.buf = append(s.buf, ":\n\n"...)
	} else {
		m := message{kind: "progress"}
		if s.at.epoch != "" {
			m.at = &s.at
		}
		s.put(m)
	}
	s.flush()
}

// end sends the last message, if the reply has begun and the connection still takes one, and stops the timer. It reports
// whether the reply has begun; if not, nothing will be sent any more.
func (s *stream) end(last message) (begun bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	if !s.open {
		return false
	}
	if s.err == nil || errors.Is(s.err, errSlow) {
		s.err = nil
		s.put(last)
		s.flush()
	}
	s.timer.Stop()
	if s.err == nil {
		_ = s.rc.SetWriteDeadline(time.Time{}) // the connection may serve on
	}
	return true
}
