// Package uplink is what proxies speak to members: commands, queries and watches of package kv over the streams of one
// connection. internal/wire has the format; the other end is package client.
//
// The server trusts the connection's word for who the peer is, and lets it touch the keys in the scope of its
// certificate only.
package uplink

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"time"

	"holdfast/api"
	"holdfast/internal/wire"
	"holdfast/kv"
)

// Conn is a connection that a peer opened.
type Conn interface {
	AcceptStream(ctx context.Context) (Stream, error)
	// Early reports whether Confirm would wait.
	Early() bool
	// Confirm returns once it is certain that the peer itself speaks. What came before may be a copy of what it said
	// before (0-RTT), and only what does no harm when done twice may be done.
	Confirm(ctx context.Context) error
}

// Stream is one request and its answer. Close ends the writing half, CancelRead the reading one; Abort gives up both.
type Stream interface {
	io.Reader
	io.Writer
	Close() error
	CancelRead(code uint64)
	Abort(code uint64)
}

// Peer is who a connection is from, as its certificate proves.
type Peer struct {
	Node  string
	Scope []string // key prefixes it may touch; "" for every key

	below *below // who is known to be behind it; set by Serve
}

// The codes a stream is aborted with.
const (
	codeDone     = 0
	codeProtocol = 1
)

// Bounds of one request. The transport bounds how many streams a connection has open.
const (
	requestTimeout = 30 * time.Second // for an asker that names no bound
	controlQueue   = 16               // watch controls waiting; when full the stream is read no further
)

// Server answers uplinks from a Backend.
type Server struct {
	backend api.Backend
	log     *slog.Logger
	hooks   Hooks
	ending  context.Context // ended by End
	end     context.CancelFunc
}

// Attend serves the control stream of a peer until it ends. See enroll.Roll for what is spoken on it.
type Attend func(ctx context.Context, conn Conn, peer Peer, in *bufio.Reader, out io.Writer) error

// Hooks are what a Server has others do. Without one, what it is for is refused.
type Hooks struct {
	Attend Attend // serves control streams
	Carry  Carry  // serves tunnels
}

// endGrace is how long the requests under way have to be answered once a server is to end.
const endGrace = 2 * time.Second

// New returns a server over b. At most one Hooks is used.
func New(b api.Backend, log *slog.Logger, hooks ...Hooks) *Server {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	s := &Server{backend: b, log: log}
	if len(hooks) > 0 {
		s.hooks = hooks[0]
	}
	s.ending, s.end = context.WithCancel(context.Background())
	return s
}

// End has every Serve return: no further stream is taken, watches end at once, and requests under way have a moment to be
// answered. It does not wait.
func (s *Server) End() { s.end() }

// Serve answers the streams of a connection until it or ctx ends, and waits for the answers under way.
func (s *Server) Serve(ctx context.Context, conn Conn, peer Peer) {
	peer.below = &below{}
	ctx, cancel := context.WithCancel(ctx)
	var running sync.WaitGroup
	defer running.Wait()
	defer cancel()
	taking, enough := context.WithCancel(ctx) // ends first when the server is to end
	defer enough()
	defer context.AfterFunc(s.ending, enough)()
	for {
		st, err := conn.AcceptStream(taking)
		if err != nil {
			break
		}
		running.Go(func() { s.stream(ctx, taking, conn, st, peer) })
	}
	if s.ending.Err() == nil {
		return
	}
	late := time.AfterFunc(endGrace, cancel)
	defer late.Stop()
	running.Wait()
}

// stream answers one stream; a watch, or a control stream, until taking ends.
func (s *Server) stream(ctx, taking context.Context, conn Conn, st Stream, peer Peer) {
	stop := context.AfterFunc(ctx, func() { st.Abort(codeDone) })
	defer stop()
	r := bufio.NewReaderSize(st, 512) // most requests are small, and there are many connections
	frame, err := wire.ReadFrame(r)
	if err != nil {
		st.Abort(codeProtocol)
		return
	}
	q, err := wire.DecodeUplinkRequest(frame)
	if err == nil && conn.Early() && !harmlessTwice(q) && conn.Confirm(taking) != nil {
		st.Abort(codeDone)
		return
	}
	if err == nil && q.Verb == wire.UplinkWatch {
		defer context.AfterFunc(taking, func() { st.Abort(codeDone) })()
		err = s.watch(taking, st, r, q, peer)
	} else if err == nil && q.Verb == wire.UplinkNode && s.hooks.Attend != nil {
		defer context.AfterFunc(taking, func() { st.Abort(codeDone) })()
		err = s.hooks.Attend(taking, conn, peer, r, st)
	} else if err == nil && q.Verb == wire.UplinkTunnel && s.hooks.Carry != nil {
		defer context.AfterFunc(taking, func() { st.Abort(codeDone) })()
		err = s.hooks.Carry(taking, conn, peer, carried{st, r}, peer.below.enter)
	} else if err == nil {
		err = s.answer(ctx, st, q, peer)
	} else {
		err = wire.WriteFrame(st, wire.AppendError(nil, malformed(err)))
	}
	if err == nil {
		err = st.Close()
	}
	if err != nil {
		st.Abort(codeDone)
		s.log.Debug("uplink stream ended early", "peer", peer.Node, "error", err)
		return
	}
	st.CancelRead(codeDone) // so that the stream gives its place back; Abort would take back the answer
}

