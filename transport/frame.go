package transport

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// A frame is a message on a stream: its length as a varint of Go's encoding/binary in its shortest form, then that many
// bytes. An empty frame is a message too.

// frameStep is how much a reader grows its buffer by before the bytes are there: a peer that claims a long frame makes
// nobody allocate it.
const frameStep = 64 << 10

// FrameWriter writes frames, each in one Write, so that a small one leaves in one packet. Not for concurrent use.
type FrameWriter struct {
	w   io.Writer
	max int
	buf []byte
}

// NewFrameWriter returns a writer of frames of at most maxBytes.
func NewFrameWriter(w io.Writer, maxBytes int) *FrameWriter { return &FrameWriter{w: w, max: maxBytes} }

// WriteFrame writes one frame of the parts joined. A longer one is ErrTooLarge and nothing is written.
func (f *FrameWriter) WriteFrame(parts ...[]byte) error {
	n := 0
	for _, p := range parts {
		n += len(p)
	}
	if n > f.max {
		return fmt.Errorf("write a frame of %d bytes: %w of %d", n, ErrTooLarge, f.max)
	}
	f.buf = binary.AppendUvarint(f.buf[:0], uint64(n))
	for _, p := range parts {
		f.buf = append(f.buf, p...)
	}
	_, err := f.w.Write(f.buf)
	if cap(f.buf) > frameStep {
		f.buf = nil // one long frame does not stay in memory for the life of a stream
	}
	return err
}

// FrameReader reads frames. Not for concurrent use.
type FrameReader struct {
	r   *byteReader
	max int
	buf []byte
}

// NewFrameReader returns a reader that refuses frames of more than maxBytes. It reads no byte beyond a frame's end.
func NewFrameReader(r io.Reader, maxBytes int) *FrameReader {
	return &FrameReader{r: &byteReader{r: r}, max: maxBytes}
}

// ReadFrame returns the next frame, valid until the next call. A stream that ends between frames is io.EOF, one that
// ends within is io.ErrUnexpectedEOF. After any error the stream is of no more use.
func (f *FrameReader) ReadFrame() ([]byte, error) {
	n, err := f.r.uvarint()
	if err != nil {
		return nil, err
	}
	if n > uint64(f.max) {
		return nil, fmt.Errorf("read a frame of %d bytes: %w of %d", n, ErrTooLarge, f.max)
	}
	if cap(f.buf) > frameStep && n <= frameStep {
		f.buf = nil
	}
	f.buf = f.buf[:0]
	for left := int(n); left > 0; {
		step := min(left, frameStep)
		start := len(f.buf)
		f.buf = append(f.buf, make([]byte, step)...)
		if _, err := io.ReadFull(f.r.r, f.buf[start:]); err != nil {
			return nil, unexpected(err)
		}
		left -= step
	}
	return f.buf, nil
}

var errFrameLength = errors.New("length of a frame is not a varint in its shortest form")

// byteReader reads a varint byte by byte: a bufio.Reader would read past the frame and cost memory for each stream.
type byteReader struct {
	r   io.Reader
	one [1]byte
}

func (b *byteReader) uvarint() (uint64, error) {
	var x uint64
	for i := range binary.MaxVarintLen64 {
		if _, err := io.ReadFull(b.r, b.one[:]); err != nil {
			if i > 0 {
				err = unexpected(err)
			}
			return 0, err
		}
		c := b.one[0]
		if i == binary.MaxVarintLen64-1 && c > 1 {
			return 0, errFrameLength
		}
		x |= uint64(c&0x7f) << (7 * i)
		if c < 0x80 {
			if i > 0 && c == 0 {
				return 0, errFrameLength
			}
			return x, nil
		}
	}
	return 0, errFrameLength
}

func unexpected(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}
