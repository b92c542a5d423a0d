// Package uplink is what proxies speak to members: commands, queries and watches of package kv over the streams of one
// connection. internal/wire has the format; the other end is package client.
//
// The server trusts the connection's word for who the peer is, and lets it touch the keys in the scope of its
// certificate only.
package uplink

import (
	"context"
	"errors"
	"io"
	"log/slog"
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
)

// Server answers uplinks from a Backend.
type Server struct {
	backend api.Backend
	log     *slog.Logger
	hooks   Hooks
	ending  context.Context // ended by End
	end     context.CancelFunc
}

// Attend begins to serve the control stream of a peer, and returns what goes on with that until it ends. See enroll.Roll for
// what is spoken on it.
type Attend func(ctx context.Context, conn Conn, peer Peer, in *wire.Patient, out io.Writer) (listen func() error, err error)

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
func (s *Server) Serve(ctx context.Context, conn Conn, peer Peer) { s.Line(ctx, conn, &peer).Serve() }

// Line is the first half of Serve, which does not wait: the Serve of what it returns has to be called. It is apart because the
// less is on the stack of who waits the less memory that takes.
//
//go:noinline
func (s *Server) Line(ctx context.Context, conn Conn, peer *Peer) *Line {
	l := &Line{server: s, conn: conn, peer: *peer}
	l.peer.below = &below{}
	l.ctx, l.cancel = context.WithCancel(ctx)
	l.taking, l.enough = context.WithCancel(l.ctx)
	l.free = context.AfterFunc(s.ending, l.enough)
	return l
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
