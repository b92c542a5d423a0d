package raftnet

import (
	"context"
	"io"
	"time"
)

// Conn is a connection to a member, proven to be that node. All methods may be called concurrently.
type Conn interface {
	// Done is closed when the connection has ended.
	Done() <-chan struct{}
	// LossState tells whether the link is lost (something was sent, nothing comes back) and gives a channel that is
	// closed when that changes.
	LossState() (lost bool, changed <-chan struct{})
	// Sample is the round trip that was measured last, 0 for none, and a count of packets that grows with each that came, by
	// which a new one is told from an old one.
	Sample() (rtt time.Duration, packets uint64)
	// OpenUni and AcceptUni are for streams that only the opener writes.
	OpenUni(ctx context.Context) (Outgoing, error)
	AcceptUni(ctx context.Context) (Incoming, error)
	// Open and Accept are for streams that both sides write.
	Open(ctx context.Context) (Stream, error)
	Accept(ctx context.Context) (Stream, error)
	// Close ends the connection and all that waits on it. The reason is shown to the peer.
	Close(reason string)
}

// Outgoing is a stream, or half of one, that this side writes. Its Write may block; it ends with the connection.
type Outgoing interface {
	io.WriteCloser
	SetWriteDeadline(time.Time) error
	CancelWrite(code uint64)
	SetUrgency(urgency int) // 0 goes first, 7 last
}

// Incoming is a stream, or half of one, that the peer writes.
type Incoming interface {
	io.Reader
	SetReadDeadline(time.Time) error
	CancelRead(code uint64)
}

// Stream is a stream that both sides write.
type Stream interface {
	Outgoing
	Incoming
}

// Codes with which a stream is given up.
const (
	codeDone    = 0 // no longer needed
	codeRefused = 1 // what came on it was not acceptable
)
