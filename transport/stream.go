package transport

import (
	"context"
	"time"

	"github.com/quic-go/quic-go"
)

// Stream is a bidirectional stream. Read and Write may be called concurrently with each other, not with themselves.
// Close ends the writing half only; the reading half ends with the peer's Close or with CancelRead, and one of the two
// must happen, or the stream keeps its place among the open ones.
type Stream struct {
	SendStream
	ReceiveStream
}

// bindingLabel is what Binding is derived under, on connections and in tunnels.
const bindingLabel = "EXPORTER-holdfast-binding"

// Binding is a secret of the two ends of this connection and of no other one: what is signed with it cannot be shown
// again elsewhere (RFC 5705, RFC 9266).
func (s *Stream) Binding() []byte {
	state := s.SendStream.conn.qc.ConnectionState().TLS
	b, err := state.ExportKeyingMaterial(bindingLabel, nil, 32)
	if err != nil {
		return nil // which no proof is verified with
	}
	return b
}

// SetDeadline bounds reads and writes; zero is none. Running out is os.ErrDeadlineExceeded.
func (s *Stream) SetDeadline(t time.Time) error {
	if err := s.SetReadDeadline(t); err != nil {
		return err
	}
	return s.SetWriteDeadline(t)
}

// Abort gives up both halves with a code of the protocol above. After both have ended it does nothing.
func (s *Stream) Abort(code uint64) {
	s.CancelRead(code)
	s.CancelWrite(code)
}

// SendStream is a stream, or half of one, that this side writes.
type SendStream struct {
	conn *Conn
	s    sendHalf
}

type sendHalf interface {
	Write([]byte) (int, error)
	Close() error
	CancelWrite(quic.StreamErrorCode)
	SetWriteDeadline(time.Time) error
	SetPriority(urgency int8, incremental bool)
	Context() context.Context
}

// Write blocks while the peer's window or the link allows no more. Written is not received: only an answer proves that.
func (s *SendStream) Write(p []byte) (int, error) {
	s.conn.monitor.attempt()
	n, err := s.s.Write(p)
	return n, explain(err)
}

// Close ends the stream after what was written; the peer reads io.EOF.
func (s *SendStream) Close() error {
	s.conn.monitor.attempt()
	return explain(s.s.Close())
}

// given is closed when the peer wants no more of what is written, or all is written.
func (s *SendStream) given() <-chan struct{} { return s.s.Context().Done() }

// CancelWrite gives up on delivering what was written. The peer's reads fail with StreamError.
func (s *SendStream) CancelWrite(code uint64) { s.s.CancelWrite(quic.StreamErrorCode(code)) }

// SetWriteDeadline bounds writes; zero is none.
func (s *SendStream) SetWriteDeadline(t time.Time) error { return s.s.SetWriteDeadline(t) }

// SetUrgency orders the streams of one connection that have data to send: 0 goes first, 7 last; streams begin at 3.
// Streams of the same urgency take turns.
func (s *SendStream) SetUrgency(urgency int) {
	s.s.SetPriority(int8(min(max(urgency, 0), 7)), true)
}

// ReceiveStream is a stream, or half of one, that the peer writes.
type ReceiveStream struct {
	conn *Conn
	r    receiveHalf
}

type receiveHalf interface {
	Read([]byte) (int, error)
	CancelRead(quic.StreamErrorCode)
	SetReadDeadline(time.Time) error
}

// Read reads what the peer wrote; io.EOF after its Close.
func (s *ReceiveStream) Read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	return n, explain(err)
}

// CancelRead asks the peer to stop; its writes fail with StreamError.
func (s *ReceiveStream) CancelRead(code uint64) { s.r.CancelRead(quic.StreamErrorCode(code)) }

// SetReadDeadline bounds reads; zero is none.
func (s *ReceiveStream) SetReadDeadline(t time.Time) error { return s.r.SetReadDeadline(t) }
