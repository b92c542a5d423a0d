package member

import "sync"

// halt is how a replica dies. The library panics in goroutines of its own when its log or its state machine returns an
// error; instead, what fails calls stop, which never returns. So nothing that depends on the failed step is ever
// acknowledged, Run returns the error, and the process can end with a message. What hangs in stop is never released:
// a process in which a member has halted must exit.
type halt struct {
	once sync.Once
	err  error // why, readable once done is closed
	done chan struct{}
}

func newHalt() *halt { return &halt{done: make(chan struct{})} }

// fail records why the replica dies, if it is not dying yet.
func (h *halt) fail(err error) {
	h.once.Do(func() {
		h.err = err
		close(h.done)
	})
}

// stop records why the replica dies and blocks for ever.
func (h *halt) stop(err error) {
	h.fail(err)
	select {}
}

// failed reports whether the replica is dying.
func (h *halt) failed() bool {
	select {
	case <-h.done:
		return true
	default:
		return false
	}
}
