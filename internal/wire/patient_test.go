package wire

import (
	"bytes"
	"errors"
	"io"
	"testing"
	"testing/iotest"
)

// TestPatientReadsWhatABufferWould: frames of all sizes, waited for or not, however they arrive, and the end after them.
func TestPatientReadsWhatABufferWould(t *testing.T) {
	frames := [][]byte{nil, {1}, bytes.Repeat([]byte{2}, patientSize-1), bytes.Repeat([]byte{3}, patientSize), bytes.Repeat([]byte{4}, 5*patientSize), {}, {5, 6}}
	var all bytes.Buffer
	for _, f := range frames {
		if err := WriteFrame(&all, f); err != nil {
			t.Fatal(err)
		}
	}
	for name, arrive := range map[string]func(io.Reader) io.Reader{
		"at once": func(r io.Reader) io.Reader { return r }, "byte by byte": iotest.OneByteReader, "with the end": iotest.DataErrReader, "in halves": iotest.HalfReader,
	} {
		for _, waits := range []int{0, 1, 2} {
			p := NewPatient(arrive(bytes.NewReader(all.Bytes())))
			for i, want := range frames {
				for range waits {
					if err := p.Await(); err != nil {
						t.Fatalf("%s: wait %d: %v", name, i, err)
					}
				}
				if got, err := ReadFrame(p); err != nil || !bytes.Equal(got, want) {
					t.Fatalf("%s, waited for %d times: frame %d: %d bytes, %v; want %d", name, waits, i, len(got), err, len(want))
				}
			}
			if err := p.Await(); !errors.Is(err, io.EOF) {
				t.Errorf("%s: wait after all: %v", name, err)
			}
			if _, err := ReadFrame(p); !errors.Is(err, io.EOF) {
				t.Errorf("%s: read after all: %v", name, err)
			}
		}
	}
}

// TestPatientHasNoBufferWhileItWaits: that is what it is for.
func TestPatientHasNoBufferWhileItWaits(t *testing.T) {
	r, w := io.Pipe()
	p := NewPatient(r)
	for range 2 {
		done := make(chan error, 1)
		go func() { done <- p.Await() }()
		go func() { _, _ = w.Write([]byte{1, 7}) }()
		if err := <-done; err != nil || p.held != nil {
			t.Fatalf("%v, buffer %v", err, p.held)
		}
		if got, err := ReadFrame(p); err != nil || !bytes.Equal(got, []byte{7}) {
			t.Fatalf("%v, %v", got, err)
		}
		if p.held == nil {
			t.Fatal("no buffer while it reads")
		}
	}
	gone := errors.New("gone")
	_ = w.CloseWithError(gone)
	if err := p.Await(); !errors.Is(err, gone) || p.held != nil {
		t.Fatalf("%v, buffer %v", err, p.held)
	}
}