// harmlessTwice reports whether a request may be served that somebody else may have sent again: reads, watches, and commands
// with a place in an origin's queue, which are applied once however often they come.
func harmlessTwice(q wire.UplinkRequest) bool {
	switch q.Verb {
	case wire.UplinkRead, wire.UplinkWatch:
		return true
	case wire.UplinkDo:
		c, err := wire.DecodeCommand(q.Body)
		return err == nil && c.ID.Seq.N > 0
	}
	return false
}

func malformed(err error) *kv.Error {
	if errors.Is(err, wire.ErrNewer) {
		return &kv.Error{Code: kv.Unsupported, Detail: err.Error() + ": upgrade the members first"}
	}
	return &kv.Error{Code: kv.Invalid, Detail: err.Error()}
}

// answer serves a request that has one answer.
func (s *Server) answer(ctx context.Context, st Stream, q wire.UplinkRequest, peer Peer) error {
	timeout := q.Timeout
	if timeout <= 0 {
		timeout = requestTimeout
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	if !q.Trace.IsZero() {
		ctx = kv.WithTrace(ctx, q.Trace)
	}
	switch q.Verb {
	case wire.UplinkDo:
		return wire.WriteFrame(st, s.do(ctx, q.Body, peer))
	case wire.UplinkRead:
		return s.reply(st, s.read(ctx, q.Body, peer))
	case wire.UplinkNode, wire.UplinkTunnel:
		return s.reply(st, wire.AppendError(nil, kv.Errorf(kv.Unsupported, "this node serves no control streams, and carries no tunnels")))
	default:
		return s.reply(st, s.hello(ctx))
	}
}

// reply writes an answer that may be too large for a frame.
func (s *Server) reply(st Stream, b []byte) error {
	if len(b) > wire.FrameMax {
		b = wire.AppendError(nil, kv.Errorf(kv.TooLarge, "the answer has %d bytes, an uplink carries %d: ask for fewer keys at a time", len(b), wire.FrameMax))
	}
	return wire.WriteFrame(st, b)
}

func (s *Server) do(ctx context.Context, body []byte, peer Peer) []byte {
	c, err := wire.DecodeCommand(body)
	if err != nil {
		return wire.AppendOutcome(nil, kv.Outcome{Err: malformed(err)})
	}
	c = as(c, peer)
	if err := commandInScope(c, peer); err != nil {
		return wire.AppendOutcome(nil, kv.Outcome{Err: err})
	}
	if err := s.leasesInScope(ctx, c, peer); err != nil {
		return wire.AppendOutcome(nil, kv.Outcome{Err: err})
	}
	res, err := s.backend.Do(ctx, c)
	if err != nil {
		return wire.AppendOutcome(nil, kv.Outcome{Err: asError(err)})
	}
	if err := answersInScope(c.Ops, res.Ops, peer); err != nil {
		return wire.AppendOutcome(nil, kv.Outcome{Err: err})
	}
	return wire.AppendOutcome(nil, kv.Outcome{Result: res})
}

// as puts the peer's name on the command and on those in a batch.
func as(c kv.Command, peer Peer) kv.Command {
	c.By.Node = peer.speaker(c.By.Node)
	if e, ok := each(c); ok {
		for i := range e.Commands {
			e.Commands[i].By.Node = c.By.Node
		}
	}
	return c
}

func each(c kv.Command) (kv.Each, bool) {
	if len(c.Ops) != 1 {
		return kv.Each{}, false
	}
	e, ok := c.Ops[0].(kv.Each)
	return e, ok
}

func asError(err error) *kv.Error {
	if e, ok := errors.AsType[*kv.Error](err); ok {
		return e
	}
	return &kv.Error{Code: kv.Internal, Detail: err.Error()}
}

func (s *Server) read(ctx context.Context, body []byte, peer Peer) []byte {
	q, err := wire.DecodeQuery(body)
	if err != nil {
		return wire.AppendError(nil, malformed(err))
	}
	q.By.Node = peer.speaker(q.By.Node)
	if err := opsInScope(q.Ops, peer); err != nil {
		return wire.AppendError(nil, err)
	}
	page, err := s.backend.Read(ctx, q)
	if err != nil {
		return wire.AppendError(nil, asError(err))
	}
	if err := answersInScope(q.Ops, page.Ops, peer); err != nil {
		return wire.AppendError(nil, err)
	}
	return wire.AppendPage(nil, page)
}

// hello says who answers. It needs no quorum, so that a proxy can tell a cut-off member from a dead one.
func (s *Server) hello(ctx context.Context) []byte {
	page, err := s.backend.Read(ctx, kv.Query{MaxAge: kv.Unlimited, LocalOnly: true})
	if err != nil {
		return wire.AppendError(nil, asError(err))
	}
	return wire.AppendPage(nil, page)
}

// watch serves one stream of batches, with the controls that come up meanwhile.
func (s *Server) watch(ctx context.Context, st Stream, r *bufio.Reader, q wire.UplinkRequest, peer Peer) error {
	spec, err := wire.DecodeWatchSpec(q.Body)
	var fault *kv.Error
	if err != nil {
		fault = malformed(err)
	} else {
		fault = watchesInScope(spec.Watches, peer)
	}
	if fault != nil {
		return wire.WriteFrame(st, wire.AppendError(nil, fault))
	}
	ctx, cancel := context.WithCancel(ctx)
	controls := make(chan kv.WatchControl, controlQueue)
	spec.By.Node, spec.Control = peer.speaker(spec.By.Node), controls
	var mu sync.Mutex // one frame at a time
	write := func(b []byte) error {
		mu.Lock()
		defer mu.Unlock()
		return wire.WriteFrame(st, b)
	}
	var reading sync.WaitGroup
	defer reading.Wait()
	defer st.CancelRead(codeDone) // wakes the reader of controls
	defer cancel()
	reading.Go(func() {
		if s.controls(ctx, r, controls, write, peer) {
			close(controls)
		} else {
			cancel()
		}
	})
	return s.batches(ctx, spec, write)
}

// controls passes what the peer asks for to the watch; it reports whether the peer has said that no more will come,
// rather than gone away. A round takes a read index first; rounds are asked for one at a time, so taking it here delays
// nothing but the next control. What fails it answers itself.
func (s *Server) controls(ctx context.Context, r *bufio.Reader, out chan<- kv.WatchControl, write func([]byte) error, peer Peer) (ended bool) {
	for {
		frame, err := wire.ReadFrame(r)
		if err != nil {
			return errors.Is(err, io.EOF)
		}
		c, err := wire.DecodeWatchControl(frame)
		if err != nil {
			s.log.Warn("uplink watch ended: its control cannot be read", "peer", peer.Node, "error", err)
			return false
		}
		if c.Add != nil {
			if fault := watchesInScope([]kv.Watch{*c.Add}, peer); fault != nil {
				if write(wire.AppendBatch(nil, kv.Batch{WatchID: c.Add.ID, Canceled: true, Err: fault})) != nil {
					return false
				}
				continue
			}
		}
		if c.Progress {
			rctx, cancel := context.WithTimeout(ctx, requestTimeout)
			_, err := s.backend.Read(rctx, kv.Query{By: kv.By{Node: peer.Node}})
			cancel()
			if err != nil {
				if write(wire.AppendBatch(nil, kv.Batch{WatchID: kv.WatchAll, Progress: true, Err: asError(err)})) != nil {
					return false
				}
				continue
			}
		}
		if !send(ctx, out, c) {
			return false
		}
	}
}

func send[T any](ctx context.Context, c chan<- T, v T) bool {
	select {
	case c <- v:
		return true
	case <-ctx.Done():
		return false
	}
}

// batches writes the watch down the stream.
func (s *Server) batches(ctx context.Context, spec kv.WatchSpec, write func([]byte) error) error {
	for b, err := range s.backend.Watch(ctx, spec) {
		if err != nil {
			return write(wire.AppendAnyError(nil, err))
		}
		if err := write(wire.AppendBatch(nil, b)); err != nil {
			return fmt.Errorf("write a batch: %w", err)
		}
	}
	return nil
}
