package transport

import (
	"bytes"
	"errors"
	"io"
	"testing"
	"testing/iotest"
)

func TestFramesArriveAsWritten(t *testing.T) {
	var buf bytes.Buffer
	w := NewFrameWriter(&buf, 1<<20)
	msgs := [][]byte{{}, []byte("a"), bytes.Repeat([]byte("b"), 127), bytes.Repeat([]byte("c"), 128), bytes.Repeat([]byte("d"), 1<<20), []byte("e")}
	for _, m := range msgs {
		if err := w.WriteFrame(m[:len(m)/2], m[len(m)/2:]); err != nil {
			t.Fatal(err)
		}
	}
	r := NewFrameReader(iotest.HalfReader(&buf), 1<<20)
	for i, m := range msgs {
		got, err := r.ReadFrame()
		if err != nil || !bytes.Equal(got, m) {
			t.Fatalf("frame %d: %d bytes, %v, want %d", i, len(got), err, len(m))
		}
	}
	if _, err := r.ReadFrame(); !errors.Is(err, io.EOF) {
		t.Errorf("at the end: %v, want EOF", err)
	}
}

func TestFrameBeyondTheLimitIsRefused(t *testing.T) {
	var buf bytes.Buffer
	if err := NewFrameWriter(&buf, 10).WriteFrame(make([]byte, 6), make([]byte, 5)); !errors.Is(err, ErrTooLarge) || buf.Len() != 0 {
		t.Errorf("wrote %d bytes, %v, want ErrTooLarge and nothing", buf.Len(), err)
	}
	if err := NewFrameWriter(&buf, 11).WriteFrame(make([]byte, 11)); err != nil {
		t.Fatal(err)
	}
	if _, err := NewFrameReader(&buf, 10).ReadFrame(); !errors.Is(err, ErrTooLarge) {
		t.Errorf("read: %v, want ErrTooLarge", err)
	}
}

func TestFrameClaimingMuchAllocatesLittle(t *testing.T) {
	claim := []byte{0xff, 0xff, 0xff, 0x7f, 'x'} // 256 MiB less one, of which one byte comes
	allocs := testing.Benchmark(func(b *testing.B) {
		for range b.N {
			if _, err := NewFrameReader(bytes.NewReader(claim), 1<<30).ReadFrame(); !errors.Is(err, io.ErrUnexpectedEOF) {
				b.Fatal(err)
			}
		}
	}).AllocedBytesPerOp()
	if allocs > 4*frameStep {
		t.Errorf("%d bytes allocated for a claim", allocs)
	}
}

func FuzzReadFrame(f *testing.F) {
	f.Add([]byte{0})
	f.Add([]byte{3, 'a', 'b', 'c', 0x80, 0x01})
	f.Add([]byte{0x80, 0x00})
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02})
	f.Fuzz(func(t *testing.T, data []byte) {
		const limit = 1000
		in := bytes.NewReader(data)
		r := NewFrameReader(in, limit)
		var out bytes.Buffer
		w := NewFrameWriter(&out, limit)
		for {
			used := len(data) - in.Len()
			msg, err := r.ReadFrame()
			if err != nil {
				if !bytes.Equal(out.Bytes(), data[:used]) {
					t.Fatalf("%x read as frames that are %x", data[:used], out.Bytes())
				}
				return
			}
			if err := w.WriteFrame(msg); err != nil {
				t.Fatal(err)
			}
		}
	})
}
