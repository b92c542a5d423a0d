package uplink

import (
	"context"
	"errors"
	"sync"
	"time"

	"holdfast/internal/wire"
)

// A member has ten thousand connections that rest, with a watch and a control stream each. What such a one costs is mostly the
// stacks of the goroutines that wait: a stack that is more than a quarter in use when the collector looks is not made
// smaller, so it takes four times what its goroutine holds while it waits. So what waits for long waits from a shallow
// stack: a request that lasts is decoded and begun by a call that returns before the wait, and what it needs then is in a
// struct.

// Line is a connection that is served.
type Line struct {
	server  *Server
	conn    Conn
	peer    Peer
	ctx     context.Context
	cancel  context.CancelFunc
	taking  context.Context // of ctx; ends first when the server is to end
	enough  context.CancelFunc
	free    func() bool    // the server's end no longer ends taking
	running sync.WaitGroup // of requests
}

// Serve answers requests until the connection or its context ends, or no more are to come, and waits for the answers under way.
func (l *Line) Serve() {
	l.accept()
	l.end()
}

func (l *Line) end() {
	defer l.running.Wait()
	defer l.cancel()
	defer l.enough()
	defer l.free()
	if l.server.ending.Err() == nil {
		return
	}
	late := time.AfterFunc(endGrace, l.cancel)
	defer late.Stop()
	l.running.Wait()
}

// accept takes requests until no more are to come.
func (l *Line) accept() {
	for {
		st, err := l.conn.AcceptStream(l.taking)
		if err != nil {
			return
		}
		l.take(st)
	}
}

//go:noinline
func (l *Line) take(st Stream) { l.running.Go((&request{Line: l, st: st}).serve) }

// request is one stream.
type request struct {
	*Line
	st Stream
	r  *wire.Patient
}

// errGone says that a request was given up, and its stream with it.
var errGone = errors.New("the stream is given up")

// serve answers the stream; a watch, a control stream or a tunnel, until taking ends.
func (q *request) serve() {
	lasting, err := q.begin()
	if lasting != nil {
		stop := context.AfterFunc(q.taking, q.abort)
		err = lasting()
		stop()
	}
	q.finish(err)
}

func (q *request) abort() { q.st.Abort(codeDone) }

// begin reads the request, and answers it or returns what goes on with it.
func (q *request) begin() (lasting func() error, err error) {
	defer context.AfterFunc(q.ctx, q.abort)()
	q.r = wire.NewPatient(q.st)
	frame, err := wire.ReadFrame(q.r)
	if err != nil {
		q.st.Abort(codeProtocol)
		return nil, errGone
	}
	u, err := wire.DecodeUplinkRequest(frame)
	if err != nil {
		return nil, wire.WriteFrame(q.st, wire.AppendError(nil, malformed(err)))
	}
	s := q.server
	if q.conn.Early() && !harmlessTwice(u) && q.conn.Confirm(q.taking) != nil {
		q.abort()
		return nil, errGone
	}
	switch {
	case u.Verb == wire.UplinkWatch:
		return q.watch(u.Body)
	case u.Verb == wire.UplinkNode && s.hooks.Attend != nil:
		defer context.AfterFunc(q.taking, q.abort)()
		return s.hooks.Attend(q.taking, q.conn, q.peer, q.r, q.st)
	case u.Verb == wire.UplinkTunnel && s.hooks.Carry != nil:
		return func() error { return s.hooks.Carry(q.taking, q.conn, q.peer, carried{q.st, q.r}, q.peer.below.enter) }, nil
	}
	return nil, s.answer(q.ctx, q.st, u, q.peer)
}

// finish ends the stream.
func (q *request) finish(err error) {
	if errors.Is(err, errGone) {
		return
	}
	if err == nil {
		err = q.st.Close()
	}
	if err != nil {
		q.abort()
		q.server.log.Debug("uplink stream ended early", "peer", q.peer.Node, "error", err)
		return
	}
	q.st.CancelRead(codeDone) // so that the stream gives its place back; Abort would take back the answer
}
