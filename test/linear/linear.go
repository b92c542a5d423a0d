// Package linear checks histories of reads and writes for linearizability: whether one order of all operations, each at
// an instant between its call and its answer, explains every answer.
//
// Keys are independent registers with a mod revision, as a device sees them over HTTP:
//
//	h := linear.NewHistory()
//	call := h.Begin(client, linear.Put("k", "v"))
//	... send it ...
//	call.Done(linear.Wrote(revision))  // or call.Unknown(), or call.Refused()
//	err := h.Check(time.Minute)
//
// An operation whose outcome is unknown may have happened at any time after its call, or never.
package linear

import (
	"errors"
	"fmt"
	"math"
	"os"
	"sync"
	"time"

	"github.com/anishathalye/porcupine"
)

// Kind is what an operation does.
type Kind uint8

// The kinds.
const (
	KindGet Kind = iota
	KindPut
	KindDelete
	KindCAS
)

// Op is one operation on one key.
type Op struct {
	Kind     Kind
	Key      string
	Value    string // Put, CAS
	Revision int64  // CAS: the mod revision it depends on, 0 for none: the key must be absent
}

// Get reads key.
func Get(key string) Op { return Op{Kind: KindGet, Key: key} }

// Put sets key.
func Put(key, value string) Op { return Op{Kind: KindPut, Key: key, Value: value} }

// Delete removes key.
func Delete(key string) Op { return Op{Kind: KindDelete, Key: key} }

// CAS sets key if its mod revision is revision, or if it is absent when revision is 0.
func CAS(key, value string, revision int64) Op {
	return Op{Kind: KindCAS, Key: key, Value: value, Revision: revision}
}

// Answer is what came back.
type Answer struct {
	unknown  bool
	found    bool   // Get, Delete: the key was there; Put, CAS: it was written
	value    string // Get
	revision int64  // Get: mod revision; a write: its revision; a CAS that failed: the mod revision that stood there
}

// Found answers a Get.
func Found(value string, revision int64) Answer {
	return Answer{found: true, value: value, revision: revision}
}

// Absent answers a Get or Delete of a key that is not there.
func Absent() Answer { return Answer{} }

// Wrote answers a Put, a CAS that held or a Delete of a key that was there.
func Wrote(revision int64) Answer { return Answer{found: true, revision: revision} }

// Mismatch answers a CAS that did not hold, with the mod revision found, 0 for an absent key.
func Mismatch(revision int64) Answer { return Answer{revision: revision} }

// History records operations as they happen. It may be used by many goroutines.
type History struct {
	start time.Time

	mu  sync.Mutex
	ops []porcupine.Operation
}

// NewHistory begins one in which no key exists.
func NewHistory() *History { return &History{start: time.Now()} }

// Call is an operation under way.
type Call struct {
	h    *History
	op   porcupine.Operation
	done bool
}

// Begin notes that client sends op now. Exactly one of the methods of the Call ends it.
func (h *History) Begin(client int, op Op) *Call {
	return &Call{h: h, op: porcupine.Operation{ClientId: client, Input: op, Call: int64(time.Since(h.start))}}
}

// Done notes that the answer has arrived.
func (c *Call) Done(a Answer) { c.end(a, int64(time.Since(c.h.start))) }

// Unknown notes that there will be no answer, or one that leaves open what happened. A read like that says nothing and
// is forgotten.
func (c *Call) Unknown() {
	if op, ok := c.op.Input.(Op); ok && op.Kind == KindGet {
		c.Refused()
		return
	}
	c.end(Answer{unknown: true}, math.MaxInt64)
}

// Refused notes that the operation has certainly not happened.
func (c *Call) Refused() { c.once() }

func (c *Call) once() {
	if c.done {
		panic("linear: a call ended twice")
	}
	c.done = true
}

func (c *Call) end(a Answer, at int64) {
	c.once()
	c.op.Output, c.op.Return = a, at
	c.h.mu.Lock()
	defer c.h.mu.Unlock()
	c.h.ops = append(c.h.ops, c.op)
}

// Len is the number of operations recorded.
func (h *History) Len() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.ops)
}

// ErrNotLinearizable is the cause of an error from Check when no order explains the answers.
var ErrNotLinearizable = errors.New("not linearizable")

// ErrTooLong is the cause when the search did not end in time, which proves nothing.
var ErrTooLong = errors.New("the search took too long")

// Check searches for an order of the operations that ended so far. On failure it writes a page that shows the longest
// orders found, and names it.
func (h *History) Check(timeout time.Duration) error {
	h.mu.Lock()
	ops := append([]porcupine.Operation(nil), h.ops...)
	h.mu.Unlock()
	result, info := porcupine.CheckOperationsVerbose(model(), ops, timeout)
	switch result {
	case porcupine.Ok:
		return nil
	case porcupine.Unknown:
		return fmt.Errorf("%w: %d operations in %v", ErrTooLong, len(ops), timeout)
	}
	f, err := os.CreateTemp("", "linear-*.html")
	if err != nil {
		return errors.Join(ErrNotLinearizable, err)
	}
	err = errors.Join(porcupine.Visualize(model(), info, f), f.Close())
	return errors.Join(fmt.Errorf("%w: %d operations, drawn in %s", ErrNotLinearizable, len(ops), f.Name()), err)
}
