package uplink

import (
	"bytes"
	"context"
	"errors"
	"io"
	"sync"
	"testing"
	"testing/synctest"

	"holdfast/api/apitest"
	"holdfast/internal/wire"
	"holdfast/kv"
)

// earlyConn is a connection whose first request came before its peer was certain.
type earlyConn struct {
	requests  chan Stream
	confirmed chan struct{}
}

func (c *earlyConn) AcceptStream(ctx context.Context) (Stream, error) {
	select {
	case s := <-c.requests:
		return s, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (c *earlyConn) Early() bool {
	select {
	case <-c.confirmed:
		return false
	default:
		return true
	}
}

func (c *earlyConn) Confirm(ctx context.Context) error {
	select {
	case <-c.confirmed:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// asked is a stream that has a request to read.
type asked struct {
	io.Reader
	mu     sync.Mutex
	answer bytes.Buffer
	closed bool
}

func (s *asked) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return 0, errors.New("closed")
	}
	return s.answer.Write(p)
}

// answered is how many bytes were.
func (s *asked) answered() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.answer.Len()
}

func (s *asked) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	return nil
}

func (s *asked) CancelRead(uint64) {}
func (s *asked) Abort(uint64)      { _ = s.Close() }

func TestOnlyWhatDoesNoHarmTwiceIsDoneBeforeThePeerIsCertain(t *testing.T) {
	put := []kv.Op{kv.Put{Key: []byte("k"), Value: []byte("v")}}
	numbered := kv.Command{Ops: put}
	numbered.ID.Seq = kv.Seq{N: 1}
	for _, c := range []struct {
		name  string
		req   wire.UplinkRequest
		early bool
	}{
		{"a read", wire.UplinkRequest{Verb: wire.UplinkRead, Body: wire.AppendQuery(nil, kv.Query{})}, true},
		{"a numbered write", wire.UplinkRequest{Verb: wire.UplinkDo, Body: wire.AppendCommand(nil, numbered)}, true},
		{"a write", wire.UplinkRequest{Verb: wire.UplinkDo, Body: wire.AppendCommand(nil, kv.Command{Ops: put})}, false},
		{"a control stream", wire.UplinkRequest{Verb: wire.UplinkNode}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				conn := &earlyConn{requests: make(chan Stream, 1), confirmed: make(chan struct{})}
				var b bytes.Buffer
				if err := wire.WriteFrame(&b, c.req.Append(nil)); err != nil {
					t.Fatal(err)
				}
				s := &asked{Reader: &b}
				conn.requests <- s
				ctx, cancel := context.WithCancel(t.Context())
				done := make(chan struct{})
				go func() {
					New(apitest.NewMemory(), nil).Serve(ctx, conn, Peer{Node: "p", Scope: []string{""}})
					close(done)
				}()
				synctest.Wait()
				if got := s.answered() > 0; got != c.early {
					t.Errorf("answered early: %v, want %v", got, c.early)
				}
				close(conn.confirmed)
				synctest.Wait()
				if s.answered() == 0 {
					t.Error("not answered once the peer was certain")
				}
				cancel()
				<-done
			})
		})
	}
}
