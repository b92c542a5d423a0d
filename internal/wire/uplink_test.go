package wire

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"testing"
	"time"

	"holdfast/kv"
)

func TestUplinkRequestsComeBack(t *testing.T) {
	for _, q := range []UplinkRequest{
		{Verb: UplinkDo, Timeout: 1500 * time.Millisecond, Body: AppendCommand(nil, kv.Command{})},
		{Verb: UplinkWatch},
		{Verb: UplinkRead, Timeout: time.Second, Trace: kv.Trace{1, 24: 1}, Body: []byte("x")},
	} {
		got, err := DecodeUplinkRequest(q.Append(nil))
		if err != nil || got.Verb != q.Verb || got.Trace != q.Trace || got.Timeout != q.Timeout || !bytes.Equal(got.Body, q.Body) {
			t.Errorf("got %+v, %v, want %+v", got, err, q)
		}
	}
	short, _ := DecodeUplinkRequest(UplinkRequest{Verb: UplinkRead, Timeout: 1}.Append(nil))
	if short.Timeout != time.Millisecond {
		t.Errorf("a nanosecond travels as %v: 0 would mean for ever", short.Timeout)
	}
	if _, err := DecodeUplinkRequest(append([]byte{byte(UplinkDo) | tracedVerb}, make([]byte, 24)...)); !errors.Is(err, ErrMalformed) {
		t.Errorf("a trace that is cut short: %v", err)
	}
	if _, err := DecodeUplinkRequest([]byte{99, 0}); !errors.Is(err, ErrNewer) {
		t.Errorf("unknown verb: %v", err)
	}
}

func TestFramesComeBackAndEndCleanly(t *testing.T) {
	var b bytes.Buffer
	frames := [][]byte{{}, []byte("one"), bytes.Repeat([]byte("x"), 200<<10)}
	for _, f := range frames {
		if err := WriteFrame(&b, f); err != nil {
			t.Fatal(err)
		}
	}
	r := bufio.NewReader(&b)
	for i, want := range frames {
		got, err := ReadFrame(r)
		if err != nil || !bytes.Equal(got, want) {
			t.Fatalf("frame %d: %d bytes, %v, want %d", i, len(got), err, len(want))
		}
	}
	if _, err := ReadFrame(r); !errors.Is(err, io.EOF) {
		t.Errorf("after the last: %v, want EOF", err)
	}
	if err := WriteFrame(io.Discard, make([]byte, FrameMax+1)); err == nil {
		t.Error("a frame beyond the limit was written")
	}
}

func FuzzUplink(f *testing.F) {
	f.Add(UplinkRequest{Verb: UplinkDo, Timeout: time.Second, Body: []byte("x")}.Append(nil))
	f.Add([]byte{0xff, 0xff, 0xff, 0x07, 1})
	f.Fuzz(func(t *testing.T, b []byte) {
		if q, err := DecodeUplinkRequest(b); err == nil {
			again, err := DecodeUplinkRequest(q.Append(nil))
			if err != nil || again.Verb != q.Verb || again.Trace != q.Trace || again.Timeout != q.Timeout || !bytes.Equal(again.Body, q.Body) {
				t.Fatalf("%+v came back as %+v, %v", q, again, err)
			}
		}
		r := bufio.NewReader(bytes.NewReader(b))
		for {
			if _, err := ReadFrame(r); err != nil {
				break
			}
		}
	})
}
