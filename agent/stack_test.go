//go:build !race

package agent

import (
	"context"
	"runtime/debug"
	"testing"
	"unsafe"

	"holdfast/api"
	"holdfast/kv"
)

// stackBudget is what a PUT may have on the stack from the doors to where it waits for raft. Above it gRPC and the door for
// etcd's clients take 2.2 KB, below it the wait takes 0.6, and of the 8 KiB that the goroutine of a call has under load the
// runtime keeps one for itself. Beyond them the stack is copied to one twice as large, which took a tenth of the CPU of a
// PUT with 256 clients. So what is rare belongs into functions of its own: a caller's frame has room for it at all times.
const stackBudget = 3900

// deepest is a context that notes how far down the stack anybody asks when it ends.
type deepest struct {
	context.Context
	low uintptr
}

//go:noinline
func (d *deepest) Done() <-chan struct{} {
	var here byte
	d.low = min(d.low, uintptr(unsafe.Pointer(&here)))
	return d.Context.Done()
}

func TestPutFitsOnTheStackOfACall(t *testing.T) {
	a := launch(t, settings(t), Options{})
	within(t, "ready", a.Ready())
	// A stack moves when it grows and when the collector makes it smaller: neither is to happen between two looks.
	defer debug.SetGCPercent(debug.SetGCPercent(-1))
	node := api.Signed(a.gate)
	used := make(chan uintptr)
	go func() {
		grow(64)
		var here byte
		ctx := &deepest{Context: api.WithCaller(t.Context(), api.Caller{}), low: ^uintptr(0)}
		if _, err := node.Do(ctx, kv.Command{Ops: []kv.Op{kv.Put{Key: []byte("k"), Value: []byte("v")}}}); err != nil {
			t.Errorf("put: %v", err)
		}
		used <- uintptr(unsafe.Pointer(&here)) - ctx.low
	}()
	if n := <-used; n > stackBudget {
		t.Errorf("a PUT has %d bytes on the stack when it waits for raft, and %d is what is left", n, stackBudget)
	} else {
		t.Logf("%d bytes", n)
	}
}

// grow has the stack of this goroutine grow by so many kilobytes.
//
//go:noinline
func grow(kilobytes int) byte {
	var room [1024]byte
	if kilobytes > 0 {
		room[kilobytes] = grow(kilobytes - 1)
	}
	return room[kilobytes]
}
