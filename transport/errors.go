package transport

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"unicode/utf8"

	"github.com/quic-go/quic-go"
)

// What may be wrong with a link, beside RefusedError and CloseError. Compare with errors.Is.
var (
	ErrClosed        = errors.New("endpoint is not running")                                // of this node
	ErrUnreachable   = errors.New("no answer from the peer")                                // handshake or idle time ran out
	ErrRestarted     = errors.New("the peer no longer knows the connection (it restarted)") // stateless reset
	ErrBusy          = errors.New("the peer refused the connection: at its limit of connections, or stopping")
	ErrProtocol      = errors.New("the peer does not speak the protocol (another version, or a proxy: --join=proxy:host:port is for being behind one)")
	ErrNotJoined     = errors.New("this node has no certificate (join the cluster first)")
	ErrTooLarge      = errors.New("larger than the limit")
	ErrStreamAborted = errors.New("stream aborted")
)

// CloseCode is why an application closed a connection. Codes from CodeUser on belong to the packages above.
type CloseCode uint64

// The codes of this package.
const (
	CodeDone       CloseCode = 0 // nothing more to say
	CodeShutdown   CloseCode = 1 // the node is stopping
	CodeDuplicate  CloseCode = 2 // another connection of the same pair is kept
	CodeSuperseded CloseCode = 3 // a newer connection of the same pair replaced it
	CodeFull       CloseCode = 4 // no place left
	CodeTooSlow    CloseCode = 5 // a time limit of the protocol ran out
	CodeNotAllowed CloseCode = 6 // the peer may no longer be connected; see Endpoint.Recheck

	CodeUser CloseCode = 0x100
)

// maxReason bounds the text in a close: it must fit one packet of 1200 bytes, or it would not be sent at all.
const maxReason = 512

// CloseError is the end of a connection that one side closed on purpose.
type CloseError struct {
	Remote bool
	Code   CloseCode
	Reason string
}

func (e *CloseError) Error() string {
	who := "closed here"
	if e.Remote {
		who = "closed by the peer"
	}
	if e.Reason == "" {
		return who + " (code " + strconv.FormatUint(uint64(e.Code), 10) + ")"
	}
	return who + ": " + e.Reason
}

// StreamError is the end of a stream that one side aborted. The code belongs to the protocol above.
type StreamError struct {
	Remote bool
	Code   uint64
}

func (e *StreamError) Error() string {
	who := "here"
	if e.Remote {
		who = "by the peer"
	}
	return fmt.Sprintf("stream aborted %s (code %d)", who, e.Code)
}

// Unwrap makes errors.Is(err, ErrStreamAborted) work.
func (e *StreamError) Unwrap() error { return ErrStreamAborted }

const (
	alertCertificateRequired = 116 // RFC 8446: the client showed none
	alertNoProtocol          = 120 // RFC 7301: no ALPN in common
)

// explain turns an error of quic-go into one of ours: what happened and, where there is one, what to do.
func explain(err error) error {
	if err == nil {
		return nil
	}
	if e, ok := errors.AsType[*RefusedError](err); ok {
		return e
	}
	if e, ok := errors.AsType[*errWayEnded](err); ok {
		return fmt.Errorf("%w: %w", ErrUnreachable, e)
	}
	if e, ok := errors.AsType[*quic.ApplicationError](err); ok {
		return &CloseError{Remote: e.Remote, Code: CloseCode(e.ErrorCode), Reason: e.ErrorMessage}
	}
	if e, ok := errors.AsType[*quic.StreamError](err); ok {
		return &StreamError{Remote: e.Remote, Code: uint64(e.ErrorCode)}
	}
	if e, ok := errors.AsType[*quic.TransportError](err); ok {
		return explainTransport(e)
	}
	if _, ok := errors.AsType[*quic.StatelessResetError](err); ok {
		return fmt.Errorf("%w: %w", ErrRestarted, err)
	}
	_, idle := errors.AsType[*quic.IdleTimeoutError](err)
	_, handshake := errors.AsType[*quic.HandshakeTimeoutError](err)
	if idle || handshake {
		return fmt.Errorf("%w: %w", ErrUnreachable, err)
	}
	if errors.Is(err, quic.ErrTransportClosed) || errors.Is(err, quic.ErrServerClosed) {
		return fmt.Errorf("%w: %w", ErrClosed, err)
	}
	return err
}

func explainTransport(e *quic.TransportError) error {
	if !e.Remote {
		return e
	}
	if e.ErrorCode == quic.ConnectionRefused {
		return fmt.Errorf("%w: %w", ErrBusy, e)
	}
	alert := uint64(e.ErrorCode) - 0x100 // RFC 9001 section 4.8; wraps around below
	switch {
	case alert > refusalBase && alert <= 0xff:
		return &RefusedError{Why: Refusal(alert - refusalBase), Remote: true}
	case alert == alertCertificateRequired:
		return &RefusedError{Why: NoCertificate, Remote: true}
	case alert == alertNoProtocol:
		return fmt.Errorf("%w: %w", ErrProtocol, e)
	}
	return e
}

// closeCause is why a connection that has ended did so.
func closeCause(ctx context.Context) error {
	err := explain(context.Cause(ctx))
	if errors.Is(err, context.Canceled) {
		return net.ErrClosed
	}
	return err
}

// clipReason cuts a close reason to what fits, at a rune.
func clipReason(s string) string {
	if len(s) <= maxReason {
		return s
	}
	s = s[:maxReason]
	for s != "" && !utf8.ValidString(s) {
		s = s[:len(s)-1]
	}
	return s
}
