package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"time"

	"holdfast/kv"
)

// UplinkVerb is what a proxy asks of a member over the uplink. Each request has a stream of its own. Both directions
// carry frames, a uint of length and that many bytes. The first frame up is a request: its verb, how long the asker
// waits (a uint of milliseconds, 0 for no bound), and a message. What comes down is
//
//	UplinkDo     a command up, one outcome down
//	UplinkRead   a query up, one page or error down
//	UplinkWatch  a watch up, then watch controls; batches down, an error last if there is one
//	UplinkHello  nothing up, one page without ops down: who answers, and at which revision
//	UplinkNode   nothing up; then frames of JSON both ways for as long as the connection lives, see enroll.Roll
//	UplinkTunnel nothing up; then both ways what a node behind the asker and a member have to say, see transport.Tunnel
//
// A request of a traced call has tracedVerb added to its verb, and its kv.Trace before the wait. Members older than that
// refuse it; they are upgraded before proxies trace.
//
// A control that asks for progress is a round: the member first takes a read index, so that the revision in its answer
// was the cluster's newest after the asking began.
type UplinkVerb byte

// The verbs. Append only.
const (
	UplinkDo UplinkVerb = 1 + iota
	UplinkRead
	UplinkWatch
	UplinkHello
	UplinkNode
	UplinkTunnel
)

// tracedVerb marks a request that carries a kv.Trace.
const tracedVerb = 0x80

// FrameMax bounds a frame: an answer of many keys is the largest; askers read in pages well below it.
const FrameMax = 16 << 20

// errFrame says that the other end does not keep to the framing.
var errFrame = errors.New("frame beyond the limit")

// UplinkRequest is the first frame of a stream.
type UplinkRequest struct {
	Verb    UplinkVerb
	Trace   kv.Trace
	Timeout time.Duration // rounded down to a millisecond when sent, but not to 0
	Body    []byte
}

// Append appends the encoding of q to dst.
func (q UplinkRequest) Append(dst []byte) []byte {
	ms := uint64(max(0, q.Timeout/time.Millisecond))
	if q.Timeout > 0 && ms == 0 {
		ms = 1
	}
	if q.Trace.IsZero() {
		dst = append(dst, byte(q.Verb))
	} else {
		dst = append(append(dst, byte(q.Verb)|tracedVerb), q.Trace[:]...)
	}
	return append(appendUint(dst, ms), q.Body...)
}

// DecodeUplinkRequest is the inverse of Append; Body aliases b. An unknown verb is ErrNewer.
func DecodeUplinkRequest(b []byte) (q UplinkRequest, err error) {
	if len(b) == 0 {
		return q, fmt.Errorf("decode request: %w: it is empty", ErrMalformed)
	}
	if q.Verb = UplinkVerb(b[0] &^ tracedVerb); q.Verb == 0 || q.Verb > UplinkTunnel {
		return q, fmt.Errorf("decode request: %w: unknown verb %d", ErrNewer, b[0])
	}
	traced := b[0]&tracedVerb != 0
	b = b[1:]
	if traced {
		if len(b) < len(q.Trace) {
			return q, fmt.Errorf("decode request: %w: its trace is cut short", ErrMalformed)
		}
		b = b[copy(q.Trace[:], b):]
		if q.Trace.IsZero() {
			return q, fmt.Errorf("decode request: %w: its trace is empty", ErrMalformed)
		}
	}
	ms, n := binary.Uvarint(b)
	if n <= 0 || ms > uint64(24*time.Hour/time.Millisecond) {
		return q, fmt.Errorf("decode request: %w: bad timeout", ErrMalformed)
	}
	q.Timeout = time.Duration(ms) * time.Millisecond
	q.Body = b[n:]
	return q, nil
}

// IsError reports whether b is an encoded kv.Error.
func IsError(b []byte) bool { return len(b) > 1 && kind(b[1]) == kindError }

// AppendAnyError encodes err: a kv.Error as it is, another as Internal with its text.
func AppendAnyError(dst []byte, err error) []byte {
	e, ok := errors.AsType[*kv.Error](err)
	if !ok {
		e = &kv.Error{Code: kv.Internal, Detail: err.Error()}
	}
	return AppendError(dst, e)
}

// WriteFrame writes b as one frame, in one Write.
func WriteFrame(w io.Writer, b []byte) error {
	if len(b) > FrameMax {
		return fmt.Errorf("%w: %d of %d bytes", errFrame, len(b), FrameMax)
	}
	frame := make([]byte, 0, len(b)+binary.MaxVarintLen32)
	frame = append(binary.AppendUvarint(frame, uint64(len(b))), b...)
	_, err := w.Write(frame)
	return err
}

// ReadFrame reads one frame into memory of its own. The end of the stream in front of a frame is io.EOF. What is
// allocated grows with what has arrived.
func ReadFrame(r ByteReader) ([]byte, error) {
	n, err := binary.ReadUvarint(r)
	if err != nil {
		return nil, err
	}
	if n > FrameMax {
		return nil, fmt.Errorf("%w: %d of %d bytes", errFrame, n, FrameMax)
	}
	const step = 64 << 10
	b := make([]byte, 0, min(n, step))
	for uint64(len(b)) < n {
		part := int(min(n-uint64(len(b)), step))
		b = append(b, make([]byte, part)...)
		if _, err := io.ReadFull(r, b[len(b)-part:]); err != nil {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return nil, err
		}
	}
	return b, nil
}
