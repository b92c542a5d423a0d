// Package sniff lets gRPC and everything else on HTTP share one listener.
//
// A gRPC server with a transport of its own is several times as fast as one behind net/http, but it serves nothing else.
// So each connection is looked at before anybody reads from it: HTTP/1 is told by its first bytes, and a connection that
// begins as HTTP/2 by the content type of its first request.
//
//	accepted --HTTP/1--------------------------------------> HTTP
//	   \--preface--> SETTINGS sent --first HEADERS: gRPC---> GRPC
//	                      |    \----first HEADERS: other---> HTTP, without the acknowledgement of our SETTINGS
//	                      \----ping, or nothing in time----> GRPC
//
// Clients of gRPC say nothing more until they have seen the server's SETTINGS, so an empty one is sent to have them go
// on; the server sends its own after it, which any client takes. A client that is connected and has nothing to ask yet is
// one of gRPC: others connect when they have a request.
package sniff

import (
	"errors"
	"net"
	"sync"
	"time"
)

// Splitter shares out the connections of a listener.
type Splitter struct {
	inner   net.Listener
	timeout time.Duration
	open    func(net.Conn) (net.Conn, error)
	bounds  *Bounds
	http    branch
	grpc    branch

	mu      sync.Mutex
	closed  chan struct{} // closed by Close
	looking map[net.Conn]struct{}
	wg      sync.WaitGroup // of lookers
}

// New returns a Splitter of l. Nothing is accepted before Run. A connection whose first request does not come within the
// timeout is closed, or handed to GRPC if it is HTTP/2.
//
// Connections wait for their server in a goroutine each: what bounds the connections of l bounds them. In it a connection
// is opened first: open may speak TLS on it. It bounds its own time, and its error closes the connection. Nil: nothing is
// to be done. Connections of HTTP/2 are under bounds, nil: under none.
func New(l net.Listener, timeout time.Duration, open func(net.Conn) (net.Conn, error), bounds *Bounds) *Splitter {
	s := &Splitter{inner: l, timeout: timeout, open: open, bounds: bounds, closed: make(chan struct{}), looking: map[net.Conn]struct{}{}}
	s.http = branch{s, make(chan accepted)}
	s.grpc = branch{s, make(chan accepted)}
	return s
}

// HTTP is a listener of all connections that are not GRPC's. It also gets the errors of the inner listener: while they are
// not taken, nothing is accepted.
func (s *Splitter) HTTP() net.Listener { return &s.http }

// GRPC is a listener of the connections that begin with a gRPC call.
func (s *Splitter) GRPC() net.Listener { return &s.grpc }

// Run accepts connections until either listener is closed, which closes both, and waits for what it has started.
func (s *Splitter) Run() {
	defer s.wg.Wait()
	for {
		c, err := s.inner.Accept()
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				s.close()
				return
			}
			s.http.offer(accepted{err: err})
			continue
		}
		if !s.begin(c) {
			_ = c.Close() // nothing was read that could be lost
			continue
		}
		s.wg.Go(func() { s.look(c) })
	}
}

// begin notes a connection that is looked at, unless the Splitter is closed.
func (s *Splitter) begin(c net.Conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.isClosed() {
		return false
	}
	s.looking[c] = struct{}{}
	return true
}

func (s *Splitter) end(c net.Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.looking, c)
}

func (s *Splitter) isClosed() bool {
	select {
	case <-s.closed:
		return true
	default:
		return false
	}
}

// close gives up the connections that no server has yet.
func (s *Splitter) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.isClosed() {
		return
	}
	close(s.closed)
	for c := range s.looking {
		_ = c.Close() // no request of it was begun
	}
}

// look finds out whose a connection is, and hands it over.
func (s *Splitter) look(c net.Conn) {
	opened := c
	if s.open != nil {
		var err error
		if opened, err = s.open(c); err != nil {
			s.end(c)
			_ = c.Close() // open has said what there was to say
			return
		}
	}
	to, conn := s.judge(opened)
	s.end(c)
	if to == nil || !to.offer(accepted{conn: conn}) {
		_ = opened.Close() // its peer did, or everything ends
	}
}

// branch is one of the two listeners.
type branch struct {
	s  *Splitter
	ch chan accepted
}

type accepted struct {
	conn net.Conn
	err  error
}

// offer waits for the server of the branch. It reports whether that has taken it.
func (b *branch) offer(a accepted) bool {
	select {
	case b.ch <- a:
		return true
	case <-b.s.closed:
		return false
	}
}

// Accept implements net.Listener.
func (b *branch) Accept() (net.Conn, error) {
	select {
	case a := <-b.ch:
		return a.conn, a.err
	case <-b.s.closed:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (b *branch) Close() error {
	err := b.s.inner.Close()
	b.s.close()
	if errors.Is(err, net.ErrClosed) {
		return nil // the other branch was closed before
	}
	return err
}

// Addr implements net.Listener.
func (b *branch) Addr() net.Addr { return b.s.inner.Addr() }
