package wire

import (
	"bufio"
	"io"
	"sync"
)

// ByteReader is what frames are read from: a bufio.Reader, or a Patient.
type ByteReader interface {
	io.Reader
	io.ByteReader
}

// patientSize is enough for most of what is asked.
const patientSize = 512

// Patient reads with a buffer that it does not have while it waits: a member has ten thousand connections, and two streams of
// each bring nothing for hours. One goroutine at a time may use it.
type Patient struct {
	from  io.Reader
	held  *bufio.Reader // nil: nothing is read ahead, but for first
	first [1]byte
	ahead bool // first is to be read
}

// NewPatient reads from from.
func NewPatient(from io.Reader) *Patient { return &Patient{from: from} }

// Await returns when there is something to read, or the error that a Read would have. It waits with little on the stack.
func (p *Patient) Await() error {
	if p.held != nil {
		if p.held.Buffered() > 0 {
			return nil
		}
		p.held.Reset(nil)
		buffers.Put(p.held)
		p.held = nil
	}
	for !p.ahead {
		n, err := p.from.Read(p.first[:])
		if p.ahead = n > 0; err != nil && n == 0 {
			return err
		}
	}
	return nil
}

// Read is a bufio.Reader's.
func (p *Patient) Read(b []byte) (int, error) { return p.buffer().Read(b) }

// ReadByte is a bufio.Reader's.
func (p *Patient) ReadByte() (byte, error) { return p.buffer().ReadByte() }

func (p *Patient) buffer() *bufio.Reader {
	if p.held == nil {
		p.held = buffers.Get().(*bufio.Reader)
		p.held.Reset((*unread)(p))
	}
	return p.held
}

var buffers = sync.Pool{New: func() any { return bufio.NewReaderSize(nil, patientSize) }}

// unread is what a Patient's buffer is filled from.
type unread Patient

func (u *unread) Read(b []byte) (int, error) {
	if u.ahead && len(b) > 0 {
		b[0], u.ahead = u.first[0], false
		return 1, nil
	}
	return u.from.Read(b)
}
